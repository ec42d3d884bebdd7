"""Retention: old events, or all of one person, deleted while workers go on storing.

Small transactions, each followed by a rest as long as it took, so that a worker that waits for the lock gets it. A purge
that was killed is simply started again. Nothing above a stream's watermark is deleted: its history copy is still to come,
and would be counted a second time. Watermarks, gaps and counts stay as they are.

What a device sends again (its card was restored, the platform was) is stored again, as the contract has it: were it taken
for deleted, an event that reuses a deleted seq would be lost without a word. Purge again after a restore.
"""

import contextlib
import functools
import json
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Final, TypeAlias

import peewee

from facewire import codec
from facewire_platform.database import Where, open_database, store_errors
from facewire_platform.postgresql import escape, unescape
from facewire_platform.queries import KEY, Key
from facewire_platform.schema import EventRow, QuarantineRow, StreamRow, key

#: Events in one transaction; about 20 ms of SQLite's only write lock.
CHUNK: Final = 1_000
#: Quarantined messages in one, of up to 64 KiB each.
QUARANTINE_CHUNK: Final = 100
#: How long to wait for SQLite's write lock, s. A purge has time, and a busy worker leaves only short moments.
PATIENCE: Final = 60.0


@dataclass(frozen=True, slots=True)
class Purged:
    """How far a purge is."""

    #: Deleted, or with `dry_run` to be deleted.
    events: int = 0
    #: Left, as they are above their watermark. A minute later they are not, unless their device is gone.
    kept: int = 0
    #: Deleted from quarantine.
    quarantined: int = 0
    #: Device time of the newest event looked at, ms since 1970 UTC.
    reached: int | None = None


#: Gives how far it is after each transaction, and returns how far it came.
Steps: TypeAlias = Generator[Purged, None, Purged]


