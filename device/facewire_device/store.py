"""The device's durable store: a ring of events in SQLite (tables in schema.py, arithmetic in ring.py).

Every change is one IMMEDIATE transaction that reads the state first, so several processes may use one store: a
recognition process that records, the agent that uploads. A store object belongs to the thread that opened it.
WAL with synchronous=FULL: what `append` has returned for survives a power loss. SQLite does not notice a flipped bit in
a row: `crc` does, and an event that is not what was recorded is left out, which declares it lost in the next batch.
"""

import contextlib
import logging
import struct
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any, Final, TypeAlias

import peewee

from facewire import codec
from facewire.errors import StoreError
from facewire.events import Event
from facewire.messages import MAX_BATCH_EVENTS
from facewire_device.identity import new_id
from facewire_device.opening import close_database, open_database, store_errors
from facewire_device.outgoing import OutgoingBatch, build_batch
from facewire_device.ring import Ring
from facewire_device.schema import RingEvent, RingState
from facewire_device.store_file import DamagedError, file_id, set_aside
from facewire_device.uploader import Adopt, Fork, Outcome

log = logging.getLogger(__name__)

#: More is a slip of the finger.
MAX_CAPACITY: Final = 100_000_000
#: Overwritten rows are deleted this many at a time: at each insert it would cost a third of the speed.
TRIM_EVERY: Final = 100


@dataclass(frozen=True, slots=True)
class Appended:
    """Where events went: seqs `first` to `last` of `epoch`."""

    epoch: str
    first: int
    last: int


class ReplacedError(StoreError):
    """The store's file was moved, removed or replaced: open it again."""


