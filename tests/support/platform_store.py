"""Puts messages into a store and looks at its tables, on either database."""

import functools
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg
from platform_model import BOOT, EPOCH, event

from facewire.errors import BatchRefused
from facewire.messages import Ack, Batch, Match
from facewire_platform.store.drivers import Where
from facewire_platform.store.writer import Store, Taken


def take(store: Store, *batches: Batch, device: str = "d", now_ms: int = 1) -> Ack:
    """Store batches as one group; the last one's ack."""
    ack = store.take([Taken(device, batch, now_ms) for batch in batches])[-1]
    assert isinstance(ack, Ack)
    return ack


def take_match(store: Store, seq: int, content: int = 0, *, boot: str = BOOT, now_ms: int = 1) -> None:
    store.take([Taken("d", Match(EPOCH, boot, 1, event(seq, content)), now_ms)])


def take_refused(store: Store, device: str, refused: BatchRefused) -> Ack:
    [ack] = store.take([Taken(device, refused, 1)])
    assert isinstance(ack, Ack)
    return ack


def rows(where: Where, sql: str) -> list[Any]:
    """What a connection beside the store's sees."""
    if isinstance(where, Path):
        with closing(sqlite3.connect(where)) as lite:
            return lite.execute(sql).fetchall()
    return _server(where).execute(sql.encode()).fetchall()


def run(where: Where, sql: str) -> None:
    """Change something behind the store's back."""
    if isinstance(where, Path):
        with closing(sqlite3.connect(where)) as lite:
            lite.execute(sql)
            lite.commit()
        return
    _server(where).execute(sql.encode())


@functools.cache
def _server(url: str) -> "psycopg.Connection[Any]":
    """One connection a database: to connect takes longer than most queries."""
    return psycopg.connect(url, autocommit=True)


def counts(where: Where) -> tuple[int, int, int, int]:
    """Watermark, stored at or below it, gaps, quarantined."""
    found = rows(
        where, "SELECT watermark, (SELECT count(*) FROM event WHERE stream = id AND seq <= watermark), gaps, quarantined FROM stream"
    )
    return tuple(found[0])


def check_conserved(where: Where) -> None:
    """Watermark = stored + gaps + quarantined, by the rows and by the counts that the stream keeps."""
    watermark, stored, gaps, quarantined = counts(where)
    assert watermark == stored + gaps + quarantined
    assert gaps == rows(where, "SELECT coalesce(sum(last - first + 1), 0) FROM gap")[0][0]
    assert quarantined == rows(where, "SELECT count(*) FROM rejected")[0][0]
    assert rows(where, "SELECT stored FROM stream")[0][0] == rows(where, "SELECT count(*) FROM event")[0][0]
