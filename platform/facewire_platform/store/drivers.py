"""The two database drivers: the errors they raise, and which of these are outages."""

import contextlib
import logging
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias

import peewee

from facewire.errors import StoreError
from facewire.masking import without_password, without_secrets_of

# At DEBUG, peewee logs each statement with its values, names of people among them.
logging.getLogger("peewee").setLevel(logging.INFO)

#: Where a database is: the file of SQLite, or the postgresql:// URL.
Location: TypeAlias = Path | str

#: The purpose of a connection: `read` writes nothing, not even to recover after a crash; `create`
#: also opens an empty database, and `migrate` one of an older schema.
Mode: TypeAlias = Literal["read", "write", "create", "migrate"]

#: peewee imports it if it is installed.
psycopg: Final[Any] = getattr(peewee, "psycopg", None)
#: The errors of the drivers, wrapped by peewee or not.
DATABASE_ERRORS: Final[tuple[type[Exception], ...]] = (
    peewee.PeeweeException,
    sqlite3.Error,
    *([psycopg.Error] if psycopg else []),
)
#: Primary result codes of SQLite after which the same may work later: busy, locked, no memory,
#: read-only, interrupted, I/O error, full, cannot open, locking protocol
#: (https://www.sqlite.org/rescode.html).
_SQLITE_OUTAGES: Final = frozenset((5, 6, 7, 8, 9, 10, 13, 14, 15))
#: The same for PostgreSQL, by class of SQLSTATE: connection, authorization, rollback (deadlock,
#: serialization), resources, lock not available, operator intervention, system error; and a
#: server that only reads, such as a standby during a failover
#: (https://www.postgresql.org/docs/15/errcodes-appendix.html).
_POSTGRESQL_OUTAGES: Final = ("08", "28", "40", "53", "55P03", "57", "58", "25006", "3D000")


def shown(location: Location) -> str:
    """The database as it may be shown: without the secrets of its URL."""
    return without_password(str(location))


@contextlib.contextmanager
def store_errors(location: Location) -> Iterator[None]:
    """Turn the errors of the database into a `StoreError`."""
    try:
        yield
    except DATABASE_ERRORS as exc:
        raise StoreError(failure(location, exc)) from exc


def failure(location: Location, exc: Exception) -> str:
    """A driver's error about a database, in one line, without the secrets of its URL."""
    text = without_secrets_of(str(location), str(exc))
    return f"{shown(location)}: {' '.join(line.strip() for line in text.strip().splitlines())}"


def is_outage(exc: BaseException | None) -> bool:
    """Whether an error comes from the state of the database, not from the statement."""
    if exc is None:
        return False
    cause = getattr(exc, "orig", exc)  # peewee's
    if getattr(cause, "sqlite_errorcode", 0) & 0xFF in _SQLITE_OUTAGES or _is_postgresql_outage(cause):
        return True
    # If SQLite has rolled back by itself, as on a full disk, our rollback fails: look at the error
    # before it.
    return is_outage(exc.__context__)


def _is_postgresql_outage(exc: BaseException) -> bool:
    if psycopg is None or not isinstance(exc, psycopg.Error):
        return False
    # A lost connection has no SQLSTATE.
    state: str | None = exc.sqlstate
    return state.startswith(_POSTGRESQL_OUTAGES) if state else isinstance(exc, psycopg.OperationalError)