class Store:
    """An open store. Use `open_store`."""

    def __init__(self, database: peewee.SqliteDatabase, path: Path) -> None:
        self._db = database
        self._file_id = file_id(database.database)
        self.path = path
        self.capacity = 0

    def close(self) -> None:
        """May be called twice."""
        close_database(self._db, self._file_id)

    def __enter__(self) -> "Store":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def ring(self) -> Ring:
        """Where the store stands now."""
        self._check_file()
        return self._read_ring()

    def version(self) -> int:
        """A number that changes when another connection has committed (SQLite's data_version)."""
        self._check_file()
        version: int = self._query("PRAGMA data_version")[0][0]
        return version

    def append(self, events: Sequence[Event]) -> Appended:
        """Record events in one commit; their seqs are given here. Durable on return.

        Raises:
            StoreError: nothing was recorded: the disk is full, or the store is gone.
        """
        with self._transaction():
            before = self._read_ring()
            ring = before.appended(len(events), self.capacity)
            # More at once than the ring holds: the first of them are overwritten before they are written.
            first = max(before.head + 1, ring.oldest)
            kept_events = events[first - before.head - 1 :]
            self._insert([_row(event.to_map() | {"seq": seq}) for seq, event in enumerate(kept_events, first)])
            self._write_ring(ring)
            if before.oldest // TRIM_EVERY != ring.oldest // TRIM_EVERY:
                self._trim(ring)
        return Appended(ring.epoch, before.head + 1, ring.head)

    def next_batch(self, boot: str, limit: int = MAX_BATCH_EVENTS) -> OutgoingBatch:
        """The next batch, of `limit` events at most (`outgoing.build_batch`)."""
        with self._transaction("DEFERRED"):
            ring = self._read_ring()
            return build_batch(ring, boot, self._iterate(_SELECT_PACKED, ring.first_unacked, _ALL), limit)

    def apply_ack(self, decide: Callable[[Ring], Outcome]) -> tuple[Outcome, Ring]:
        """Let an ack be decided against the ring and carry out what follows, in one transaction."""
        with self._transaction():
            ring = before = self._read_ring()
            outcome = decide(ring)
            match outcome:
                case Adopt(cursor):
                    ring = ring.adopted(cursor)
                    self._write_ring(ring)
                case Fork(first):
                    ring = self._fork(ring, first)
        _log_fork(before, ring)
        return outcome, ring

    def events_above(self, seq: int, threshold: float) -> Iterator[tuple[int, bytes]]:
        """Events after `seq` with a score above the threshold: (seq, packed), oldest first."""
        with store_errors(self.path):
            yield from self._iterate(_SELECT_ABOVE, seq, threshold, _ALL)

    def rate(self) -> float | None:
        """Events a second at which the ring is being filled, by the device's clock; None while that cannot be told."""
        ring = self._read_ring()
        with store_errors(self.path):
            ends = [seq_packed for seq in (max(ring.oldest, ring.head - 1000), ring.head) for seq_packed in self._iterate(_SELECT_ONE, seq)]
        if len(ends) < 2:
            return None
        first, last = (codec.unpack(packed) for _, packed in ends)
        seconds = (last["timestamp"] - first["timestamp"]) / 1000
        return (last["seq"] - first["seq"]) / seconds if seconds > 0 else None

    def device(self) -> str:
        """Name of the device whose store this is; empty while no agent has used it."""
        name: str = self._query("SELECT device FROM state")[0][0]
        return name

    def assign_device(self, device: str) -> None:
        """Make the store this device's.

        Raises:
            StoreError: it is another's; an event's identity is (device, epoch, seq), so it stays with its device.
        """
        with self._transaction():
            owner = self.device()
            if owner not in {"", device}:
                raise StoreError(f"{self.path}: is the store of device {owner!r}, not of {device!r}: use that --id, or another --store")
            self._execute("UPDATE state SET device = ?", device)

    def assign_machine(self, machine: str) -> bool:
        """Make the store this machine's; forks it if it was another's, and returns whether it did.

        A cloned card would otherwise go on under the epoch of the box it was cloned from. What was not acked yet is
        recorded again in the new epoch, as the other box may be gone.
        """
        with self._transaction():
            owner = self._query("SELECT machine FROM state")[0][0]
            if owner == machine:
                return False
            ring = before = self._read_ring()
            if owner:
                ring = self._fork(ring, ring.cursor + 1)
            self._execute("UPDATE state SET machine = ?", machine)
        _log_fork(before, ring)
        return bool(owner)

    def resize(self, capacity: int) -> None:
        """Change how many events the ring holds; what no longer fits counts as overwritten."""
        with self._transaction():
            self._execute("UPDATE state SET capacity = ?", capacity)
            self.capacity = capacity
            ring = self._read_ring().appended(0, capacity)
            self._write_ring(ring)
            self._trim(ring)

    def _fork(self, ring: Ring, first: int) -> Ring:
        forked = ring.forked(new_id(), first)
        shift = first - 1
        self._execute("DELETE FROM event WHERE seq < ?", max(first, ring.oldest))
        # Each event moves down to a place that is free by then, a few at a time: a ring of pictures is large.
        below = ring.head + 1 if shift == 0 else first
        while rows := self._query(_SELECT_PACKED, below, TRIM_EVERY):
            below = rows[-1][0] + 1
            self._execute("DELETE FROM event WHERE seq BETWEEN ? AND ?", rows[0][0], rows[-1][0])
            self._insert([_shifted(row, shift) for row in rows])
        self._write_ring(forked)
        return forked

    def _insert(self, rows: list["_Row"]) -> None:
        self._db.cursor().executemany(_INSERT_EVENT, rows)

    def _trim(self, ring: Ring) -> None:
        self._execute("DELETE FROM event WHERE seq < ?", ring.oldest)

    def _iterate(self, sql: str, *values: Any) -> Iterator[tuple[int, bytes]]:
        """What a query of event rows finds, one by one: (seq, packed), without events that are damaged."""
        for row in self._db.execute_sql(sql, values):
            if _is_intact(row):
                yield row[0], row[2]
            else:
                log.error("event damaged store=%s seq=%d: left out", self.path, row[0])

    def _read_ring(self) -> Ring:
        epoch, head, oldest, cursor, dropped, self.capacity = self._query(_SELECT_STATE)[0]
        return Ring(epoch, head, oldest, cursor, dropped)

    def _write_ring(self, ring: Ring) -> None:
        self._execute(_UPDATE_STATE, *astuple(ring))

    def _query(self, sql: str, *values: Any) -> list[tuple[Any, ...]]:
        with store_errors(self.path):
            rows: list[tuple[Any, ...]] = self._db.execute_sql(sql, values).fetchall()
        return rows

    def _execute(self, sql: str, *values: Any) -> None:
        self._db.execute_sql(sql, values)

    def _check_file(self) -> None:
        if file_id(self._db.database) != self._file_id:
            raise ReplacedError(f"{self.path}: the file was moved, removed or replaced")

    @contextlib.contextmanager
    def _transaction(self, lock: str = "IMMEDIATE") -> Iterator[None]:
        with store_errors(self.path), self._db.transaction(lock):
            yield
            self._check_file()


