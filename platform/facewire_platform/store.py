"""What the worker writes: batches, matches, statuses, quarantine. One thread, one transaction per group of messages.

The rules are `ingest` and `presence`; this module reads what they need and writes what they decide. Nothing is kept in
memory between messages: another worker could go on at any moment.
"""

import contextlib
import fcntl
import functools
import hashlib
import os
import secrets
import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import peewee

from facewire import codec
from facewire.errors import BatchRefused, StoreError
from facewire.events import Event
from facewire.messages import Ack, Batch, Match, Status, to_map
from facewire_platform import presence
from facewire_platform.ingest import Content, Decision, Range, answer, decide
from facewire_platform.schema import (
    DeviceRow,
    EventRow,
    GapRow,
    QuarantineRow,
    RejectedRow,
    StreamRow,
    Where,
    create_tables,
    is_outage,
    open_database,
    store_errors,
)

#: Quarantine keeps this many entries, and this much of each.
MOST_QUARANTINED: Final = 10_000
MOST_RAW_BYTES: Final = 64 * 1024
#: A batch over a wider range of seqs than this has events far apart: look them up one by one.
DENSE: Final = 1_000
#: A match moves its stream's last_seen at most this often, ms.
SEEN_EVERY_MS: Final = 1_000


class _Stream(NamedTuple):
    id: int
    watermark: int
    head: int
    gaps: int
    quarantined: int
    boot: str
    last_seen: int


class _Device(NamedTuple):
    device: str
    boots: str
    epoch: str | None
    online: bool
    last_seen: int
    status: bytes | None


