"""The store on PostgreSQL: how it is opened, and its statements.

A worker that writes to a stream locks its row (`SELECT … FOR UPDATE`) until it commits. So several
workers may store messages of the same device at the same time: a stream that one has read stays as
it was, and it can copy events straight into their table, because no other can insert them.
"""

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import peewee

from facewire.errors import StoreError
from facewire_platform.store.dialect import Dialect, Statements
from facewire_platform.store.drivers import Mode, psycopg, shown, store_errors
from facewire_platform.store.rows import CopyRows, escape, unescape
from facewire_platform.store.schema import DEVICE_COLUMNS, NEW_STREAM, STREAM_COLUMNS, DeviceRow, StreamRow, check_schema, columns_of

#: These notice a server that has silently gone. A URL may set others.
_CONNECTION: Final = {
    "connect_timeout": "10",
    "keepalives_idle": "10",
    "keepalives_interval": "5",
    "keepalives_count": "3",
    "tcp_user_timeout": "20000",
    "application_name": "facewire",
}
#: All is found by a key. The statistics of a growing table mislead.
_BY_KEY: Final = ("SET enable_seqscan = off", "SET enable_hashjoin = off", "SET enable_mergejoin = off")
_SETTINGS: Final = {
    "read": ("SET default_transaction_read_only = on",),
    "write": (
        # An ack promises that its events are durable. A stricter setting of the server stays.
        "SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') = 'off'",
        "SET lock_timeout = '10s'",
        *_BY_KEY,
    ),
}
#: The advisory lock under which tables are created and changed: "FWPF".
_SCHEMA_LOCK: Final = 0x46575046
#: The advisory lock of the process that changes column files: "FWPC".
_COLUMNS_LOCK: Final = 0x46575043


