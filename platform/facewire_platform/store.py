"""What the worker writes: batches, matches, statuses, quarantine. One thread, one transaction per group of messages.

The rules are `ingest` and `presence`; this module reads what they need and writes what they decide. Nothing is kept in
memory between messages: another worker could go on at any moment.
"""

import contextlib
import fcntl
import hashlib
import os
import secrets
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import peewee

from facewire import codec
from facewire.errors import BatchRefused, StoreError
from facewire.events import Event
from facewire.messages import Ack, Batch, Match, Status, to_map
from facewire_platform import presence
from facewire_platform.ingest import Content, Range, answer, decide
from facewire_platform.schema import DeviceRow, EventRow, GapRow, QuarantineRow, StreamRow, create_tables, open_database

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


class Store:
    """An open store for writing. Use `open_store`."""

    def __init__(self, database: peewee.SqliteDatabase, identity: str, lock: int) -> None:
        self._db = database
        self._lock = lock
        self.identity = identity

    def close(self) -> None:
        self._db.close()
        os.close(self._lock)

    def __enter__(self) -> "Store":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        """All or none of what is taken inside; durable when it ends.

        Raises:
            StoreError: none of it was written.
        """
        with _store_errors(self._db), self._db.transaction("IMMEDIATE"):
            yield

    def take_batch(self, device: str, batch: Batch, now_ms: int) -> Ack:
        """Store a batch; the ack may be published once the transaction has ended."""
        stream = self._stream(device, batch.epoch)
        decision = decide(batch, stream.watermark, self._stored(stream, batch))
        self._insert(stream.id, decision.store)
        gaps, quarantined = self._fill(stream.id, decision.late)
        self._declare(stream.id, decision.declared, now_ms)
        for bad in decision.rejected:
            self._quarantine(f"{device}/history", bad.reason, bad.raw, now_ms, stream.id, bad.seq)
        if batch.boot != stream.boot:
            self._see_boot(device, batch.boot, batch.epoch, now_ms)
        gaps = stream.gaps - gaps + sum(span.size for span in decision.declared)
        quarantined = stream.quarantined - quarantined + decision.quarantined
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
        stream = self._stream(device, match.epoch)
        if self._db.execute_sql(_SELECT_STORED, (stream.id, match.event.seq, match.event.seq)).fetchone():
            return
        self._insert(stream.id, (match.event,))
        gaps, quarantined = self._fill(stream.id, (match.event.seq,)) if match.event.seq <= stream.watermark else (0, 0)
        if gaps or quarantined or match.event.seq > stream.head or now_ms - stream.last_seen >= SEEN_EVERY_MS:
            head = max(stream.head, match.event.seq)
            news = {"head": head, "gaps": stream.gaps - gaps, "quarantined": stream.quarantined - quarantined, "last_seen": now_ms}
            self._run(StreamRow.update(news).where(StreamRow.id == stream.id))

    def take_status(self, device: str, status: Status, now_ms: int) -> bool:
        """Note what a device says of itself; False for a will or status of an earlier boot, which is ignored."""
        boots = self._boots(device)
        if not presence.counts(boots, status.boot, online=status.online):
            return False
        news: dict[str, Any] = {"online": status.online, "boots": " ".join(presence.seen(boots, status.boot)), "last_seen": now_ms}
        if status.online:
            news["status"] = codec.pack(to_map(status))
        if status.epoch:
            news["epoch"] = status.epoch
        self._note(device, news)
        return True

    def quarantine(self, topic: str, reason: str, raw: bytes, now_ms: int) -> None:
        """Keep a message that cannot be read, for a human."""
        self._quarantine(topic, reason, raw, now_ms)

    def _stream(self, device: str, epoch: str) -> _Stream:
        row = self._db.execute_sql(_SELECT_STREAM, (device, epoch)).fetchone()
        if row is None:
            self._run(StreamRow.insert(device=device, epoch=epoch))
            row = self._db.execute_sql(_SELECT_STREAM, (device, epoch)).fetchone()
        return _Stream(*row)

    def _stored(self, stream: _Stream, batch: Batch) -> dict[int, Content]:
        """What is stored of the batch's own seqs, and of (max(after, watermark), cursor]."""
        if batch.cursor - batch.after <= DENSE:
            spans = [(batch.after + 1, batch.cursor)]
        else:
            spans = [(event.seq, event.seq) for event in batch.events]
            spans.append((max(batch.after, stream.watermark) + 1, batch.cursor))
        rows = (row for span in spans if span[0] <= span[1] for row in self._db.execute_sql(_SELECT_STORED, (stream.id, *span)))
        return {seq: Content(timestamp, identity_id, score) for seq, timestamp, identity_id, score in rows}

    def _insert(self, stream: int, events: tuple[Event, ...]) -> None:
        rows = [(stream, *event[:-1], codec.pack(event.extra) if event.extra else None) for event in events]
        self._db.cursor().executemany(_INSERT_EVENT, rows)

    def _fill(self, stream: int, seqs: tuple[int, ...]) -> tuple[int, int]:
        """Seqs came that were given up: take them out of gaps and quarantine; returns how many of each."""
        gaps = quarantined = 0
        for seq in seqs:
            holds = (GapRow.stream == stream) & (GapRow.first <= seq) & (GapRow.last >= seq)
            found = list(self._run(GapRow.select(GapRow.first, GapRow.last, GapRow.declared_at).where(holds).tuples()))
            if found:
                gaps += 1
                self._split_gap(stream, seq, *found[0])
            else:
                rejected = (QuarantineRow.stream == stream) & (QuarantineRow.seq == seq)
                quarantined += bool(self._run(QuarantineRow.delete().where(rejected)))
        return gaps, quarantined

    def _split_gap(self, stream: int, seq: int, first: int, last: int, declared_at: int) -> None:
        self._run(GapRow.delete().where((GapRow.stream == stream) & (GapRow.first == first)))
        parts = (Range(first, seq - 1), Range(seq + 1, last))
        self._declare(stream, [part for part in parts if part.size], declared_at)

    def _declare(self, stream: int, gaps: Sequence[Range], declared_at: int) -> None:
        if gaps:
            rows = [{"stream": stream, "first": gap.first, "last": gap.last, "declared_at": declared_at} for gap in gaps]
            self._run(GapRow.insert_many(rows))

    def _boots(self, device: str) -> tuple[str, ...]:
        found = list(self._run(DeviceRow.select(DeviceRow.boots).where(DeviceRow.device == device).tuples()))
        return tuple(found[0][0].split()) if found else ()

    def _see_boot(self, device: str, boot: str, epoch: str, now_ms: int) -> None:
        boots = presence.seen(self._boots(device), boot)
        if boots[-1] == boot:
            self._note(device, {"boots": " ".join(boots), "epoch": epoch, "last_seen": now_ms})

    def _note(self, device: str, news: dict[str, Any]) -> None:
        self._run(DeviceRow.insert(device=device, **news).on_conflict(conflict_target=[DeviceRow.device], update=news))

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


