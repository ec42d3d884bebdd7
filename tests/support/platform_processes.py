"""Functions that the tests of the platform's store run in processes of their own."""

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Final

from facewire_platform.store.migrate import migrate
from facewire_platform.store.writer import open_store

#: A store of facewire 0.1: two events, one in a gap, one in quarantine, one above the watermark.
SCHEMA_1: Final = Path(__file__).parents[1] / "data" / "schema-1.sql"


def make_database(path: Path) -> None:
    open_store(path).close()


def make_old_database(path: Path) -> None:
    with closing(sqlite3.connect(path)) as db:
        db.executescript(SCHEMA_1.read_text())


def migrate_database(path: Path) -> None:
    migrate(path)
