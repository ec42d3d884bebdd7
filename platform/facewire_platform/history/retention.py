"""Retention: deletes old events, or all of one person, while workers go on storing.

Each transaction is small, and a rest as long as the transaction follows it, so that a waiting
worker gets the lock. If a purge is killed, simply start it again. It deletes nothing above a
stream's watermark, because the history copy has still to arrive, unless a person is purged and the
stream has long been silent. Watermarks, gaps and counts of what is below stay as they are.

If a device resends a deleted event, for example after a restore, the platform stores it again. It
must: the restored device may have given the same seq to a new event. So purge again after a
restore.
"""

import contextlib
import functools
import json
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any, Final, Self, TypeAlias

import peewee

from facewire import codec
from facewire.events import MAX_INT
from facewire_platform.columns.answers import Key
from facewire_platform.columns.builder import columns_follow
from facewire_platform.history.events import KEY
from facewire_platform.store.database import dialect_of
from facewire_platform.store.drivers import Location, store_errors
from facewire_platform.store.rows import key
from facewire_platform.store.schema import ChangedRow, EventRow, PartFolderRow, QuarantineRow, StreamRow
from facewire_system.clock import now_ms

#: Events in one transaction; about 20 ms of SQLite's only write lock.
CHUNK: Final = 1_000
#: Quarantine entries in one transaction, of up to 64 KiB each.
QUARANTINE_CHUNK: Final = 100
#: If a stream was silent for so long, s, we expect no history from it soon. Then a person's purge
#: deletes their matches above its watermark too.
GONE: Final = 3_600
#: Seconds to wait for SQLite's write lock: a busy worker leaves it free only for moments.
PATIENCE: Final = 60.0


@dataclass(frozen=True, slots=True)
class Purged:
    """The progress of a purge."""

    #: Events deleted, or with `dry_run` events to delete.
    events: int = 0
    #: Events left because they are above the watermark. A minute later they are below it, unless
    #: their device is gone.
    kept: int = 0
    #: Quarantine entries deleted.
    quarantined: int = 0
    #: Device time of the newest event examined, ms since 1970 UTC.
    reached: int | None = None


#: Yields the progress after each transaction, and returns the last one.
Steps: TypeAlias = Generator[Purged, None, Purged]