class Store:
    """An open store for writing. Use `open_store`."""

    def __init__(self, path: Path, database: peewee.SqliteDatabase, identity: str, lock: int) -> None:
        self._path = path
        self._db = database
        self._lock: int | None = lock
        self._file = _file(path)
        self._pack = codec.packer()
        self.identity = identity

    def close(self) -> None:
        """May be called twice."""
        self._db.close()
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def __enter__(self) -> "Store":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        """All or none of what is taken inside; durable when it ends.

        Raises:
            StoreError: an outage (locked, full): none of it was written, and later all of it may be. Or `replaced`.
        """
        try:
            with self._db.transaction("IMMEDIATE"):
                yield
        except (peewee.PeeweeException, sqlite3.Error) as exc:
            if is_outage(exc):
                raise StoreError(f"{self._path}: {exc}") from exc
            raise
        if self.replaced:
            raise StoreError(f"{self._path}: was removed or replaced while in use")

    @property
    def replaced(self) -> bool:
        """Whether the file is there no more: what is written now is written to nowhere."""
        return _file(self._path) != self._file

    def take_batch(self, device: str, batch: Batch, now_ms: int) -> Ack:
        """Store a batch; the ack may be published once the transaction has ended."""
        stream = self._stream(device, batch.epoch)
        decision = decide(batch, stream.watermark, *self._stored(stream, batch))
        self._insert(stream.id, decision.store)
        gaps, quarantined = self._fill(stream.id, decision.late)
        self._declare(stream.id, decision.declared, now_ms)
        self._reject(device, stream.id, decision, now_ms)
        if batch.boot != stream.boot:
            self._see_boot(device, batch.boot, batch.epoch, now_ms)
        gaps = stream.gaps - gaps + sum(span.size for span in decision.declared)
        quarantined = stream.quarantined - quarantined + len(decision.quarantined)
        self._db.execute_sql(
            _UPDATE_STREAM, (decision.watermark, batch.head, batch.oldest, gaps, quarantined, batch.boot, now_ms, stream.id)
        )
        return answer(batch, decision, self.identity)

    def take_refused(self, device: str, refused: BatchRefused) -> Ack:
        """The answer to a batch that breaks the contract as a whole; nothing of it counts."""
        row = self._db.execute_sql(_SELECT_STREAM, (device, refused.epoch)).fetchone()
        watermark = _Stream(*row).watermark if row else 0
        return Ack(refused.epoch, refused.boot, refused.key, watermark, self.identity, error=str(refused))

    def take_match(self, device: str, match: Match, now_ms: int) -> None:
        """Store the realtime copy of an event; a no-op where its history copy came first."""
        stream, seq = self._stream(device, match.epoch), match.event.seq
        if self._contents(stream.id, seq, seq):
            return
        self._insert(stream.id, (match.event,))
        gaps, quarantined = self._fill(stream.id, (seq,)) if seq <= stream.watermark else (0, 0)
        if match.boot != stream.boot:
            self._see_boot(device, match.boot, match.epoch, now_ms)
        elif not gaps and not quarantined and seq <= stream.head and now_ms - stream.last_seen < SEEN_EVERY_MS:
            return
        counts = stream.gaps - gaps, stream.quarantined - quarantined
        self._db.execute_sql(_UPDATE_BY_MATCH, (max(stream.head, seq), *counts, match.boot, now_ms, stream.id))

    def take_status(self, device: str, status: Status, now_ms: int) -> bool:
        """Note what a device says of itself; False for a will or status of an earlier boot, which is ignored."""
        known = self._device(device)
        boots = tuple(known.boots.split())
        if not presence.counts(boots, status.boot, online=status.online):
            return False
        said = codec.pack(to_map(status)) if status.online else known.status
        boots = presence.seen(boots, status.boot)
        self._write_device(
            known._replace(boots=" ".join(boots), epoch=status.epoch or known.epoch, online=status.online, status=said), now_ms
        )
        return True

    def quarantine(self, topic: str, reason: str, raw: bytes, now_ms: int) -> None:
        """Keep a message that cannot be read, for a human."""
        self._quarantine(topic, reason, raw, now_ms)

    def _stream(self, device: str, epoch: str) -> _Stream:
        row = self._db.execute_sql(_SELECT_STREAM, (device, epoch)).fetchone()
        if row is None:
            self._db.execute_sql(_INSERT_STREAM, (device, epoch, 0, 0, 1, 0, 0, "", 0))
            row = self._db.execute_sql(_SELECT_STREAM, (device, epoch)).fetchone()
        return _Stream(*row)

    def _stored(self, stream: _Stream, batch: Batch) -> tuple[dict[int, Content], list[Range]]:
        """What `decide` must know: contents of the batch's own seqs, and where else there are events."""
        if batch.cursor - batch.after <= DENSE:
            return self._contents(stream.id, batch.after + 1, batch.cursor), []
        stored: dict[int, Content] = {}
        for seq in (*(event.seq for event in batch.events), *(bad.seq for bad in batch.bad if bad.seq is not None)):
            stored |= self._contents(stream.id, seq, seq)
        first = max(batch.after, stream.watermark) + 1
        if batch.after > stream.watermark or first > batch.cursor:
            return stored, []
        return stored, [Range(*row) for row in self._db.execute_sql(_SELECT_RUNS, (stream.id, first, batch.cursor)).fetchall()]

    def _contents(self, stream: int, first: int, last: int) -> dict[int, Content]:
        if first > last:  # which may be past the last integer
            return {}
        rows = self._db.execute_sql(_SELECT_STORED, (stream, first, last)).fetchall()
        return {seq: Content(timestamp, identity_id, score) for seq, timestamp, identity_id, score in rows}

    def _insert(self, stream: int, events: tuple[Event, ...]) -> None:
        if events:
            values: list[Any] = []
            for event in events:
                values += (stream, *event)
                values[-1] = self._pack(event.extra) if event.extra else None
            self._db.execute_sql(_insert_events(len(events)), values)

    def _fill(self, stream: int, seqs: tuple[int, ...]) -> tuple[int, int]:
        """Seqs came that were given up: take them out of gaps and quarantine; returns how many of each."""
        gaps = quarantined = 0
        for seq in seqs:
            before = GapRow.select().where((GapRow.stream == stream) & (GapRow.first <= seq)).order_by(GapRow.first.desc()).limit(1)
            gap = next(iter(self._run(before)), None)
            if gap is not None and seq <= gap.last:
                gaps += 1
                self._split_gap(stream, seq, gap)
            quarantined += self._run(RejectedRow.delete().where((RejectedRow.stream == stream) & (RejectedRow.seq == seq)))
            self._run(QuarantineRow.delete().where((QuarantineRow.stream == stream) & (QuarantineRow.seq == seq)))
        return gaps, quarantined

    def _split_gap(self, stream: int, seq: int, gap: GapRow) -> None:
        self._run(GapRow.delete().where((GapRow.stream == stream) & (GapRow.first == gap.first)))
        parts = (Range(gap.first, seq - 1), Range(seq + 1, gap.last))
        self._declare(stream, [part for part in parts if part.size], gap.declared_at)

    def _declare(self, stream: int, gaps: Sequence[Range], declared_at: int) -> None:
        for gap in gaps:
            self._db.execute_sql(_INSERT_GAP, (stream, *gap, declared_at))

    def _reject(self, device: str, stream: int, decision: Decision, now_ms: int) -> None:
        for bad in decision.rejected:
            self._quarantine(f"{device}/history", bad.reason, bad.raw, now_ms, stream, bad.seq)
        for seq in decision.quarantined:
            self._run(RejectedRow.insert(stream=stream, seq=seq))

    def _device(self, device: str) -> _Device:
        row = self._db.execute_sql(_SELECT_DEVICE, (device,)).fetchone()
        return _Device(*row) if row else _Device(device, "", None, False, 0, None)

    def _write_device(self, device: _Device, now_ms: int) -> None:
        self._db.execute_sql(_UPSERT_DEVICE, device._replace(last_seen=now_ms))

    def _see_boot(self, device: str, boot: str, epoch: str, now_ms: int) -> None:
        known = self._device(device)
        boots = presence.seen(tuple(known.boots.split()), boot)
        if boots[-1] == boot:
            self._write_device(known._replace(boots=" ".join(boots), epoch=epoch), now_ms)

    def _quarantine(self, topic: str, reason: str, raw: bytes, now_ms: int, stream: int | None = None, seq: int | None = None) -> None:
        digest = hashlib.sha256(repr((topic, stream, seq)).encode() + raw).digest()
        entry = {
            "digest": digest,
            "topic": topic,
            "reason": reason,
            "payload": raw[:MOST_RAW_BYTES],
            "size_bytes": len(raw),
            "first_at": now_ms,
            "last_at": now_ms,
            "stream": stream,
            "seq": seq,
        }
        again = {"last_at": now_ms, "times": QuarantineRow.times + 1}
        self._run(QuarantineRow.insert(entry).on_conflict(conflict_target=[QuarantineRow.digest], update=again))
        oldest = QuarantineRow.select(peewee.fn.MAX(QuarantineRow.id) - MOST_QUARANTINED)
        self._run(QuarantineRow.delete().where(QuarantineRow.id <= oldest))

    def _run(self, query: Any) -> Any:
        return query.bind(self._db).execute()


