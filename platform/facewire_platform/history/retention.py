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
from facewire_platform.history.queries import KEY, Key
from facewire_platform.store.database import open_database
from facewire_platform.store.drivers import Location, store_errors
from facewire_platform.store.rows import escape, key, unescape
from facewire_platform.store.schema import EventRow, QuarantineRow, StreamRow

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
        location: the database.
        dry_run: count, and delete nothing.
        rest: called with the seconds that the last transaction took.

    Raises:
        StoreError: there is none, it is not a platform's, or it was locked for longer than `PATIENCE`.
    """

    def __init__(self, location: Location, *, dry_run: bool = False, rest: Callable[[float], None] = time.sleep) -> None:
        self._location = location
        self._dry_run = dry_run
        self._rest = rest
        self._db = open_database(location, "write")
        self._lite = isinstance(location, Path)
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
        names = {name for found in self._matching(by_key, theirs) for *_, name in found}
        texts = {identity_id, *(name if self._lite else unescape(name) for name in names)} - {""}
        so_far = yield from self._delete_quarantine(so_far, functools.partial(_holds, _needles(texts)))
        yield from self._delete_events(so_far, by_key, theirs)
        if self._lite and not self._dry_run:
            with store_errors(self._location):
                self._db.execute_sql("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()

    def _matching(self, *wanted: Any) -> Iterator[list[Any]]:
        """Timestamp, stream, seq and name of events, in this order, some at a time: the next of a person may be far."""
        after: Key = (-(2**63), 0, 0)
        while True:
            # This bound also makes SQLite go by the index of time, which holds the persons' keys, and not by the table.
            query = EventRow.select(*KEY, EventRow.identity_name).where(peewee.Tuple(*KEY) > peewee.Tuple(*after), *wanted)
            found = self._rows(query.order_by(*KEY).limit(CHUNK).tuples())
            yield found
            if len(found) < CHUNK:
                return
            after = found[-1][:3]

    def _delete_events(self, so_far: Purged, *wanted: Any) -> Steps:
        for found in self._matching(*wanted):
            # A watermark that rises meanwhile keeps some that need not be.
            streams = StreamRow.select(StreamRow.id, StreamRow.watermark).where(StreamRow.id.in_({stream for _, stream, *_ in found}))
            watermarks = dict(self._rows(streams.tuples()))
            places = [(stream, seq) for _, stream, seq, _ in found if seq <= watermarks[stream]]
            deleted = self._delete(places)
            reached = found[-1][0] if found else so_far.reached
            so_far = replace(so_far, events=so_far.events + deleted, kept=so_far.kept + len(found) - len(places), reached=reached)
            yield so_far
        return so_far

    def _delete(self, places: Sequence[tuple[int, int]]) -> int:
        """Delete events by stream and seq; returns how many there were."""
        if self._dry_run or not places:
            return len(places)
        # One statement for all of them would read the whole table (SQLite's `IN` of pairs uses no index).
        one = EventRow.delete().where((EventRow.stream == 0) & (EventRow.seq == 0))
        with self._transaction():
            cursor = self._db.cursor()
            cursor.executemany(one.bind(self._db).sql()[0], places)
            deleted: int = cursor.rowcount
        return deleted

    def _delete_quarantine(self, so_far: Purged, wanted: Any) -> Steps:
        """Delete the entries that an expression, or a function of their raw bytes, says."""
        last = -1
        while True:
            with self._transaction():
                by_bytes = not isinstance(wanted, peewee.Expression)
                entry = QuarantineRow.select(QuarantineRow.id, QuarantineRow.payload).where(QuarantineRow.id > last)
                entry = entry if by_bytes else entry.where(wanted)
                found = self._rows(entry.order_by(QuarantineRow.id).limit(QUARANTINE_CHUNK).tuples())
                numbers = [number for number, raw in found if not by_bytes or wanted(bytes(raw))]
                if numbers and not self._dry_run:
                    QuarantineRow.delete().where(QuarantineRow.id.in_(numbers)).bind(self._db).execute()
            so_far = replace(so_far, quarantined=so_far.quarantined + len(numbers))
            yield so_far
            if len(found) < QUARANTINE_CHUNK:
                return so_far
            last = found[-1][0]

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        began = time.monotonic()
        # SQLite cannot turn a reader into a writer once another has written: take the lock first.
        first = ("IMMEDIATE",) if self._lite and not self._dry_run else ()
        with store_errors(self._location), self._db.transaction(*first):
            yield
        self._rest(time.monotonic() - began)

    def _rows(self, query: Any) -> list[Any]:
        with store_errors(self._location):
            return list(query.bind(self._db))


def _needles(texts: set[str]) -> tuple[bytes, ...]:
    """How msgpack and JSON write texts. The length is in msgpack's, so `7` is not found in `17`."""
    packed = [codec.pack(text) for text in texts]
    return (*packed, *(json.dumps(text, ensure_ascii=ascii_only).encode() for text in texts for ascii_only in (True, False)))


def _holds(needles: Sequence[bytes], raw: bytes) -> bool:
    return any(needle in raw for needle in needles)