def _log_fork(before: Ring, after: Ring) -> None:
    if after.epoch != before.epoch:
        log.warning("forked from=%s head=%d to=%s lag=%d", before.epoch, before.head, after.epoch, after.lag)


def open_store(
    path: Path, *, capacity: int | None = None, machine: str | None = None, create: bool = True, replace: bool = False, check: bool = True
) -> Store:
    """Open the store in the file `path`, or make it.

    Args:
        path: the database file; SQLite keeps two more beside it (-wal, -shm).
        capacity: events that the ring holds; None leaves it as it is, or 10,000 in a new store.
        machine: identity of this machine; a store of another one is forked. None leaves the owner alone.
        create: whether a missing store is made.
        replace: whether a damaged store is set aside, and a new one, with a new epoch, made in its place.
        check: whether to look for damage, which reads the whole file.

    Raises:
        StoreError: missing, foreign, from a newer facewire, or damaged; says what to do.
        ValueError: a capacity out of its limits.
    """
    if capacity is not None and not 1 <= capacity <= MAX_CAPACITY:
        raise ValueError(f"capacity of {capacity} events is not from 1 to the limit of {MAX_CAPACITY}")
    try:
        database = open_database(path, create=create, check=check)
    except DamagedError as exc:
        if not replace:
            raise StoreError(f"{path}: {exc}. --set-aside-damaged renames it and goes on with a new store (a new epoch)") from exc
        log.error("store damaged path=%s error=%s set_aside=%s", path, exc, set_aside(path))  # noqa: TRY400  # handled here
        database = open_database(path, create=True, check=True)
    store = Store(database, path)
    try:
        store.ring()
        if capacity is not None and capacity != store.capacity:
            store.resize(capacity)
        if machine is not None:
            store.assign_machine(machine)
    except BaseException:
        store.close()
        raise
    return store


_Row: TypeAlias = tuple[int, float, bytes, int]
_SEQ_AND_SCORE: Final = struct.Struct("<qd")


def _row(event: dict[str, Any]) -> _Row:
    packed = codec.pack(event)
    return event["seq"], event["score"], packed, _crc(event["seq"], event["score"], packed)


def _shifted(row: _Row, shift: int) -> _Row:
    """The row of the same event at another place. One that is damaged stays so: its place is not to be another's."""
    seq, score, packed, _ = row
    return _row(codec.unpack(packed) | {"seq": seq - shift}) if _is_intact(row) else (seq - shift, score, packed, -1)


def _is_intact(row: _Row) -> bool:
    try:
        return row[3] == _crc(row[0], row[1], row[2])
    except (TypeError, struct.error):
        return False


def _crc(seq: int, score: float, packed: bytes) -> int:
    # SQLite gives -0.0 back as 0.0.
    return zlib.crc32(packed, zlib.crc32(_SEQ_AND_SCORE.pack(seq, score + 0.0)))


# Made once by peewee: making them anew for each event costs more than running them.
def _sql(query: Any) -> str:
    sql: str = query.sql()[0]
    return sql


_ROW: Final = (RingEvent.seq, RingEvent.score, RingEvent.packed, RingEvent.crc)
_INSERT_EVENT: Final = _sql(RingEvent.insert({RingEvent.seq: 0, RingEvent.score: 0.0, RingEvent.packed: b"", RingEvent.crc: 0}))
_SELECT_PACKED: Final = _sql(RingEvent.select(*_ROW).where(RingEvent.seq >= 0).order_by(RingEvent.seq).limit(1))
_SELECT_ONE: Final = _sql(RingEvent.select(*_ROW).where(RingEvent.seq == 0))
_SELECT_ABOVE: Final = _sql(RingEvent.select(*_ROW).where((RingEvent.seq > 0) & (RingEvent.score > 0.0)).order_by(RingEvent.seq).limit(1))
#: As SQLite's LIMIT.
_ALL: Final = -1
_RING: Final = (RingState.epoch, RingState.head, RingState.oldest, RingState.cursor, RingState.dropped)
_SELECT_STATE: Final = _sql(RingState.select(*_RING, RingState.capacity))
_UPDATE_STATE: Final = _sql(RingState.update(dict.fromkeys(_RING, 0)))
