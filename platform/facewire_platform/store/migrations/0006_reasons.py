"""Each gap says why its events are lost; earlier gaps do not know."""

from typing import Any

import peewee


def up(migrator: Any, _db: Any) -> None:
    migrator.migrate(migrator.add_column("gap", "reason", peewee.TextField(null=True)))
