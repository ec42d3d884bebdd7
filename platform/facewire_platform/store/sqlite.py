"""The store on SQLite: how its file is opened and locked, and what runs for every batch."""

import fcntl
import functools
import json
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import peewee

from facewire.errors import StoreError
from facewire_platform.store.drivers import Mode, store_errors
from facewire_platform.store.rows import WIDTH, InsertRows
from facewire_platform.store.schema import (
    DEVICE_COLUMNS,
    NEW_STREAM,
    ROW_COLUMNS,
    STREAM_COLUMNS,
    DeviceRow,
    EventRow,
    StreamRow,
    check_schema,
    columns_of,
)

APPLICATION_ID: Final = 0x46575046  # "FWPF"
#: Another process may be migrating, or deleting, s. A worker that waits cannot be told to stop.
BUSY_TIMEOUT: Final = 5.0
#: Events in one INSERT, the most that fit: one statement for many rows takes two thirds of the time of many for one, and leaves
#: Python to the reader for longer. A few sizes only, as each is a statement of its own.
INSERTED_AT_ONCE: Final = (1_000, 100, 10, 1)
_SETTINGS: Final = (
    ("journal_mode", "wal"),
    ("synchronous", "full"),
    ("cache_size", -65_536),
    # Pages of 16 KiB: the WAL grows to 64 MB. A page that every group writes to is copied into the database once for all of them.
    ("wal_autocheckpoint", 4_000),
)


def open_sqlite(path: Path, mode: Mode) -> peewee.SqliteDatabase:
    """Open the file; SQLite keeps two more beside it (-wal, -shm). See `open_database`."""
    if path.is_dir():
        raise StoreError(f"{path}: is a directory")
    if mode != "create" and not path.exists():
        raise StoreError(f"{path}: there is no database")
    database = peewee.SqliteDatabase(
        f"{path.absolute().as_uri()}?mode={_sqlite_mode(path, mode)}", uri=True, timeout=BUSY_TIMEOUT, autoconnect=False
    )
    try:
        with store_errors(path):
            database.connect()
            _prepare(database, path, mode)
    except BaseException:
        database.close()
        raise
    return database


def _sqlite_mode(path: Path, mode: Mode) -> str:
    if mode != "read":
        return "rwc" if mode == "create" else "rw"
    # Without a WAL, SQLite makes one even for reading, and only a connection that may write removes it.
    return "ro" if path.with_name(path.name + "-wal").exists() else "rw"


def _prepare(database: peewee.SqliteDatabase, path: Path, mode: Mode) -> None:
    application = database.pragma("application_id")
    if mode == "create" and not application and not database.get_tables():
        database.pragma("page_size", 16_384)  # before the first page is written
    elif application != APPLICATION_ID:
        raise StoreError(f"{path}: is not the database of a facewire platform")
    else:
        check_schema(path, database.pragma("user_version"), migrating=mode == "migrate")
    settings = (("query_only", 1),) if mode == "read" else _SETTINGS
    for name, value in settings:
        database.pragma(name, value)


def lock(path: Path) -> int:
    """Hold the file beside the database that says a worker has it.

    Returns:
        A file descriptor; the system lets go when it is closed, or when the process ends, however.

    Raises:
        StoreError: another process holds it.
    """
    path = path.resolve()
    try:
        held = os.open(path.with_name(path.name + "-worker"), os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o644)
    except OSError as exc:
        raise StoreError(f"{path}: {exc.strerror}") from exc
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as exc:
        os.close(held)
        raise StoreError(f"{path}: another worker has this database; SQLite takes one at a time, PostgreSQL any number") from exc
    return held


class SqliteStatements:
    """What runs for every group of messages. A transaction of SQLite's has the whole database to itself."""

    rows = InsertRows

    def __init__(self, database: peewee.SqliteDatabase) -> None:
        self._db = database
        self.begin: Callable[[], Any] = functools.partial(database.transaction, "IMMEDIATE")

    def streams(self, keys: Sequence[tuple[str, str]]) -> Iterator[tuple[Any, ...]]:
        """The streams of (device, epoch) as `STREAM_COLUMNS`, made where they are missing."""
        found = self._all(_SELECT_STREAMS, keys)
        missing = set(keys) - {(row[1], row[2]) for row in found}
        if missing:
            self._db.cursor().executemany(_INSERT_STREAM, [(*key, *NEW_STREAM) for key in sorted(missing)])
            found += self._all(_SELECT_STREAMS, list(missing))
        return iter(found)

    def devices(self, names: Sequence[str]) -> Iterator[tuple[Any, ...]]:
        """The devices as `DEVICE_COLUMNS`; those that are missing are left out."""
        return iter(self._all(_SELECT_DEVICES, names))

    def contents(self, ranges: Sequence[tuple[int, int, int]]) -> Iterator[tuple[int, int, int, str, float]]:
        """What is stored in ranges (stream, first, last): (stream, seq, timestamp, identity_id, score)."""
        return iter(self._all(_SELECT_CONTENTS, ranges))

    def _all(self, sql: str, wanted: Sequence[Any]) -> list[tuple[Any, ...]]:
        """All at once: every statement lets go of Python's lock and waits to have it back."""
        found: list[tuple[Any, ...]] = self._db.execute_sql(sql, (json.dumps(wanted),)).fetchall() if wanted else []
        return found

    def insert_events(self, group: Sequence[Any]) -> None:
        """Insert what `InsertRows.add_to` made of rows; none of them is there."""
        start = 0
        for count in INSERTED_AT_ONCE:
            size = count * WIDTH
            while len(group) - start >= size:
                self._db.execute_sql(_insert_events(count), group[start : start + size])
                start += size

    def update_streams(self, rows: Sequence[tuple[Any, ...]]) -> None:
        """Write streams, as `STREAM_COLUMNS`."""
        self._db.cursor().executemany(_UPDATE_STREAM, [(*row[3:], row[0]) for row in rows])

    def write_devices(self, rows: Sequence[tuple[Any, ...]]) -> None:
        """Write devices, as `DEVICE_COLUMNS`, new or not."""
        self._db.cursor().executemany(_UPSERT_DEVICE, rows)


def _sql(query: Any) -> str:
    sql: str = query.bind(peewee.SqliteDatabase(None)).sql()[0]
    return sql


# Made once by peewee: making it anew costs more than running it.
_INSERT_STREAM: Final = _sql(StreamRow.insert(dict.fromkeys(STREAM_COLUMNS[1:])))
_UPDATE_STREAM: Final = _sql(StreamRow.update(dict.fromkeys(STREAM_COLUMNS[3:])).where(StreamRow.id == 0))
_UPSERT_DEVICE: Final = _sql(
    DeviceRow.insert(dict.fromkeys(DEVICE_COLUMNS)).on_conflict(conflict_target=[DeviceRow.device], preserve=DEVICE_COLUMNS[1:])
)
# CROSS JOIN goes through what is wanted and finds the rest by key, whatever the statistics say.
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
