"""Opening a store's database: checked to be ours and whole, in WAL mode with synchronous=FULL."""

import contextlib
import functools
import logging
import re
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import peewee

from facewire.errors import StoreError
from facewire.objects import Object, foreign_object, read_objects
from facewire_device.identity import new_id
from facewire_device.ring import Ring
from facewire_device.schema import LEDGER_TABLES, RingState, make_tables
from facewire_device.state import COLUMNS, State, read_state, state_crc
from facewire_device.store_file import APPLICATION_ID, FOREIGN, DamagedError, check_file, file_id, has_store, real_path
from facewire_device.store_rights import check_rights, create_file

log = logging.getLogger(__name__)
# At DEBUG, peewee logs each statement with its values, which include names of people.
logging.getLogger("peewee").setLevel(logging.INFO)

DEFAULT_CAPACITY: Final = 10_000
#: How long to wait for another process's transaction, s.
BUSY_TIMEOUT: Final = 30.0

_SCHEMA: Final = 2
#: Only a bridge's store has a ledger.
_OPTIONAL: Final = frozenset(("ledger", "shared", "note"))

#: Files that this process has open, by device and inode. Only SQLite may open them: if we opened
#: and closed one ourselves, that would drop SQLite's locks on it
#: (https://www.sqlite.org/howtocorrupt.html section 2.2), and others might delete the WAL.
_open_files: Final[Counter[tuple[int, int] | None]] = Counter()
_opening_lock: Final = threading.Lock()


def open_database(path: Path, *, create: bool, check: bool) -> peewee.SqliteDatabase:
    """Open a store's database. Only the calling thread may use it; `close_database` closes it.

    Args:
        path: the file.
        create: whether to make a missing store.
        check: whether to check the whole file for damage.

    Raises:
        StoreError: the store is missing, foreign, or of a newer schema.
        DamagedError: the file is a store, but damaged.
    """
    with _opening_lock:
        database = _open(path, create=create, check=check)
        _open_files.update([file_id(database.database)])
        return database


def refuse_foreign(path: Path) -> None:
    """Refuse a file that is no store, before anything is made beside it. Raises `StoreError`."""
    real = real_path(path)
    with _opening_lock, contextlib.suppress(DamagedError):
        check_file(real)
        if not _open_files[file_id(str(real))]:
            has_store(real)


def close_database(database: peewee.SqliteDatabase, opened: tuple[int, int] | None) -> None:
    """Close it. `opened` is the `file_id` that it had when it was opened. May be called twice."""
    with _opening_lock:
        if database.close():
            _open_files.subtract([opened])


def _open(path: Path, *, create: bool, check: bool) -> peewee.SqliteDatabase:
    real = real_path(path)
    check_file(real)
    check_rights(real)
    exists = _open_files[file_id(str(real))] > 0 or has_store(real)
    if not exists and not create:
        raise StoreError(f"{path}: there is no store")
    if not exists:
        create_file(real)
    # An absolute path is always a file: SQLite takes the name ":memory:" for a database in memory.
    database = peewee.SqliteDatabase(str(path.absolute()), timeout=BUSY_TIMEOUT, autoconnect=False)
    try:
        with store_errors(path), _damage_errors(real):
            database.connect()
            # A damaged row may mark a blob as text. `crc` must find that: an error while decoding
            # the text would block every later event too.
            database.connection().text_factory = _lenient_text
            database.pragma("trusted_schema", 0)
            database.pragma("synchronous", "full")
            # Reading it rolls back what a death left half made.
            if database.pragma("page_count") == 0:
                _create(database, path, create=create)
            _switch_to_wal(database)
            _check_schema(database, real)
            _upgrade(database)
            _check_state(database, real)
            if check:
                _check_integrity(database, real)
    except BaseException:
        database.close()
        raise
    return database


def _create(database: peewee.SqliteDatabase, path: Path, *, create: bool) -> None:
    """Before WAL mode, so that the file has its identity and epoch even if it loses its WAL."""
    if not create:
        raise StoreError(f"{path}: there is no store")
    with database.transaction("IMMEDIATE"):
        if database.get_tables():  # another process was faster
            return
        epoch = new_id()
        make_tables(database)
        state = State(Ring(epoch), DEFAULT_CAPACITY)
        RingState.insert(dict(zip(COLUMNS, state.to_row(), strict=True))).bind(database).execute()
        database.pragma("application_id", APPLICATION_ID)
        database.pragma("user_version", _SCHEMA)
    log.info("new store path=%s epoch=%s", database.database, epoch)


def _switch_to_wal(database: peewee.SqliteDatabase) -> None:
    deadline = time.monotonic() + BUSY_TIMEOUT
    while not _is_wal(database):
        if time.monotonic() > deadline:
            raise StoreError(f"{database.database}: another process has held a lock for {BUSY_TIMEOUT:g} s")
        time.sleep(0.01)


def _is_wal(database: peewee.SqliteDatabase) -> bool:
    # At this step SQLite does not wait for other processes, whatever the timeout.
    try:
        return bool(database.pragma("journal_mode", "wal") == "wal")
    except peewee.OperationalError as exc:
        if "locked" not in str(exc):
            raise
        return False


def _check_schema(database: peewee.SqliteDatabase, path: Path) -> None:
    if database.pragma("application_id") != APPLICATION_ID:
        raise StoreError(f"{database.database}: {FOREIGN}")
    schema = database.pragma("user_version")
    if schema > _SCHEMA:
        raise StoreError(f"{database.database}: has schema {schema}, but this facewire only knows {_SCHEMA}: upgrade facewire")
    # Before the first statement about a table: a view in its place would run.
    if reason := foreign_object(read_objects(database.execute_sql), _our_objects(schema), _OPTIONAL):
        raise DamagedError(f"{path}: is damaged: it {reason}")


