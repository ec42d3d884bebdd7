"""The device's durable store: a ring of events in SQLite (tables in schema.py, numbers in ring.py).

Every change is one IMMEDIATE transaction that reads the state first. So several processes may use
one store: a recognition process records, the agent uploads. A `Store` belongs to the thread that
opened it.

With WAL and synchronous=FULL an event survives a power cut once `append` has returned. SQLite does
not notice a flipped bit in a row, so each row has a checksum, `crc`. A damaged event is left out of
its batch, which declares it lost.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import peewee

from facewire import codec
from facewire.errors import StoreError
from facewire.events import MAX_INT, Event
from facewire.messages import MAX_BATCH_EVENTS
from facewire_device.identity import new_id
from facewire_device.opening import open_database
from facewire_device.outgoing import OutgoingBatch, build_batch
from facewire_device.ring import Ring
from facewire_device.rows import Row, is_intact, is_skipped, make_row, moved_row, skipped_row
from facewire_device.state import State, read_state
from facewire_device.statements import ALL, INSERT_EVENT, SELECT_ABOVE, SELECT_ONE, SELECT_PACKED, SELECT_STATE, UPDATE_STATE
from facewire_device.store_database import StoreDatabase
from facewire_device.store_file import DamagedError, real_path, set_aside
from facewire_device.uploader import Adopt, Fork, Outcome

log = logging.getLogger(__name__)

#: A larger capacity can only be a typing error.
MAX_CAPACITY: Final = 100_000_000
#: Overwritten rows are deleted this many at a time; one by one it would cost a third of the speed.
TRIM_EVERY: Final = 100
#: Fewer events than this show no rate: two could be a minute apart, or a year.
FEWEST_FOR_RATE: Final = 3


@dataclass(frozen=True, slots=True)
class Appended:
    """The seqs that appended events got: `first` to `last` of `epoch`."""

    epoch: str
    first: int
    last: int


class Store(StoreDatabase):
    """An open store. Use `open_store`."""

    def __init__(self, database: peewee.SqliteDatabase, path: Path) -> None:
        super().__init__(database, path)
        self.capacity = 0
        self._state: State
        #: Whether that is what the file says: nobody else changes it within our transaction.
        self._is_read = False

    def ring(self) -> Ring:
        """The state of the ring now."""
        if not self._is_read:  # a transaction checks the file at its end
            self._check_file()
        return self._read_ring()

    def append(self, events: Sequence[Event], *, realtime: Callable[[int], bool] = lambda _: True) -> Appended:
        """Record events in one commit, with the next seqs. They are durable on return.

        Args:
            events: without seqs.
            realtime: whether the event at an index of `events` may become a match.

        Raises:
            StoreError: the disk is full, or the store is gone. Nothing was recorded.
        """
        with self.transaction():
            before = self._read_ring()
            ring = self._appended(before, len(events))
            # If these are more than the ring holds, the first of them need not be written.
            unwritten = max(0, ring.oldest - before.head - 1)
            first = before.head + 1
            rows = [make_row(events[i].to_map() | {"seq": first + i}, realtime=realtime(i)) for i in range(unwritten, len(events))]
            self._add(before, ring, rows)
        return Appended(ring.epoch, first, ring.head)

    def skip(self, count: int, reason: str) -> Appended:
        """Take the next `count` seqs without events, in one commit: history declares them lost.

        Raises:
            StoreError: as `append`.
            ValueError: the count is below 1.
        """
        if count < 1:
            raise ValueError(f"skip of {count} seqs is below the limit of 1")
        with self.transaction():
            before = self._read_ring()
            ring = self._appended(before, count)
            self._add(before, ring, [skipped_row(seq, reason) for seq in range(max(before.head + 1, ring.oldest), ring.head + 1)])
        log.warning("skipped seqs store=%s first=%d last=%d reason=%s", self.path, before.head + 1, ring.head, reason)
        return Appended(ring.epoch, before.head + 1, ring.head)

    def _appended(self, before: Ring, count: int) -> Ring:
        ring = before.appended(count, self.capacity)
        if ring.head > MAX_INT:
            raise StoreError(f"{self.path}: seq {ring.head} is past the limit of {MAX_INT}: rename the store, so that a new one is made")
        return ring

    def _add(self, before: Ring, ring: Ring, rows: list[Row]) -> None:
        self._watch.appended(before, ring, self.capacity)
        self._insert(rows)
        self._write_ring(ring)
        if before.oldest // TRIM_EVERY != ring.oldest // TRIM_EVERY:
            self._trim(ring)

    def next_batch(self, boot: str, limit: int = MAX_BATCH_EVENTS) -> OutgoingBatch:
        """The next batch, of `limit` events at most (`outgoing.build_batch`)."""
        with self.transaction("DEFERRED"):
            ring = self._read_ring()
            return build_batch(ring, boot, self._iterate(SELECT_PACKED, ring.first_unacked, ALL), limit)

    def apply_ack(self, decide: Callable[[Ring], Outcome]) -> tuple[Outcome, Ring]:
        """Apply the outcome of an ack, which `decide` finds from the ring, in one transaction."""
        with self.transaction():
            ring = before = self._read_ring()
            outcome = decide(ring)
            match outcome:
                case Adopt(cursor):
                    ring = ring.adopted(cursor)
                    self._write_ring(ring)
                case Fork(first):
                    ring = self._fork(ring, first, diverged=True)
        _log_fork(before, ring)
        return outcome, ring

    def events_above(self, seq: int, threshold: float) -> Iterator[tuple[int, bytes]]:
        """Events after `seq` with a score above the threshold: (seq, packed), rising."""
        with self._errors():
            yield from self._iterate(SELECT_ABOVE, seq, threshold, ALL)

    def rate(self) -> float | None:
        """Events recorded per second lately, by the device's clock; None with too few events."""
        ring = self._read_ring()
        with self._errors():
            ends = [seq_packed for seq in (max(ring.oldest, ring.head - 1000), ring.head) for seq_packed in self._iterate(SELECT_ONE, seq)]
        if len(ends) < 2 or ring.head - ring.oldest + 1 < FEWEST_FOR_RATE:
            return None
        first, last = (codec.unpack(packed) for _, packed in ends)
        seconds = (last["timestamp"] - first["timestamp"]) / 1000
        return (last["seq"] - first["seq"]) / seconds if seconds > 0 else None

    def device(self) -> str:
        """Name of the device that owns the store; empty until an agent has used it."""
        return self._read().device

    def assign_device(self, device: str) -> None:
        """Make `device` the owner of the store.

        Raises:
            StoreError: another device owns it. An event is (device, epoch, seq), so a store never
                changes its device.
        """
        with self.transaction():
            state = self._read()
            owner = state.device
            if owner not in {"", device}:
                raise StoreError(
                    f"{self.path}: this store belongs to device {owner!r}, not to {device!r}: use that --id, or another --store"
                )
            self._write(state._replace(device=device))

    def assign_machine(self, machine: str) -> bool:
        """Make `machine` the owner of the store; fork the store if it had another one.

        Otherwise a box with a cloned card would continue the epoch of the original. Unacked events
        are recorded again, because the original box may be gone. Returns whether the store forked.
        """
        with self.transaction():
            state = self._read()
            owner = state.machine
            if owner == machine:
                return False
            ring = before = state.ring
            if owner:
                ring = self._fork(ring, ring.cursor + 1, diverged=False)
            self._write(state._replace(ring=ring, machine=machine))
        _log_fork(before, ring)
        return bool(owner)

    def resize(self, capacity: int) -> None:
        """Change the ring's capacity. Events that no longer fit count as overwritten."""
        with self.transaction():
            state = self._read()
            before = state.ring
            ring = before.appended(0, capacity)
            self._write(state._replace(ring=ring, capacity=capacity))
            self._trim(ring)
        self._watch.resized(before, ring, capacity)

    def _fork(self, ring: Ring, first: int, *, diverged: bool) -> Ring:
        forked = ring.forked(new_id(), first, diverged=diverged)
        shift = first - 1
        self.execute("DELETE FROM event WHERE seq < ?", max(first, ring.oldest))
        # Move the events down to seqs that are free by then; a few at a time: they may be large.
        below = ring.head + 1 if shift == 0 else first
        while rows := self.query(SELECT_PACKED, below, TRIM_EVERY):
            below = rows[-1][0] + 1
            self.execute("DELETE FROM event WHERE seq BETWEEN ? AND ?", rows[0][0], rows[-1][0])
            self._insert([moved_row(row, -shift) for row in rows])
        self._write_ring(forked)
        return forked

    def _insert(self, rows: list[Row]) -> None:
        self._db.cursor().executemany(INSERT_EVENT, rows)

    def _trim(self, ring: Ring) -> None:
        self.execute("DELETE FROM event WHERE seq < ?", ring.oldest)

    def _iterate(self, sql: str, *values: Any) -> Iterator[tuple[int, bytes]]:
        """Events that a query finds, one by one: (seq, packed). Damaged ones are left out."""
        for row in self._db.execute_sql(sql, values):
            if is_intact(row):
                yield row[0], row[2]
            elif not is_skipped(row):
                log.error("event damaged store=%s seq=%d: left out", self.path, row[0])

    def _read(self) -> State:
        if self._is_read:
            return self._state
        rows = self.query(SELECT_STATE)
        state = read_state(rows[0]) if rows else None
        if state is None:
            raise DamagedError(f"{self.path}: is damaged: its state is not what was written")
        self._state, self.capacity = state, state.capacity
        self._is_read = self._db.in_transaction()
        return state

    def _ended(self) -> None:
        self._is_read = False

    def _write(self, state: State) -> None:
        self.execute(UPDATE_STATE, *state.to_row())
        self._state, self.capacity = state, state.capacity

    def _read_ring(self) -> Ring:
        return self._read().ring

    def _write_ring(self, ring: Ring) -> None:
        """Write the ring beside the owner, who was read with it."""
        self._write(self._state._replace(ring=ring))


