"""The device's durable store: a ring of events in SQLite. The only door to peewee on a device.

    event   seq | score | packed      what the ring holds; `packed` is the event as it travels (msgpack, seq included)
    state   one row: epoch, head, oldest, cursor, dropped, capacity, device, machine

Every change is one IMMEDIATE transaction that reads the state first, so several processes may use one store: a
recognition process that records, the agent that uploads. A store object belongs to the thread that opened it.
WAL with synchronous=FULL: what `append` has returned for survives a power loss.
"""

import contextlib
import logging
import secrets
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any, Final

import peewee

from facewire import codec
from facewire.errors import StoreError
from facewire.events import MAX_EVENT_BYTES, Event
from facewire.messages import MAX_BATCH_EVENTS, splice_batch
from facewire_device.ring import Ring
from facewire_device.uploader import Adopt, Fork, Outcome

log = logging.getLogger(__name__)

DEFAULT_CAPACITY: Final = 10_000
#: A batch ends before it would grow past this; the largest event fits. Our broker's packet limit is 256 KiB.
MAX_BATCH_BYTES: Final = MAX_EVENT_BYTES + 32 * 1024
#: Overwritten rows are deleted this many at a time: at each insert it would cost a third of the speed.
TRIM_EVERY: Final = 100
#: How long to wait for another process's transaction, s.
BUSY_TIMEOUT: Final = 30.0

_APPLICATION_ID: Final = 0x46574456  # "FWDV"
_SCHEMA: Final = 1


class EventRow(peewee.Model):
    """One event of the ring."""

    seq = peewee.BigIntegerField(primary_key=True)
    score = peewee.FloatField()
    packed = peewee.BlobField()

    class Meta:  # noqa: D106  # peewee's
        table_name = "event"


class StateRow(peewee.Model):
    """The ring's numbers, and whose it is. One row."""

    epoch = peewee.TextField()
    head = peewee.BigIntegerField()
    oldest = peewee.BigIntegerField()
    cursor = peewee.BigIntegerField()
    dropped = peewee.BigIntegerField()
    capacity = peewee.BigIntegerField()
    #: Whose it is; empty while nobody's.
    device = peewee.TextField()
    machine = peewee.TextField()

    class Meta:  # noqa: D106  # peewee's
        table_name = "state"