class Retention:
    """A database open for deleting, on the thread that opened it, beside any worker.

    Args:
        where: the database.
        dry_run: count, and delete nothing.
        rest: called with the seconds that the last transaction took.

    Raises:
        StoreError: there is none, it is not a platform's, or it was locked for longer than `PATIENCE`.
    """

    def __init__(self, where: Where, *, dry_run: bool = False, rest: Callable[[float], None] = time.sleep) -> None:
        self._where = where
        self._dry_run = dry_run
        self._rest = rest
        self._db = open_database(where, "write")
        self._lite = isinstance(where, Path)
        if self._lite:
            self._db.pragma("busy_timeout", int(PATIENCE * 1000))

    def close(self) -> None:
        self._db.close()

    def __enter__(self) -> "Retention":
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def older_than(self, before_ms: int) -> Iterator[Purged]:
        """Delete events of before a moment of the device's clock, and what was last quarantined before it.

        Yields:
            How far it is, after each transaction; at least once.
        """
        so_far = Purged()
        so_far = yield from self._delete_quarantine(so_far, QuarantineRow.last_at < before_ms)
        yield from self._delete_events(so_far, EventRow.timestamp < before_ms)

    def person(self, identity_id: str) -> Iterator[Purged]:
        """Delete all events of a person, and all in quarantine that holds the id, or a name that came with it, as a text.

        On SQLite their bytes are overwritten, in the file and at the end in its log.

        Yields:
            How far it is, after each transaction; at least once.

        Raises:
            ValueError: the id is empty, which is nobody's.
        """
        if not identity_id:
            raise ValueError("an empty identity_id is nobody's")
        if self._lite:
            self._db.pragma("secure_delete", 1)
        so_far = Purged()
        kept_as = identity_id if self._lite else escape(identity_id)
        by_key, theirs = EventRow.id_key == key(identity_id), EventRow.identity_id == kept_as
        # First, for the names are known from the events: a purge that is killed and started again must still know them.
        names = self._rows(EventRow.select(EventRow.identity_name).where(by_key, theirs).distinct().tuples())
        texts = {identity_id, *(name if self._lite else unescape(name) for (name,) in names)} - {""}
        so_far = yield from self._delete_quarantine(so_far, functools.partial(_holds, _needles(texts)))
        yield from self._delete_events(so_far, by_key, theirs)
        if self._lite and not self._dry_run:
            with store_errors(self._where):
                self._db.execute_sql("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()

    def _delete_events(self, so_far: Purged, by_index: Any, by_row: Any = None) -> Steps:
        """Delete what meets a condition that the index by time can tell, and another."""
        found: list[Key] = [(-(2**63), 0, 0)]
        while True:
            # Not in the transaction: to find the next of a person may take long.
            query = EventRow.select(*KEY).where(by_index, peewee.Tuple(*KEY) > peewee.Tuple(*found[-1]))
            found = self._rows(query.order_by(*KEY).limit(CHUNK).tuples())
            if found:
                deleted, kept = self._delete([(stream, seq) for _, stream, seq in found], by_row)
                so_far = replace(so_far, events=so_far.events + deleted, kept=so_far.kept + kept, reached=found[-1][0])
            yield so_far
            if len(found) < CHUNK:
                return so_far

    def _delete(self, places: Sequence[tuple[int, int]], by_row: Any) -> tuple[int, int]:
        """Delete events by stream and seq; returns how many were, and how many are kept as they are above the watermark."""
        named = peewee.Tuple(EventRow.stream, EventRow.seq).in_(peewee.ValuesList(places))
        named = named if by_row is None else named & by_row
        below = EventRow.seq <= StreamRow.select(StreamRow.watermark).where(StreamRow.id == EventRow.stream)
        counted = EventRow.select(peewee.fn.COUNT(EventRow.seq))
        with self._transaction():
            all_of_them: int = self._rows(counted.where(named).tuples())[0][0]
            if self._dry_run:
                deleted = self._rows(counted.where(named & below).tuples())[0][0]
            else:
                deleted = EventRow.delete().where(named & below).bind(self._db).execute()
        return deleted, all_of_them - deleted

    def _delete_quarantine(self, so_far: Purged, wanted: Any) -> Steps:
        """Delete the entries that an expression, or a function of their raw bytes, says."""
        last = -1
        while True:
            with self._transaction():
                by_bytes = not isinstance(wanted, peewee.Expression)
                entry = QuarantineRow.select(QuarantineRow.id, QuarantineRow.payload).where(QuarantineRow.id > last)
                entry = entry if by_bytes else entry.where(wanted)
                found = self._rows(entry.order_by(QuarantineRow.id).limit(QUARANTINE_CHUNK).tuples())
                gone = [number for number, raw in found if not by_bytes or wanted(bytes(raw))]
                if gone and not self._dry_run:
                    QuarantineRow.delete().where(QuarantineRow.id.in_(gone)).bind(self._db).execute()
            so_far = replace(so_far, quarantined=so_far.quarantined + len(gone))
            yield so_far
            if len(found) < QUARANTINE_CHUNK:
                return so_far
            last = found[-1][0]

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        began = time.monotonic()
        # SQLite cannot turn a reader into a writer once another has written: take the lock first.
        first = ("IMMEDIATE",) if self._lite and not self._dry_run else ()
        with store_errors(self._where), self._db.transaction(*first):
            yield
        self._rest(time.monotonic() - began)

    def _rows(self, query: Any) -> list[Any]:
        with store_errors(self._where):
            return list(query.bind(self._db))


def _needles(texts: set[str]) -> tuple[bytes, ...]:
    """How msgpack and JSON write texts. The length is in msgpack's, so `7` is not found in `17`."""
    packed = [codec.pack(text) for text in texts]
    return (*packed, *(json.dumps(text, ensure_ascii=ascii_only).encode() for text in texts for ascii_only in (True, False)))


def _holds(needles: Sequence[bytes], raw: bytes) -> bool:
    return any(needle in raw for needle in needles)
