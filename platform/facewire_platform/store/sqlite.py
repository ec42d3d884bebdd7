"""The store on SQLite: how its file is opened and locked, and its statements."""

import contextlib
import fcntl
import functools
import itertools
import json
import os
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import peewee

from facewire.errors import StoreError
from facewire_platform.store.dialect import Dialect, Statements
from facewire_platform.store.drivers import Mode, store_errors
from facewire_platform.store.file_rights import check_rights, denied, is_there, is_writable, no_database
from facewire_platform.store.objects import check_objects
from facewire_platform.store.rows import WIDTH, InsertRows
from facewire_platform.store.schema import (
    DEVICE_COLUMNS,
    NEW_STREAM,
    ROW_COLUMNS,
    SCHEMA,
    STREAM_COLUMNS,
    DeviceRow,
    EventRow,
    StreamRow,
    check_schema,
    columns_of,
)
from facewire_system.folders import missing_folder
from facewire_system.owners import leave_to_owner

APPLICATION_ID: Final = 0x46575046  # "FWPF"
#: Wait this long for another process that migrates or deletes, s; a worker cannot stop meanwhile.
BUSY_TIMEOUT: Final = 5.0
#: Events in one INSERT; the largest size that fits is used. One statement for many rows takes two
#: thirds of the time of one for each, and releases Python's lock for longer. Only a few sizes,
#: because each is a statement to prepare.
INSERTED_AT_ONCE: Final = (1_000, 100, 10, 1)
_SETTINGS: Final = (
    ("journal_mode", "wal"),
    ("synchronous", "full"),
    ("cache_size", -65_536),
    # Pages of 16 KiB, so the WAL grows to 64 MB. A page that every group writes to is then copied
    # into the database once for many groups.
    ("wal_autocheckpoint", 4_000),
)