def _log_fork(before: Ring, after: Ring) -> None:
    if after.epoch != before.epoch:
        log.warning("forked from=%s head=%d to=%s lag=%d", before.epoch, before.head, after.epoch, after.lag)


def open_store(
    path: Path, *, capacity: int | None = None, machine: str | None = None, create: bool = True, replace: bool = False, check: bool = True
) -> Store:
    """Open the store in the file `path`, or make it.

    Args:
        path: the database file; SQLite keeps two more beside it (-wal, -shm).
        capacity: events in the ring; None leaves it as it is, or means 10,000 in a new store.
        machine: identity of this machine; the store forks if it belongs to another machine. None
            leaves the owner as it is.
        create: whether to make a missing store.
        replace: whether to rename a damaged store and make a new one, with a new epoch.
        check: whether to check the whole file for damage.

    Raises:
        StoreError: the store is missing, foreign, or from a newer facewire. The message says what
            to do.
        DamagedError: the store is damaged.
        ValueError: the capacity is out of its limits.
    """
    if capacity is not None and not 1 <= capacity <= MAX_CAPACITY:
        raise ValueError(f"capacity of {capacity} events is not from 1 to the limit of {MAX_CAPACITY}")
    try:
        database = open_database(path, create=create, check=check)
    except DamagedError as exc:
        if not replace:
            raise DamagedError(f"{exc}. Use --set-aside-damaged to rename it and start a new store, with a new epoch") from exc
        log.error("store damaged path=%s error=%s set_aside=%s", path, exc, set_aside(real_path(path)))  # noqa: TRY400  # handled here
        database = open_database(path, create=True, check=True)
    store = Store(database, real_path(path))
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