def open_store(path: Where) -> Store:
    """Open the store for writing, or make it. One process at a time writes to a SQLite store.

    Raises:
        StoreError: another worker has it, or it cannot be opened (see `open_database`).
    """
    if isinstance(path, str):
        raise StoreError("PostgreSQL is not supported yet")
    if path.is_dir():
        raise StoreError(f"{path}: is a directory")
    lock = _lock(path.resolve())
    try:
        database = open_database(path, create=True)
        try:
            with store_errors(path):
                create_tables(database, secrets.token_hex(8))
                identity = database.execute_sql("SELECT identity FROM store").fetchone()[0]
        except BaseException:
            database.close()
            raise
    except BaseException:
        os.close(lock)
        raise
    return Store(path, database, identity, lock)


def _file(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _lock(path: Path) -> int:
    """Hold the file beside the database that says a worker has it; the system lets go when the process ends, however."""
    try:
        lock = os.open(path.with_name(path.name + "-worker"), os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o644)
    except OSError as exc:
        raise StoreError(f"{path}: {exc.strerror}") from exc
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as exc:
        os.close(lock)
        raise StoreError(f"{path}: another worker has this database; SQLite takes one at a time") from exc
    return lock


def _sql(query: Any) -> str:
    sql: str = query.sql()[0]
    return sql


# What runs for every batch or status, made once by peewee: making it anew costs more than running it. The values are in the order of
# the columns here, which for INSERT and UPDATE is that of the table.
_STREAM: Final = (
    StreamRow.id,
    StreamRow.watermark,
    StreamRow.head,
    StreamRow.gaps,
    StreamRow.quarantined,
    StreamRow.boot,
    StreamRow.last_seen,
)
_SELECT_STREAM: Final = _sql(StreamRow.select(*_STREAM).where((StreamRow.device == "") & (StreamRow.epoch == "")))
_UPDATE_STREAM: Final = _sql(
    StreamRow.update(watermark=0, head=0, oldest=0, gaps=0, quarantined=0, boot="", last_seen=0).where(StreamRow.id == 0)
)
_INSERT_STREAM: Final = _sql(
    StreamRow.insert(device="", epoch="", watermark=0, head=0, oldest=0, gaps=0, quarantined=0, boot="", last_seen=0)
)
_DEVICE: Final = DeviceRow._meta.sorted_fields
_SELECT_DEVICE: Final = _sql(DeviceRow.select(*_DEVICE).where(DeviceRow.device == ""))
_UPSERT_DEVICE: Final = _sql(
    DeviceRow.insert(dict.fromkeys(_DEVICE))
    .on_conflict(conflict_target=[DeviceRow.device], preserve=_DEVICE[1:])
    .bind(peewee.SqliteDatabase(None))
)
_SELECT_STORED: Final = _sql(
    EventRow.select(EventRow.seq, EventRow.timestamp, EventRow.identity_id, EventRow.score).where(
        (EventRow.stream == 0) & EventRow.seq.between(0, 0)
    )
)
_INSERT_GAP: Final = _sql(GapRow.insert(stream=0, first=0, last=0, declared_at=0))
_UPDATE_BY_MATCH: Final = _sql(StreamRow.update(head=0, gaps=0, quarantined=0, boot="", last_seen=0).where(StreamRow.id == 0))


def _select_runs() -> str:
    """First and last of each run of seqs that are stored without a hole; as many rows as there are runs, not events."""
    place = peewee.fn.ROW_NUMBER().over(order_by=[EventRow.seq])
    numbered = EventRow.select(EventRow.seq, (EventRow.seq - place).alias("run"))
    numbered = numbered.where((EventRow.stream == 0) & EventRow.seq.between(0, 0))
    runs = peewee.Select([numbered], [peewee.fn.MIN(numbered.c.seq), peewee.fn.MAX(numbered.c.seq)])
    return _sql(runs.group_by(numbered.c.run).bind(peewee.SqliteDatabase(None)))


_SELECT_RUNS: Final = _select_runs()


@functools.cache
def _insert_events(count: int) -> str:
    """One statement for many rows takes two thirds of the time of many for one."""
    return _sql(EventRow.insert_many([dict.fromkeys(EventRow._meta.sorted_fields)] * count))