class SqliteDialect(Dialect):
    """A file. While it is open, SQLite keeps two more beside it (-wal, -shm)."""

    rows = InsertRows

    def __init__(self, path: Path) -> None:
        self.location = path
        self._path = path

    @property
    def url(self) -> str:
        return f"sqlite:///{self._path}"

    @property
    def exists(self) -> bool:
        return is_there(self._path)

    @property
    def folder(self) -> Path:
        return self._path.absolute().parent

    def file_id(self) -> tuple[int, int] | None:
        try:
            stat = self._path.stat()
        except OSError:
            return None
        return stat.st_dev, stat.st_ino

    def open(self, mode: Mode) -> peewee.SqliteDatabase:
        path = self._path
        if self.exists and path.is_dir():
            raise StoreError(f"{path}: is a directory")
        if mode != "create" and not self.exists:
            raise no_database(path)
        check_rights(path, write=mode != "read")
        uri = f"{path.absolute().as_uri()}?mode={_sqlite_mode(path, mode)}"
        if mode == "create":
            self._create()
        database = peewee.SqliteDatabase(uri, uri=True, timeout=BUSY_TIMEOUT, autoconnect=False)
        try:
            with store_errors(path):
                database.connect()
                _prepare(database, path, mode)
        except BaseException:
            database.close()
            raise
        return database

    def _create(self) -> None:
        try:
            with contextlib.suppress(FileExistsError):
                create_private(self._path)
        except OSError as exc:
            raise StoreError(f"{self._path}: {exc.strerror}") from exc

    def worker_lock(self) -> contextlib.AbstractContextManager[None]:
        _refuse_foreign(self._path)
        return worker_lock(self._path)

    def interrupt(self, database: Any) -> Callable[[], None]:
        interrupt: Callable[[], None] = database.connection().interrupt
        return interrupt

    def statements(self, database: Any) -> "SqliteStatements":
        return SqliteStatements(database)

    def transaction(self, database: Any) -> contextlib.AbstractContextManager[Any]:
        # SQLite cannot turn a reader into a writer after another has written: take the lock first.
        begun: contextlib.AbstractContextManager[Any] = database.transaction("IMMEDIATE")
        return begun

    schema_transaction = transaction

    def snapshot(self, database: Any) -> contextlib.AbstractContextManager[Any]:
        begun: contextlib.AbstractContextManager[Any] = database.transaction()
        return begun

    def run(self, database: Any, sql: str, values: Sequence[Any] = ()) -> Any:
        return database.execute_sql(sql, tuple(values))

    spans = (
        "(SELECT json_extract(value, '$[0]') AS stream, json_extract(value, '$[1]') AS after, json_extract(value, '$[2]') AS last "
        "FROM json_each(?))"
    )

    def column_folder(self, database: Any) -> Path:
        path = self._path.resolve()
        return path.with_name(path.name + "-columns")

    @contextlib.contextmanager
    def columns_lock(self, database: Any, *, wait: bool) -> Iterator[bool]:
        path = self._path.resolve()
        lock = os.open(path.with_name(path.name + "-copier"), os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o644)
        try:
            yield _is_ours(lock, wait=wait)
        finally:
            os.close(lock)

    def mark_schema(self, database: Any) -> None:
        database.pragma("application_id", APPLICATION_ID)
        database.pragma("user_version", SCHEMA)

    def copy_aside(self) -> Path:
        copy = first_free(self._path, f"before-{SCHEMA}")
        create_private(copy)
        with contextlib.closing(sqlite3.connect(self._path)) as old, contextlib.closing(sqlite3.connect(copy)) as new:
            old.backup(new)
        return copy

    def wait_for_locks(self, database: Any, seconds: float) -> None:
        database.pragma("busy_timeout", int(seconds * 1000))

    def start_erasing(self, database: Any) -> None:
        database.pragma("secure_delete", 1)

    def finish_erasing(self, database: Any) -> None:
        database.execute_sql("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()


def _sqlite_mode(path: Path, mode: Mode) -> str:
    if mode != "read":
        return "rwc" if mode == "create" else "rw"
    if not is_writable(path):
        # A -shm of ours would lock out the worker, which is another user.
        if not path.with_name(path.name + "-shm").exists():
            raise StoreError(f"{path}: a user who may not write it can read it only while its worker runs")
        return "ro&readonly_shm=1"
    # Without a WAL, SQLite creates one even for reading, and only a connection that may write
    # removes it.
    return "ro" if path.with_name(path.name + "-wal").exists() else "rw"


def _prepare(database: peewee.SqliteDatabase, path: Path, mode: Mode) -> None:
    database.pragma("trusted_schema", 0)
    application = database.pragma("application_id")
    if mode == "create" and not application and not database.get_tables():
        database.pragma("page_size", 16_384)  # before the first page is written
    elif application != APPLICATION_ID:
        raise _foreign(path)
    else:
        schema = database.pragma("user_version")
        check_schema(path, schema, migrating=mode == "migrate")
        check_objects(path, database.execute_sql, schema)
    settings = (("query_only", 1),) if mode == "read" else _SETTINGS
    for name, value in settings:
        database.pragma(name, value)


def _refuse_foreign(path: Path) -> None:
    """Refuse a file whose header is another program's, before a lock file appears beside it.

    No process of ours has it open, because there is no lock file yet: to close a file here would
    drop SQLite's locks on it (https://www.sqlite.org/howtocorrupt.html section 2.2).
    """
    try:
        if not path.is_file() or path.with_name(path.name + "-worker").exists():
            return
        with path.open("rb") as file:
            header = file.read(100)
    except OSError:
        return  # it has an error of its own
    if header.strip(b"\0") and not header.startswith(b"SQLite format 3\0"):
        raise StoreError(f"{path}: file is not a database")
    if int.from_bytes(header[68:72], "big") not in {0, APPLICATION_ID}:
        raise _foreign(path)


def _foreign(path: Path) -> StoreError:
    return StoreError(f"{path}: is not the database of a facewire platform")


@contextlib.contextmanager
def worker_lock(path: Path) -> Iterator[None]:
    """Lock the file beside the database that says that a worker has it.

    The system releases it when this process ends, however it ends.

    Raises:
        StoreError: another process has locked it.
    """
    if is_there(path) and path.is_dir():
        raise StoreError(f"{path}: is a directory")
    if problem := missing_folder(path):
        raise StoreError(f"{path}: {problem}")
    path = path.resolve()
    beside = path.with_name(path.name + "-worker")
    try:
        # Other system users cannot open it, so they cannot hold the lock. It must not be a link.
        lock = os.open(beside, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except OSError as exc:
        raise denied(beside, exc) from exc
    try:
        leave_to_owner(lock, path.parent)
        _lock(lock, path)
        yield
    finally:
        os.close(lock)


def _lock(file: int, path: Path) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as exc:
        raise StoreError(f"{path}: another worker has this database; SQLite takes one at a time, PostgreSQL any number") from exc
    except OSError as exc:
        raise StoreError(f"{path}-worker: cannot be locked: {exc.strerror}. SQLite needs a disk with file locks") from exc


def create_private(path: Path) -> None:
    """Create an empty file that only its owner and group can read, whatever the umask.

    SQLite gives the files beside it (-wal, -shm, -journal) the same mode.

    Raises:
        FileExistsError: it exists.
    """
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o640))


