"""The tables that say which events are in column files."""

from typing import Any

import peewee

from facewire_platform.store.schema import ChangedRow, CopiedRow, PartFolderRow, PartRow


def up(migrator: Any, db: Any) -> None:
    for table in (PartFolderRow, PartRow, CopiedRow, ChangedRow):
        peewee.SchemaManager(table, db).create_all(safe=False)
