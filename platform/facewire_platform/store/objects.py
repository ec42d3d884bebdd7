"""Whether a SQLite database has the tables and indexes of a platform, and nothing else."""

import contextlib
import functools
import logging
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import peewee
from playhouse.migrations import Runner

from facewire.errors import StoreError
from facewire.objects import DEFINITIONS, Ask, Object, foreign_object, read_objects
from facewire_platform.store.schema import SCHEMA, make_tables

#: Most definitions that are remembered as good: one for each database and schema of a process.
MOST_GOOD: Final = 64
_good: Final = set[tuple[int, tuple[Any, ...]]]()

MIGRATIONS: Final = Path(__file__).with_name("migrations")


def check_objects(path: Path, ask: Ask, schema: int) -> None:
    """Refuse a database with objects that are not ours. Nothing of it runs.

    Args:
        path: its file, for the message.
        ask: runs a statement.
        schema: its number.

    Raises:
        StoreError: it names the object.
    """
    try:
        # All follows from the definitions. Those that were found good are not looked at again: the
        # web server opens the database for each question.
        definitions = schema, tuple(map(tuple, ask(DEFINITIONS)))
        reason = None if definitions in _good else _reason(tuple(read_objects(ask)), schema)
    except (peewee.PeeweeException, sqlite3.Error) as exc:
        raise StoreError(f"{path}: its schema cannot be read: {exc}") from exc
    if reason is not None:
        raise StoreError(f"{path}: {reason}; take a database that facewire made, such as a backup")
    if len(_good) < MOST_GOOD:
        _good.add(definitions)


def _reason(found: tuple[Object, ...], schema: int) -> str | None:
    """Why these objects are not those of a schema; compared after they were migrated, empty."""
    odd = next((one for one in found if one.type not in {"table", "index"} or one.sql.upper().startswith("CREATE VIRTUAL")), None)
    if odd is not None:
        return f"has a {odd.type[:20]} {odd.name[:80]!a}, which facewire did not make"
    return foreign_object(found if schema == SCHEMA else _migrated(found, schema), _ours())


def _migrated(found: tuple[Object, ...], schema: int) -> list[Object]:
    with _in_memory() as database:
        database.pragma("trusted_schema", 0)
        for one in sorted(found, key=lambda one: one.type, reverse=True):  # tables before their indexes
            if one.sql and not one.name.startswith("sqlite_"):
                database.execute_sql(one.sql)
        runner = Runner(database, str(MIGRATIONS))
        applied = [one.name for one in runner.status() if int(one.name.partition("_")[0]) <= schema]
        if applied:
            runner.fake(max(applied))
        runner.up()
        return read_objects(database.execute_sql)


@functools.cache
def _ours() -> tuple[Object, ...]:
    with _in_memory() as database:
        make_tables(database)
        Runner(database, str(MIGRATIONS)).fake()
        return tuple(read_objects(database.execute_sql))


@contextlib.contextmanager
def _in_memory() -> Iterator[Any]:
    """A database to compare with. The log does not say that it was migrated."""
    log = logging.getLogger("peewee.migrations")
    level = log.level
    log.setLevel(logging.WARNING)
    database = peewee.SqliteDatabase(":memory:")
    try:
        database.connect()
        yield database
    finally:
        database.close()
        log.setLevel(level)