@dataclass(frozen=True, slots=True)
class Appended:
    """Where events went: seqs `first` to `last` of `epoch`."""

    epoch: str
    first: int
    last: int


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A batch ready to publish, and the key under which its ack comes."""

    epoch: str
    key: int
    payload: bytes


class Store:
    """An open store. Use `open_store`."""

    def __init__(self, database: peewee.SqliteDatabase, path: Path) -> None:
        self._db = database
        self.path = path
        self.capacity = 0
        self._trimmed = 0

    def close(self) -> None:
        self._db.close()

    def __enter__(self) -> "Store":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def ring(self) -> Ring:
        """Where the store stands now."""
        return self._read_ring()

    def version(self) -> int:
        """A number that changes when another connection has committed (SQLite's data_version)."""
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
            placed = (event._replace(seq=seq).to_map() for seq, event in enumerate(events, before.head + 1))
            # More at once than the ring holds: the first of them are overwritten before they are written.
            self._insert(event for event in placed if event["seq"] >= ring.oldest)
            self._write_ring(ring)
            self._trim(ring)
        return Appended(ring.epoch, before.head + 1, ring.head)

    def outgoing(self, boot: str, most: int = MAX_BATCH_EVENTS) -> Outgoing:
        """The next batch: the oldest events above the cursor, `most` of them or what the byte limit allows; without any, a probe."""
        with self._transaction("DEFERRED"):
            ring = self._read_ring()
            first = max(ring.cursor + 1, ring.oldest)
            rows = self._query(_SELECT_PACKED, first, most)
        packed: list[bytes] = []
        size_bytes, key = 0, ring.cursor
        for seq, event in rows:
            size_bytes += len(event)
            if packed and size_bytes > MAX_BATCH_BYTES:
                break
            packed.append(event)
            key = seq
        payload = splice_batch(ring.epoch, boot, after=ring.cursor, cursor=key, head=ring.head, oldest=ring.oldest, events=packed)
        return Outgoing(ring.epoch, key, payload)

    def settle(self, judge: Callable[[Ring], Outcome]) -> tuple[Outcome, Ring]:
        """Let an ack be judged against the ring and carry out what follows, in one transaction."""
        with self._transaction():
            ring = self._read_ring()
            outcome = judge(ring)
            match outcome:
                case Adopt(cursor):
                    ring = ring.adopted(cursor)
                    self._write_ring(ring)
                case Fork(first):
                    ring = self._fork(ring, first)
        return outcome, ring

    def above(self, seq: int, threshold: float, most: int) -> list[tuple[int, bytes]]:
        """Events after `seq` with a score above the threshold: (seq, packed), oldest first."""
        return self._query(_SELECT_ABOVE, seq, threshold, most)

    def rate(self) -> float | None:
        """Events a second at which the ring is being filled, by the device's clock; None while that cannot be told."""
        ring = self._read_ring()
        newest = self._query(_SELECT_ONE, ring.head)
        earlier = self._query(_SELECT_ONE, max(ring.oldest, ring.head - 1000))
        if not newest or not earlier:
            return None
        last, first = (codec.unpack(rows[0][1]) for rows in (newest, earlier))
        seconds = (last["timestamp"] - first["timestamp"]) / 1000
        return (last["seq"] - first["seq"]) / seconds if seconds > 0 else None

    def device(self) -> str:
        """Name of the device whose store this is; empty while no agent has used it."""
        name: str = self._query("SELECT device FROM state")[0][0]
        return name

    def name(self, device: str) -> None:
        """Make the store this device's.

        Raises:
            StoreError: it is another's; an event's identity is (device, epoch, seq), so it stays with its device.
        """
        with self._transaction():
            owner = self.device()
            if owner not in {"", device}:
                raise StoreError(f"{self.path}: is the store of device {owner!r}, not of {device!r}: use that --id, or another --store")
            self._execute("UPDATE state SET device = ?", device)

    def claim(self, machine: str) -> bool:
        """Make the store this machine's; forks it if it was another's, and returns whether it did.

        A cloned card would otherwise go on under the epoch of the box it was cloned from. What was not acked yet is
        recorded again in the new epoch, as the other box may be gone.
        """
        with self._transaction():
            owner = self._query("SELECT machine FROM state")[0][0]
            if owner == machine:
                return False
            if owner:
                ring = self._read_ring()
                self._fork(ring, ring.cursor + 1)
            self._execute("UPDATE state SET machine = ?", machine)
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
            self._insert(codec.unpack(packed) | {"seq": seq - shift} for seq, packed in rows)
        self._write_ring(forked)
        self._trimmed = forked.oldest
        log.warning("forked from=%s first=%d to=%s lag=%d", ring.epoch, first, forked.epoch, forked.lag)
        return forked

    def _insert(self, events: Iterable[dict[str, Any]]) -> None:
        rows = [(event["seq"], event["score"], codec.pack(event)) for event in events]
        self._db.cursor().executemany(_INSERT_EVENT, rows)

    def _trim(self, ring: Ring) -> None:
        if ring.oldest - self._trimmed >= TRIM_EVERY:
            self._execute("DELETE FROM event WHERE seq < ?", ring.oldest)
            self._trimmed = ring.oldest

    def _read_ring(self) -> Ring:
        epoch, head, oldest, cursor, dropped, self.capacity = self._query(_SELECT_STATE)[0]
        return Ring(epoch, head, oldest, cursor, dropped)

    def _write_ring(self, ring: Ring) -> None:
        self._execute(_UPDATE_STATE, *astuple(ring))

    def _query(self, sql: str, *values: Any) -> list[tuple[Any, ...]]:
        with _store_errors(self.path):
            rows: list[tuple[Any, ...]] = self._db.execute_sql(sql, values).fetchall()
        return rows

    def _execute(self, sql: str, *values: Any) -> None:
        self._db.execute_sql(sql, values)

    @contextlib.contextmanager
    def _transaction(self, lock: str = "IMMEDIATE") -> Iterator[None]:
        with _store_errors(self.path), self._db.transaction(lock):
            yield


def open_store(
    path: Path, *, capacity: int | None = None, machine: str | None = None, create: bool = True, set_aside: bool = False, check: bool = True
) -> Store:
    """Open the store in the file `path`, or make it.

    Args:
        path: the database file; SQLite keeps two more beside it (-wal, -shm).
        capacity: events that the ring holds; None leaves it as it is, or 10,000 in a new store.
        machine: identity of this machine; a store of another one is forked. None leaves the owner alone.
        create: whether a missing store is made.
        set_aside: whether a damaged store is renamed and a new one, with a new epoch, made in its place.
        check: whether to look for damage, which reads the whole file.

    Raises:
        StoreError: missing, foreign, from a newer facewire, or damaged; says what to do.
        ValueError: a capacity below 1.
    """
    if capacity is not None and capacity < 1:
        raise ValueError(f"capacity of {capacity} events is below the limit of 1")
    if not create and not path.exists():
        raise StoreError(f"{path}: there is no store")
    try:
        store = _open(path, check=check)
    except _DamagedError as exc:
        if not set_aside:
            raise StoreError(f"{path}: {exc}. --set-aside-damaged renames it and goes on with a new store (a new epoch)") from exc
        log.error("store damaged path=%s error=%s set_aside=%s", path, exc, _rename(path))  # noqa: TRY400  # handled here
        store = _open(path, check=True)
    if capacity is not None and capacity != store.capacity:
        store.resize(capacity)
    if machine is not None:
        store.claim(machine)
    return store


def new_id() -> str:
    """A new epoch or boot: 16 random hex digits."""
    return secrets.token_hex(8)


class _DamagedError(Exception):
    """The file is a store of ours, and not whole."""


def _open(path: Path, *, check: bool) -> Store:
    pragmas = {"journal_mode": "wal", "synchronous": "full"}
    database = peewee.SqliteDatabase(str(path), timeout=BUSY_TIMEOUT, autoconnect=False)
    store = Store(database, path)
    try:
        with _store_errors(path):
            database.connect()
            _check_whose(database)
            for name, value in pragmas.items():
                database.pragma(name, value)
            _create_if_empty(database)
            if check:
                _check_whole(database)
        store.ring()
    except BaseException:
        database.close()
        raise
    return store


def _check_whose(database: peewee.SqliteDatabase) -> None:
    """Raise for a file that is not ours: it is never written to, renamed or taken for damaged."""
    try:
        application, schema = database.pragma("application_id"), database.pragma("user_version")
        tables = database.get_tables()
    except peewee.DatabaseError as exc:
        if "not a database" in str(exc):
            raise StoreError(f"{database.database}: is no SQLite database") from exc
        if "malformed" in str(exc):
            raise _DamagedError(str(exc)) from exc
        raise
    if application != _APPLICATION_ID and (application or tables):
        raise StoreError(f"{database.database}: is another application's database, no device store")
    if schema > _SCHEMA:
        raise StoreError(f"{database.database}: has schema {schema}, this facewire knows {_SCHEMA}: upgrade facewire")


def _create_if_empty(database: peewee.SqliteDatabase) -> None:
    with database.transaction("IMMEDIATE"), database.bind_ctx([EventRow, StateRow]):
        if database.get_tables():
            return
        database.create_tables([EventRow, StateRow])
        StateRow.create(epoch=new_id(), head=0, oldest=1, cursor=0, dropped=0, capacity=DEFAULT_CAPACITY, device="", machine="")
        database.pragma("application_id", _APPLICATION_ID)
        database.pragma("user_version", _SCHEMA)


def _check_whole(database: peewee.SqliteDatabase) -> None:
    try:
        verdict = database.pragma("quick_check")
        (states,) = database.execute_sql("SELECT count(*) FROM state").fetchone()
        held = database.execute_sql(_COUNT_HELD).fetchone()
    except peewee.DatabaseError as exc:
        if isinstance(exc, peewee.OperationalError) and "locked" in str(exc):
            raise
        raise _DamagedError(str(exc)) from exc
    if verdict != "ok":
        raise _DamagedError(f"is damaged: {str(verdict).splitlines()[0]}")
    if states != 1 or held[0] != held[1]:
        raise _DamagedError(f"is damaged: holds {held and held[0]} events, should hold {held and held[1]}")


def _rename(path: Path) -> Path:
    """Move a damaged store out of the way, with what SQLite keeps beside it; returns where."""
    number = 1
    while (aside := path.with_name(f"{path.name}.damaged-{number}")).exists():
        number += 1
    for suffix in ("-wal", "-shm", ""):
        beside = path.with_name(path.name + suffix)
        if beside.exists():
            beside.rename(aside.with_name(aside.name + suffix))
    return aside


@contextlib.contextmanager
def _store_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except peewee.DatabaseError as exc:
        raise StoreError(f"{path}: {exc}") from exc


# Made once by peewee: making them anew for each event costs more than running them.
def _sql(query: Any) -> str:
    sql: str = query.sql()[0]
    return sql


_INSERT_EVENT: Final = _sql(EventRow.insert({EventRow.seq: 0, EventRow.score: 0.0, EventRow.packed: b""}))
_SELECT_PACKED: Final = _sql(EventRow.select(EventRow.seq, EventRow.packed).where(EventRow.seq >= 0).order_by(EventRow.seq).limit(1))
_SELECT_ONE: Final = _sql(EventRow.select(EventRow.seq, EventRow.packed).where(EventRow.seq == 0))
_SELECT_ABOVE: Final = _sql(
    EventRow.select(EventRow.seq, EventRow.packed).where((EventRow.seq > 0) & (EventRow.score > 0.0)).order_by(EventRow.seq).limit(1)
)
_RING: Final = (StateRow.epoch, StateRow.head, StateRow.oldest, StateRow.cursor, StateRow.dropped)
_SELECT_STATE: Final = _sql(StateRow.select(*_RING, StateRow.capacity))
_UPDATE_STATE: Final = _sql(StateRow.update(dict.fromkeys(_RING, 0)))
_COUNT_HELD: Final = "SELECT (SELECT count(*) FROM event WHERE seq BETWEEN oldest AND head), head - oldest + 1 FROM state"