@functools.cache
def _our_objects(schema: int) -> tuple[Object, ...]:
    """The objects of a store that has a ledger."""
    database = peewee.SqliteDatabase(":memory:")
    database.connect()
    with contextlib.closing(database):
        make_tables(database)
        for statement in LEDGER_TABLES:
            database.execute_sql(statement)
        if schema == 1:
            database.execute_sql("ALTER TABLE state DROP COLUMN origins")
            database.execute_sql("ALTER TABLE state DROP COLUMN crc")
        return tuple(read_objects(database.execute_sql))


def _upgrade(database: peewee.SqliteDatabase) -> None:
    """Bring an earlier facewire's store up to date. Another process may do so at the same time."""
    if database.pragma("user_version") == _SCHEMA:
        return
    with database.transaction("IMMEDIATE"):
        if database.pragma("user_version") == _SCHEMA:
            return
        database.execute_sql("ALTER TABLE state ADD COLUMN origins TEXT NOT NULL DEFAULT ''")
        database.execute_sql("ALTER TABLE state ADD COLUMN crc BIGINT NOT NULL DEFAULT 0")
        for row in database.execute_sql(_SELECT_STATE).fetchall():
            database.execute_sql("UPDATE state SET crc = ?", (state_crc(row[:-1]),))
        database.pragma("user_version", _SCHEMA)
    log.info("store upgraded path=%s schema=%d", database.database, _SCHEMA)


def _check_state(database: peewee.SqliteDatabase, path: Path) -> None:
    row = database.execute_sql(_SELECT_STATE).fetchone()
    if row is None:
        raise DamagedError(f"{path}: is damaged: its state is missing")
    if read_state(row) is None:
        raise DamagedError(f"{path}: is damaged: its state is not what was written")


def _check_integrity(database: peewee.SqliteDatabase, path: Path) -> None:
    verdict = database.pragma("quick_check")
    if verdict != "ok":
        raise DamagedError(f"{path}: is damaged: {str(verdict).splitlines()[0]}")
    states = database.execute_sql(_CHECK_STATE).fetchall()
    if len(states) != 1:
        raise DamagedError(f"{path}: is damaged: it has {len(states)} states instead of 1")
    epoch, found, beyond, head, oldest, cursor, dropped, capacity = states[0]
    numbers_fit = 0 <= cursor <= head and dropped >= 0 and 1 <= oldest <= head + 1 <= oldest + capacity
    if not (numbers_fit and re.fullmatch("[0-9a-f]{16}", epoch)):
        raise DamagedError(f"{path}: is damaged: head {head}, oldest {oldest}, cursor {cursor} and the rest are inconsistent")
    if beyond or found != head - oldest + 1:
        raise DamagedError(f"{path}: is damaged: it holds {found} events instead of {head - oldest + 1}, and {beyond} past its head")


@contextlib.contextmanager
def _damage_errors(path: Path) -> Iterator[None]:
    """Raise errors in the file's content as `DamagedError`; not a lock, a full disk, or rights."""
    try:
        yield
    except (peewee.DatabaseError, sqlite3.DatabaseError, TypeError, ValueError) as exc:
        if isinstance(exc, peewee.OperationalError | sqlite3.OperationalError) and not _DAMAGE_MESSAGES.search(str(exc)):
            raise
        raise DamagedError(f"{path}: is damaged: {exc}") from exc


@contextlib.contextmanager
def store_errors(path: Path) -> Iterator[None]:
    """Raise errors of SQLite and peewee as `StoreError`, of a damaged file as `DamagedError`."""
    try:
        yield
    except (peewee.PeeweeException, sqlite3.Error) as exc:  # peewee does not wrap errors of a cursor
        cause = _first_cause(exc)
        if _RIGHTS_MESSAGES.search(str(cause)):
            check_rights(real_path(path))
        if getattr(cause, "sqlite_errorcode", 0) & 0xFF in _DAMAGE_CODES or _DAMAGE_MESSAGES.search(str(cause)):
            raise DamagedError(f"{path}: is damaged: {cause}") from exc
        raise StoreError(f"{path}: {cause}") from exc


def _first_cause(exc: BaseException) -> BaseException:
    """The first error: on a full disk the rollback fails too, and would hide the reason."""
    while isinstance(exc.__context__, peewee.PeeweeException | sqlite3.Error):
        exc = exc.__context__
    return exc


def _lenient_text(raw: bytes) -> str:
    return raw.decode(errors="surrogateescape")


_SELECT_STATE: Final = f"SELECT {', '.join(COLUMNS)} FROM state"
_CHECK_STATE: Final = """
    SELECT epoch, (SELECT count(*) FROM event WHERE seq BETWEEN oldest AND head), (SELECT count(*) FROM event WHERE seq > head),
        head, oldest, cursor, dropped, capacity
    FROM state
"""
#: SQLite names neither the file nor the reason.
_RIGHTS_MESSAGES: Final = re.compile("unable to open|readonly")
#: SQLITE_CORRUPT and SQLITE_NOTADB (https://www.sqlite.org/rescode.html).
_DAMAGE_CODES: Final = frozenset((11, 26))
_DAMAGE_MESSAGES: Final = re.compile("no such (table|column)|decode")