def _is_ours(file: int, *, wait: bool) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def first_free(path: Path, suffix: str) -> Path:
    """`PATH.SUFFIX-N`, with the first N that no file has."""
    return next(free for number in itertools.count(1) if not (free := path.with_name(f"{path.name}.{suffix}-{number}")).exists())


class SqliteStatements(Statements):
    """A transaction has the whole database to itself, so nothing needs a lock."""

    def __init__(self, database: peewee.SqliteDatabase) -> None:
        self._db = database

    def streams(self, keys: Sequence[tuple[str, str]]) -> Iterator[tuple[Any, ...]]:
        streams = self._all(_SELECT_STREAMS, keys)
        missing = set(keys) - {(row[1], row[2]) for row in streams}
        if missing:
            self._db.cursor().executemany(_INSERT_STREAM, [(*key, *NEW_STREAM) for key in sorted(missing)])
            streams += self._all(_SELECT_STREAMS, list(missing))
        return iter(streams)

    def devices(self, names: Sequence[str]) -> Iterator[tuple[Any, ...]]:
        return iter(self._all(_SELECT_DEVICES, names))

    def contents(self, ranges: Sequence[tuple[int, int, int]]) -> Iterator[tuple[int, int, int, str, float]]:
        return iter(self._all(_SELECT_CONTENTS, ranges))

    def _all(self, sql: str, wanted: Sequence[Any]) -> list[tuple[Any, ...]]:
        """All in one statement: each one releases Python's lock and waits to get it back."""
        rows: list[tuple[Any, ...]] = self._db.execute_sql(sql, (json.dumps(wanted),)).fetchall() if wanted else []
        return rows

    def insert_events(self, group: Sequence[Any]) -> None:
        start = 0
        for count in INSERTED_AT_ONCE:
            size = count * WIDTH
            while len(group) - start >= size:
                self._db.execute_sql(_insert_events(count), group[start : start + size])
                start += size

    def update_streams(self, rows: Sequence[tuple[Any, ...]]) -> None:
        self._db.cursor().executemany(_UPDATE_STREAM, [(*row[3:], row[0]) for row in rows])

    def write_devices(self, rows: Sequence[tuple[Any, ...]]) -> None:
        self._db.cursor().executemany(_UPSERT_DEVICE, rows)


def _sql(query: Any) -> str:
    sql: str = query.bind(peewee.SqliteDatabase(None)).sql()[0]
    return sql


# Compiled once: to compile a query costs more than to run it.
_INSERT_STREAM: Final = _sql(StreamRow.insert(dict.fromkeys(STREAM_COLUMNS[1:])))
_UPDATE_STREAM: Final = _sql(StreamRow.update(dict.fromkeys(STREAM_COLUMNS[3:])).where(StreamRow.id == 0))
_UPSERT_DEVICE: Final = _sql(
    DeviceRow.insert(dict.fromkeys(DEVICE_COLUMNS)).on_conflict(conflict_target=[DeviceRow.device], preserve=DEVICE_COLUMNS[1:])
)
# CROSS JOIN makes SQLite read `wanted` first and find the rest by key, whatever its statistics say.
_SELECT_STREAMS: Final = (
    f"SELECT {columns_of(STREAM_COLUMNS, 's')} FROM json_each(?) AS wanted CROSS JOIN stream AS s "
    "ON s.device = json_extract(wanted.value, '$[0]') AND s.epoch = json_extract(wanted.value, '$[1]')"
)
_SELECT_DEVICES: Final = (
    f"SELECT {columns_of(DEVICE_COLUMNS, 'd')} FROM json_each(?) AS wanted CROSS JOIN device AS d ON d.device = wanted.value"
)
_SELECT_CONTENTS: Final = (
    "SELECT e.stream, e.seq, e.timestamp, e.identity_id, e.score FROM json_each(?) AS span CROSS JOIN event AS e "
    "ON e.stream = json_extract(span.value, '$[0]') AND e.seq BETWEEN json_extract(span.value, '$[1]') AND json_extract(span.value, '$[2]')"
)


@functools.cache
def _insert_events(count: int) -> str:
    return _sql(EventRow.insert_many([(None,) * WIDTH] * count, ROW_COLUMNS))