def open_store(path: Path) -> Store:
    """Open the store for writing, or make it. One process at a time writes to a SQLite store.

    Raises:
        StoreError: another worker has it, or it cannot be opened (see `open_database`).
    """
    lock = _lock(path)
    try:
        database = open_database(path, create=True)
        try:
            with _store_errors(database):
                create_tables(database, secrets.token_hex(8))
                identity = database.execute_sql("SELECT identity FROM store").fetchone()[0]
        except BaseException:
            database.close()
            raise
    except BaseException:
        os.close(lock)
        raise
    return Store(database, identity, lock)


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


@contextlib.contextmanager
def _store_errors(database: peewee.SqliteDatabase) -> Iterator[None]:
    try:
        yield
    except peewee.DatabaseError as exc:
        raise StoreError(f"{database.database}: {exc}") from exc


def _sql(query: Any) -> str:
    sql: str = query.sql()[0]
    return sql


# What runs for every batch, made once by peewee: making it anew costs more than running it. The values are in the order of
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
_SELECT_STORED: Final = _sql(
    EventRow.select(EventRow.seq, EventRow.timestamp, EventRow.identity_id, EventRow.score).where(
        (EventRow.stream == 0) & EventRow.seq.between(0, 0)
    )
)
_INSERT_EVENT: Final = _sql(EventRow.insert(dict.fromkeys(EventRow._meta.sorted_fields)))