class Retention:
    """A database open for deletion, on the thread that opened it, beside any worker.

    Args:
        location: the database.
        dry_run: count, but delete nothing.
        rest: called after each transaction with the seconds that it took.

    Raises:
        StoreError: there is no database, it is not a platform's, or it was locked for longer
            than `PATIENCE`.
    """

    def __init__(self, location: Location, *, dry_run: bool = False, rest: Callable[[float], None] = time.sleep) -> None:
        self._location = location
        self._dry_run = dry_run
        self._rest = rest
        self._dialect = dialect_of(location)
        self._db = self._dialect.open("write")
        self._dialect.wait_for_locks(self._db, PATIENCE)
        self._following = contextlib.ExitStack()

    def close(self) -> None:
        self._following.close()
        self._db.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def older_than(self, before_ms: int) -> Iterator[Purged]:
        """Delete events from before a moment of the device's clock, and older quarantine entries.

        Yields:
            The progress after each transaction; at least once.
        """
        with self._columns():
            if not self._dry_run:
                self._raise_floor(before_ms)
            so_far = Purged()
            so_far = yield from self._delete_quarantine(so_far, QuarantineRow.last_at < before_ms)
            yield from self._delete_events(so_far, EventRow.timestamp < before_ms)

    def person(self, identity_id: str) -> Iterator[Purged]:
        """Delete a person: all their events, and the quarantine entries that contain them.

        An entry contains them if the id, or a name that an event gave them, is a text in it. On
        SQLite their bytes are overwritten in the file and, at the end, in its log.

        Yields:
            The progress after each transaction; at least once.

        Raises:
            ValueError: the id is empty.
        """
        if not identity_id:
            raise ValueError("an empty identity_id names nobody")
        with self._columns():
            yield from self._person(identity_id)

    def _person(self, identity_id: str) -> Iterator[Purged]:
        self._dialect.start_erasing(self._db)
        so_far = Purged()
        stored_id = self._dialect.to_stored(identity_id)
        by_key, theirs = EventRow.id_key == key(identity_id), EventRow.identity_id == stored_id
        # Quarantine goes first, because the names come from the events: if a purge is killed and
        # started again, it must still find them.
        names = {name for found in self._matching(by_key, theirs) for *_, name in found}
        texts = {identity_id, *map(self._dialect.from_stored, names)} - {""}
        so_far = yield from self._delete_quarantine(so_far, functools.partial(holds, needles(texts)))
        yield from self._delete_events(so_far, by_key, theirs, silent_since=now_ms() - GONE * 1000)
        if not self._dry_run:
            with store_errors(self._location):
                self._dialect.finish_erasing(self._db)

    def _matching(self, *wanted: Any) -> Iterator[list[Any]]:
        """Timestamp, stream, seq and name of events, in this order, in chunks."""
        after: Key = (-(2**63), 0, 0)
        while True:
            # This bound also makes SQLite use the index by time, which contains the persons'
            # keys, and not the table.
            query = EventRow.select(*KEY, EventRow.identity_name).where(peewee.Tuple(*KEY) > peewee.Tuple(*after), *wanted)
            found = self._rows(query.order_by(*KEY).limit(CHUNK).tuples())
            yield found
            if len(found) < CHUNK:
                return
            after = found[-1][:3]

    def _delete_events(self, so_far: Purged, *wanted: Any, silent_since: int = -1) -> Steps:
        """Delete the events that match; above the watermark only if the stream has been silent."""
        for found in self._matching(*wanted):
            # If a watermark rises meanwhile, we keep a few events more than necessary.
            streams = StreamRow.select(StreamRow.id, StreamRow.watermark, StreamRow.last_seen)
            of_found = self._rows(streams.where(StreamRow.id.in_({stream for _, stream, *_ in found})).tuples())
            ends = {stream: MAX_INT if last_seen <= silent_since else watermark for stream, watermark, last_seen in of_found}
            places = [(stream, seq, at) for at, stream, seq, _ in found if seq <= ends[stream]]
            deleted = self._delete(places)
            reached = found[-1][0] if found else so_far.reached
            so_far = replace(so_far, events=so_far.events + deleted, kept=so_far.kept + len(found) - len(places), reached=reached)
            yield so_far
        return so_far

    def _delete(self, places: Sequence[tuple[int, int, int]]) -> int:
        """Delete events (stream, seq, timestamp); returns how many there were."""
        if self._dry_run or not places:
            return len(places)
        with self._transaction():
            return self._delete_rows(places)

    def _delete_rows(self, places: Sequence[tuple[int, int, int]]) -> int:
        """The same, within a transaction.

        An event above the watermark counts from then on as never stored. Events that column files
        may have copied are noted as changed.
        """
        # A single statement would read the whole table: SQLite uses no index for `IN` of pairs.
        one = EventRow.delete().where((EventRow.stream == 0) & (EventRow.seq == 0)).bind(self._db).sql()[0]
        cursor = self._db.cursor()
        above = self._above(places)
        cursor.executemany(one, [place[:2] for place in places if place not in above])
        deleted: int = max(0, cursor.rowcount)
        for stream, seq, _ in above:
            cursor.execute(one, (stream, seq))
            deleted += cursor.rowcount
            self._run(StreamRow.update(stored=StreamRow.stored - cursor.rowcount).where(StreamRow.id == stream))
        changed = [place for place in places if place[2] >= floor] if (floor := self._floor()) is not None else []
        if changed:
            self._run(ChangedRow.insert_many(changed, (ChangedRow.stream, ChangedRow.seq, ChangedRow.timestamp)))
        return deleted

    def _above(self, places: Sequence[tuple[int, int, int]]) -> set[tuple[int, int, int]]:
        """The events above their watermarks. Until the commit those watermarks cannot rise."""
        within = StreamRow.id.in_({stream for stream, *_ in places})
        query = StreamRow.select(StreamRow.id, StreamRow.watermark).where(within)
        for _ in range(2):
            watermarks = dict(self._rows(query.tuples()))
            above = {place for place in places if place[1] > watermarks.get(place[0], MAX_INT)}
            if above:
                self._run(StreamRow.update(stored=StreamRow.stored).where(within))  # locks the rows
        return above

    @contextlib.contextmanager
    def _columns(self) -> Iterator[None]:
        """Keep column files unchanged within it. At its end, or when we close, they follow."""
        if not self._dry_run:
            self._following.enter_context(columns_follow(self._location))
        yield
        self._following.close()

    def _floor(self) -> int | None:
        return next((row[0] for row in self._rows(PartFolderRow.select(PartFolderRow.floor).tuples())), None)

    def _raise_floor(self, before_ms: int) -> None:
        """From now on, read events before this moment from the event table, which loses them."""
        with self._transaction():
            PartFolderRow.update(floor=before_ms).where(PartFolderRow.floor < before_ms).bind(self._db).execute()

    def _delete_quarantine(self, so_far: Purged, wanted: Any) -> Steps:
        """Delete the entries that match an expression, or a function of their raw bytes."""
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
        transaction = self._db.transaction() if self._dry_run else self._dialect.transaction(self._db)
        with store_errors(self._location), transaction:
            yield
        self._rest(time.monotonic() - began)

    def _run(self, query: Any) -> Any:
        return query.bind(self._db).execute()

    def _rows(self, query: Any) -> list[Any]:
        with store_errors(self._location):
            return list(query.bind(self._db))


def needles(texts: set[str]) -> tuple[bytes, ...]:
    """Texts as msgpack and JSON write them; with msgpack's length, `7` is not found in `17`."""
    packed = [codec.pack(text) for text in texts]
    return (*packed, *(json.dumps(text, ensure_ascii=ascii_only).encode() for text in texts for ascii_only in (True, False)))


def holds(needles: Sequence[bytes], raw: bytes) -> bool:
    """Whether raw bytes have one of them."""
    return any(needle in raw for needle in needles)
