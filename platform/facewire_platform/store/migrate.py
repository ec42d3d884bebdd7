"""Creates the tables of a new database, and brings those of an older facewire up to date.

`migrations/` has one file for each schema after the first. The table `schema_migration` lists the
migrations that were applied.
"""

import contextlib
import logging
from collections.abc import Callable
from typing import Any

from playhouse.migrations import Runner

from facewire_platform.store.database import dialect_of
from facewire_platform.store.dialect import Dialect
from facewire_platform.store.drivers import Location, shown, store_errors
from facewire_platform.store.file_rights import no_database
from facewire_platform.store.objects import MIGRATIONS
from facewire_platform.store.schema import SCHEMA, StoreRow, make_tables

log = logging.getLogger(__name__)
logging.getLogger("peewee.migrations").setLevel(logging.WARNING)  # `migrate` logs the result


def create_tables(dialect: Dialect, database: Any, identity: str) -> None:
    """Create all tables, unless the database has any.

    Args:
        dialect: the database's.
        database: open for writing.
        identity: the new store's.
    """
    with dialect.schema_transaction(database):
        if database.get_tables():
            return
        make_tables(database)
        StoreRow.insert(identity=identity).bind(database).execute()
        Runner(database, str(MIGRATIONS)).fake()
        dialect.mark_schema(database)


def migrate(location: Location, tell: Callable[[str], None] = lambda _: None) -> list[str]:
    """Bring a database up to date while no worker runs. An SQLite file is copied first.

    Other workers of PostgreSQL wait: a change of a table locks it.

    Args:
        location: the database.
        tell: called with messages for the user.

    Returns:
        The names of the applied migrations; empty if the database was up to date.

    Raises:
        StoreError: a worker has it; it is not ours; a newer facewire made it; or a migration failed
            and was rolled back.
    """
    dialect = dialect_of(location)
    if not dialect.exists:
        raise no_database(location)
    with dialect.worker_lock(), contextlib.closing(dialect.open("migrate")) as database, store_errors(location):
        runner = Runner(database, str(MIGRATIONS))
        if not any(migration.path and not migration.applied for migration in runner.status()):
            return []
        if copy := dialect.copy_aside():
            tell(f"copied to {copy}")
        with dialect.schema_transaction(database):
            applied: list[str] = runner.up()
            dialect.mark_schema(database)
    log.info("migrated database=%s to=%d", shown(location), SCHEMA)
    return applied
