"""Stores messages and reads tables, on either database."""

import functools
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, TypeAlias

import psycopg
import pytest
from platform_model import BOOT, EPOCH, batch, event

from facewire.errors import BatchRefused
from facewire.events import Event
from facewire.messages import Ack, Batch, Match
from facewire_platform.store.database import open_database
from facewire_platform.store.drivers import Location
from facewire_platform.store.schema import TABLES
from facewire_platform.store.writer import Message, Store


def store_batches(store: Store, *batches: Batch, device: str = "d", now_ms: int = 1) -> Ack:
    """Store batches as one group; returns the last ack."""
    ack = store.store([Message(device, batch, now_ms) for batch in batches])[-1]
    assert isinstance(ack, Ack)
    return ack


def event_at(seq: int, at_ms: int, **changed: Any) -> Event:
    """An event at a moment of device time."""
    return event(seq)._replace(timestamp=at_ms, **changed)


def store_events(store: Store, device: str, *events: Event, epoch: str = EPOCH, now_ms: int = 1) -> None:
    """Store events as the history of a device, in batches of 100; seqs between them become gaps."""
    for first in range(0, len(events), 100):
        chunk = events[first : first + 100]
        store.store([Message(device, batch(chunk[0].seq - 1, chunk[-1].seq, *chunk, epoch=epoch), now_ms)])


def store_match(store: Store, seq: int, content: int = 0, *, boot: str = BOOT, now_ms: int = 1) -> None:
    store.store([Message("d", Match(EPOCH, boot, 1, event(seq, content)), now_ms)])


def store_refused(store: Store, device: str, refused: BatchRefused) -> Ack:
    [ack] = store.store([Message(device, refused, 1)])
    assert isinstance(ack, Ack)
    return ack


def rows(location: Location, sql: str) -> list[Any]:
    """The rows that another connection sees."""
    if isinstance(location, Path):
        with closing(sqlite3.connect(location)) as lite:
            return lite.execute(sql).fetchall()
    return _server(location).execute(sql.encode()).fetchall()


def run(location: Location, sql: str, values: Sequence[Any] = ()) -> None:
    """Change the database behind the store's back."""
    if isinstance(location, Path):
        with closing(sqlite3.connect(location)) as lite:
            lite.execute(sql, values)
            lite.commit()
        return
    _server(location).execute(sql.encode(), values or None)


def sqlite_connections(monkeypatch: pytest.MonkeyPatch) -> list[sqlite3.Connection]:
    """The connections to SQLite databases that are opened from now on, in this order."""
    opened: list[sqlite3.Connection] = []

    class Listed(sqlite3.Connection):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options)
            opened.append(self)

    monkeypatch.setattr(sqlite3, "connect", functools.partial(sqlite3.connect, factory=Listed))
    return opened


def limit_pages(connection: sqlite3.Connection, more: int) -> None:
    """Let the database grow by so many pages, as if its disk were full then."""
    ((count,),) = connection.execute("PRAGMA page_count")
    connection.execute(f"PRAGMA max_page_count = {count + more}").fetchall()


def plan(location: Location, query: Any, *settings: str) -> str:
    """How the database goes about a query."""
    with closing(open_database(location, "read")) as database:
        for setting in settings:
            database.execute_sql(setting)
        sql, values = query.bind(database).sql()
        explain = "EXPLAIN QUERY PLAN" if isinstance(location, Path) else "EXPLAIN"
        return "\n".join(str(row[-1]) for row in database.execute_sql(f"{explain} {sql}", values))


Snapshot: TypeAlias = dict[str, list[Any]]


def snapshot(location: Location) -> Snapshot:
    """All rows of all tables."""
    return {table._meta.table_name: rows(location, f"SELECT * FROM {table._meta.table_name}") for table in TABLES}


def restore(location: Location, tables: Snapshot) -> None:
    """Make the tables what they were at a snapshot."""
    mark = "?" if isinstance(location, Path) else "%s"
    for table, found in tables.items():
        run(location, f"DELETE FROM {table}")
        for row in found:
            run(location, f"INSERT INTO {table} VALUES ({', '.join([mark] * len(row))})", row)


@functools.cache
def _server(url: str) -> "psycopg.Connection[Any]":
    """One connection for each database, because to connect takes longer than most queries."""
    return psycopg.connect(url, autocommit=True)


def counts(location: Location) -> tuple[int, int, int, int]:
    """The watermark; events at or below it that are stored, in gaps and in quarantine."""
    found = rows(
        location, "SELECT watermark, (SELECT count(*) FROM event WHERE stream = id AND seq <= watermark), gaps, quarantined FROM stream"
    )
    return tuple(found[0])


def check_conserved(location: Location) -> None:
    """Check watermark = stored + gaps + quarantined, by the rows and by the stream's counts."""
    watermark, stored, gaps, quarantined = counts(location)
    assert watermark == stored + gaps + quarantined
    assert gaps == rows(location, "SELECT coalesce(sum(last - first + 1), 0) FROM gap")[0][0]
    assert quarantined == rows(location, "SELECT count(*) FROM rejected")[0][0]
    assert rows(location, "SELECT stored FROM stream")[0][0] == rows(location, "SELECT count(*) FROM event")[0][0]
