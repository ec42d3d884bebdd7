"""Makes the tables of a new database, and brings those of an older facewire up to date.

`migrations/` has one file for each schema after the first; the table `schema_migration` has the names of those applied.
"""

import contextlib
import logging
import os
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import peewee
from playhouse.migrations import Runner

from facewire.errors import StoreError
from facewire_platform.store import postgresql, sqlite
from facewire_platform.store.database import open_database
from facewire_platform.store.drivers import Location, shown, store_errors
from facewire_platform.store.schema import SCHEMA, TABLES, StoreRow

log = logging.getLogger(__name__)
logging.getLogger("peewee.migrations").setLevel(logging.WARNING)  # we tell it ourselves

_FOLDER: Final = Path(__file__).with_name("migrations")


def create_tables(database: peewee.Database, identity: str) -> None:
    """Make the tables where there are none, all of them or none.

    Args:
        database: open for writing.
        identity: of the new store.
    """
    with _alone(database), database.bind_ctx(TABLES):
        if database.get_tables():
            return
        database.create_tables(TABLES)
        StoreRow.create(identity=identity)
        Runner(database, str(_FOLDER)).fake()
        if isinstance(database, peewee.SqliteDatabase):
            database.pragma("application_id", sqlite.APPLICATION_ID)
            database.pragma("user_version", SCHEMA)


def migrate(location: Location, tell: Callable[[str], None] = lambda _: None) -> list[str]:
    """Bring a database up to date while no worker runs; the file of SQLite is copied before.

    Args:
        location: the database.
        tell: called with what is going on, for people.

    Returns:
        The names of the migrations that were applied; none if it was up to date.

    Raises:
        StoreError: a worker has it, it is not ours, or of a newer facewire; or a migration failed, and is undone.
    """
    with _held(location), contextlib.closing(open_database(location, "migrate")) as database, store_errors(location):
        runner = Runner(database, str(_FOLDER))
        pending = [found.name for found in runner.status() if found.path and not found.applied]
        if not pending:
            return []
        if isinstance(location, Path):
            tell(f"copied to {_copy(location)}")
        with _alone(database):
            applied: list[str] = runner.up()
            if isinstance(database, peewee.SqliteDatabase):
                database.pragma("user_version", SCHEMA)
    log.info("migrated database=%s to=%d", shown(location), SCHEMA)
    return applied


@contextlib.contextmanager
def _held(location: Location) -> Iterator[None]:
    """SQLite's worker is kept out by its lock file, PostgreSQL's by the locks that the change of a table takes."""
    if isinstance(location, str):
        yield
        return
    if not location.exists():
        raise StoreError(f"{location}: there is no database")
    lock = sqlite.lock(location)
    try:
        yield
    finally:
        os.close(lock)


@contextlib.contextmanager
def _alone(database: Any) -> Iterator[None]:
    """One transaction, that no other process which makes or changes tables runs beside."""
    if isinstance(database, peewee.SqliteDatabase):
        with database.transaction("IMMEDIATE"):
            yield
        return
    with database.transaction():
        database.execute_sql("SELECT pg_advisory_xact_lock(%s)", (postgresql.SCHEMA_LOCK,))
        yield


def _copy(path: Path) -> Path:
    """A copy of the file as it is now, beside it, not over one of before."""
    number = 1
    while (copy := path.with_name(f"{path.name}.before-{SCHEMA}-{number}")).exists():
        number += 1
    with contextlib.closing(sqlite3.connect(path)) as old, contextlib.closing(sqlite3.connect(copy)) as new:
        old.backup(new)
    return copy