class PostgresqlDialect(Dialect):
    """A server. Each writer locks only the streams and devices that it writes to."""

    rows = CopyRows

    def __init__(self, url: str) -> None:
        self.location = url
        self._url = url

    @property
    def url(self) -> str:
        return shown(self._url)

    def open(self, mode: Mode) -> peewee.PostgresqlDatabase:
        if psycopg is None:
            raise StoreError(f"{self.url}: PostgreSQL needs psycopg: pip install 'facewire[postgres]'")
        parameters: dict[str, Any] = _CONNECTION | _read_url(self._url)
        with store_errors(self._url):
            database = peewee.PostgresqlDatabase(parameters.pop("dbname", ""), prefer_psycopg3=True, autoconnect=False, **parameters)
        try:
            with store_errors(self._url):
                database.connect()
                for setting in _SETTINGS["read" if mode == "read" else "write"]:
                    database.execute_sql(setting)
                _check(database, self._url, mode)
        except BaseException:
            database.close()
            raise
        return database

    def interrupt(self, database: Any) -> Callable[[], None]:
        interrupt: Callable[[], None] = database.connection().cancel
        return interrupt

    def statements(self, database: Any) -> "PostgresqlStatements":
        return PostgresqlStatements(database)

    @contextlib.contextmanager
    def snapshot(self, database: Any) -> Iterator[None]:
        with database.transaction():
            database.execute_sql("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
            for setting in _BY_KEY:
                database.execute_sql(setting.replace("SET", "SET LOCAL"))
            yield

    def run(self, database: Any, sql: str, values: Sequence[Any] = ()) -> Any:
        return database.execute_sql(sql.replace("CROSS JOIN", "JOIN").replace("?", "%s"), tuple(values))

    spans = (
        "(SELECT (span->>0)::bigint AS stream, (span->>1)::bigint AS after, (span->>2)::bigint AS last "
        "FROM json_array_elements(?::json) AS span)"
    )

    def column_folder(self, database: Any) -> Path:
        state = os.environ.get("STATE_DIRECTORY", "").partition(":")[0]  # systemd's
        data = Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share") / "facewire"
        identity: str = database.execute_sql("SELECT identity FROM store").fetchone()[0]
        return (Path(state) if state else data) / f"columns-{identity}"

    @contextlib.contextmanager
    def columns_lock(self, database: Any, *, wait: bool) -> Iterator[bool]:
        call = "pg_advisory_lock" if wait else "pg_try_advisory_lock"
        database.execute_sql("SET lock_timeout = 0")
        ours = database.execute_sql(f"SELECT {call}(%s)", (_COLUMNS_LOCK,)).fetchone()[0] is not False
        try:
            yield ours
        finally:
            if ours and database.is_connection_usable():
                database.execute_sql("SELECT pg_advisory_unlock(%s)", (_COLUMNS_LOCK,))

    @contextlib.contextmanager
    def schema_transaction(self, database: Any) -> Iterator[None]:
        with database.transaction():
            database.execute_sql("SELECT pg_advisory_xact_lock(%s)", (_SCHEMA_LOCK,))
            yield

    def ordered(self, text: Any) -> Any:
        return text.collate('"C"')

    def to_stored(self, value: Any) -> Any:
        return escape(value)

    def from_stored(self, value: Any) -> Any:
        return unescape(value)

    def rows_from_stored(self, rows: list[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
        return [tuple(map(unescape, row)) for row in rows]


def _read_url(url: str) -> dict[str, Any]:
    from psycopg.conninfo import conninfo_to_dict

    try:
        return {key: value for key, value in conninfo_to_dict(url).items() if value is not None}
    except psycopg.Error as exc:
        # It quotes the piece that it cannot read, which may be a piece of a password.
        reason = "is no URL that libpq can read; a % in it is %25, a & is %26" if "***" in shown(url) else str(exc).strip()
        raise StoreError(f"{shown(url)}: {reason}") from None


def _check(database: peewee.PostgresqlDatabase, url: str, mode: Mode) -> None:
    tables = set(database.get_tables())
    if {"store", "stream", "schema_migration"} <= tables:
        newest = database.execute_sql("SELECT max(name) FROM schema_migration").fetchone()[0]
        check_schema(shown(url), int(newest.partition("_")[0]), migrating=mode == "migrate")
    elif tables or mode != "create":
        raise StoreError(f"{shown(url)}: is not the database of a facewire platform" + (", which needs one of its own" if tables else ""))


class PostgresqlStatements(Statements):
    """Streams and devices are locked until the commit."""

    def __init__(self, database: peewee.PostgresqlDatabase) -> None:
        self._db = database

    def streams(self, keys: Sequence[tuple[str, str]]) -> Iterator[tuple[Any, ...]]:
        streams = self._lock_streams(sorted(keys))
        missing = sorted(set(keys) - {(row[1], row[2]) for row in streams})
        if missing:
            self._db.cursor().executemany(_INSERT_STREAM, [(*key, *NEW_STREAM) for key in missing])
            streams += self._lock_streams(missing)
        return iter(streams)

    def _lock_streams(self, keys: Sequence[tuple[str, str]]) -> list[tuple[Any, ...]]:
        return list(self._db.execute_sql(_LOCK_STREAMS, ([device for device, _ in keys], [epoch for _, epoch in keys])).fetchall())

    def devices(self, names: Sequence[str]) -> Iterator[tuple[Any, ...]]:
        if not names:
            return iter(())
        # A lock needs a row, so a missing one is created.
        self._db.cursor().executemany(_INSERT_DEVICE, [(name, "", None, False, 0, None) for name in sorted(names)])
        return iter(self._db.execute_sql(_LOCK_DEVICES, (list(names),)).fetchall())

    def contents(self, ranges: Sequence[tuple[int, int, int]]) -> Iterator[tuple[int, int, int, str, float]]:
        if ranges:
            streams, firsts, lasts = zip(*ranges, strict=True)
            for row in self._db.execute_sql(_SELECT_CONTENTS, (list(streams), list(firsts), list(lasts))).fetchall():
                yield (*row[:3], unescape(row[3]), row[4])

    def insert_events(self, group: Sequence[bytes]) -> None:
        with self._db.cursor() as cursor, cursor.copy(_COPY_EVENTS) as copy:
            copy.write(b"".join((_COPY_HEADER, *group, _COPY_END)))

    def update_streams(self, rows: Sequence[tuple[Any, ...]]) -> None:
        self._db.cursor().executemany(_UPDATE_STREAM, [(*row[3:], row[0]) for row in rows])

    def write_devices(self, rows: Sequence[tuple[Any, ...]]) -> None:
        self._db.cursor().executemany(_UPDATE_DEVICE, [(*row[1:], row[0]) for row in rows])


def _sql(query: Any) -> str:
    sql: str = query.bind(peewee.PostgresqlDatabase(None, prefer_psycopg3=True)).sql()[0]
    return sql


_INSERT_STREAM: Final = _sql(StreamRow.insert(dict.fromkeys(STREAM_COLUMNS[1:])).on_conflict_ignore())
_UPDATE_STREAM: Final = _sql(StreamRow.update(dict.fromkeys(STREAM_COLUMNS[3:])).where(StreamRow.id == 0))
_INSERT_DEVICE: Final = _sql(DeviceRow.insert(dict.fromkeys(DEVICE_COLUMNS)).on_conflict_ignore())
_UPDATE_DEVICE: Final = _sql(DeviceRow.update(dict.fromkeys(DEVICE_COLUMNS[1:])).where(DeviceRow.device == ""))
# Every worker locks in the same order, so no two groups wait for each other.
_LOCK_STREAMS: Final = (
    f"SELECT {columns_of(STREAM_COLUMNS, 's')} FROM stream s JOIN unnest(%s::text[], %s::text[]) AS wanted(device, epoch) "
    "ON s.device = wanted.device AND s.epoch = wanted.epoch ORDER BY s.device, s.epoch FOR UPDATE OF s"
)
_LOCK_DEVICES: Final = f"SELECT {columns_of(DEVICE_COLUMNS, 'd')} FROM device d WHERE d.device = ANY(%s) ORDER BY d.device FOR UPDATE"
_SELECT_CONTENTS: Final = (
    "SELECT e.stream, e.seq, e.timestamp, e.identity_id, e.score FROM unnest(%s::bigint[], %s::bigint[], %s::bigint[]) AS span(stream, first, last) "
    "JOIN event e ON e.stream = span.stream AND e.seq BETWEEN span.first AND span.last"
)
_COPY_EVENTS: Final = f"COPY event ({', '.join(CopyRows.order)}) FROM STDIN (FORMAT BINARY)"
_COPY_HEADER: Final = b"PGCOPY\n\xff\r\n\x00" + bytes(8)
_COPY_END: Final = b"\xff\xff"
