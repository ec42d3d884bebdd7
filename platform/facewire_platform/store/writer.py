"""What the worker writes: batches, matches, statuses, quarantine. One thread, one transaction per group of messages.

    read what the group's messages need ─▶ decide one message after the other ─▶ write what came of it ─▶ commit

The rules are `ingest` and `presence`; this module reads what they need and writes what they decide. Nothing is kept in
memory between groups: another worker could go on at any moment.
"""

import contextlib
import operator
import secrets
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple, TypeAlias

import peewee

from facewire import codec
from facewire.errors import BatchRefused, StoreError
from facewire.events import Event
from facewire.messages import Ack, BatchOf, Match, Status, to_map
from facewire_platform import presence
from facewire_platform.ingest import Content, Range, answer, decide
from facewire_platform.store.database import dialect_of
from facewire_platform.store.dialect import Dialect
from facewire_platform.store.drivers import DATABASE_ERRORS, Location, is_outage, shown, store_errors
from facewire_platform.store.losses import Losses
from facewire_platform.store.migrate import create_tables
from facewire_platform.store.rows import Row, Rows
from facewire_platform.store.schema import DEVICE_COLUMNS, STREAM_COLUMNS, EventRow, StreamRow

#: A batch over a wider range of seqs than this has events far apart: look them up one by one.
DENSE: Final = 1_000


class Unreadable(NamedTuple):
    """A message that is kept for a human."""

    topic: str
    reason: str
    raw: bytes


class Message(NamedTuple):
    """A message as it was read, to be stored."""

    device: str
    body: BatchOf[Event | Row] | Match | Status | BatchRefused | Unreadable
    #: Platform clock, ms since 1970 UTC.
    at_ms: int
    #: A retained message: nobody knows how old it is.
    retained: bool = False


#: The ack of a batch; of anything else, whether it counted: false for a will or status of an earlier boot.
Outcome: TypeAlias = Ack | bool


@dataclass(slots=True)
class _Stream:
    """A row of the stream table, as it is and as it becomes."""

    id: int
    device: str
    epoch: str
    watermark: int
    head: int
    oldest: int
    stored: int
    gaps: int
    quarantined: int
    boot: str
    last_seen: int
    #: Of this group that are about it.
    messages: int = 0


@dataclass(slots=True)
class _Device:
    """A row of the device table, as it is and as it becomes."""

    device: str
    boots: str = ""
    epoch: str | None = None
    online: bool = False
    last_seen: int = 0
    status: bytes | None = None


_STREAM_ROW: Final = operator.attrgetter(*(column.name for column in STREAM_COLUMNS))
_DEVICE_ROW: Final = operator.attrgetter(*(column.name for column in DEVICE_COLUMNS))


@dataclass(slots=True)
class _Group:
    """What one transaction reads, and is to write."""

    streams: dict[tuple[str, str], _Stream] = field(default_factory=dict)
    devices: dict[str, _Device] = field(default_factory=dict)
    #: Of each stream, what is stored of the seqs that the messages are about.
    contents: dict[int, dict[int, Content]] = field(default_factory=dict)
    #: For `insert_events`.
    events: list[Any] = field(default_factory=list)
    #: By identity: the streams and devices that are to be written.
    changed: dict[int, _Stream] = field(default_factory=dict)
    told: dict[str, _Device] = field(default_factory=dict)


class Store:
    """An open store for writing. Use `open_store`."""

    def __init__(self, dialect: Dialect, database: Any, resources: contextlib.ExitStack) -> None:
        self._dialect = dialect
        self._db = database
        self._resources = resources
        self._file = dialect.file_id()
        self._sql = dialect.statements(database)
        #: The form in which events are best given.
        self.rows: type[Rows] = dialect.rows
        self._losses = Losses(database)
        #: Given with each ack.
        self.identity: str = database.execute_sql("SELECT identity FROM store").fetchone()[0]

    def close(self) -> None:
        """May be called twice."""
        self._resources.close()

    def __enter__(self) -> "Store":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def replaced(self) -> bool:
        """Whether the database is there no more: the file was removed or replaced, or the connection is lost."""
        return self._dialect.file_id() != self._file or not self._db.is_connection_usable()

    def store(self, messages: Sequence[Message]) -> list[Outcome]:
        """Store a group of messages in one transaction, durable when this returns; only then may its acks be published.

        Returns:
            The outcome of each message, in their order.

        Raises:
            StoreError: an outage (locked, full, no connection): none of it was written, and later all of it may be. After a
                connection that was lost in the middle of a commit it may have been: taking it again does no harm.
        """
        try:
            with self._dialect.transaction(self._db):
                group = self._read(messages)
                outcomes = [self._apply(message, group) for message in messages]
                self._write(group)
        except DATABASE_ERRORS as exc:
            if is_outage(exc):
                raise StoreError(f"{shown(self._dialect.location)}: {str(exc).strip()}") from exc
            raise
        if self._dialect.file_id() != self._file:
            raise StoreError(f"{self._dialect.location}: was removed or replaced while in use")
        return outcomes

    def _read(self, messages: Sequence[Message]) -> _Group:
        group = _Group()
        about = [(message.device, message.body) for message in messages if isinstance(message.body, BatchOf | Match)]
        keys = dict.fromkeys((device, body.epoch) for device, body in about)
        group.streams = {(row[1], row[2]): _Stream(*row) for row in self._sql.streams(list(keys))}
        group.contents = {stream.id: {} for stream in group.streams.values()}
        for device, body in about:
            group.streams[device, body.epoch].messages += 1
        ranges = [span for device, body in about for span in _ranges(group.streams[device, body.epoch].id, body)]
        for stream, seq, timestamp, identity_id, score in self._sql.contents(ranges):
            group.contents[stream][seq] = Content(timestamp, identity_id, score)
        names = {device for device, body in about if body.boot != group.streams[device, body.epoch].boot}
        names |= {message.device for message in messages if isinstance(message.body, Status)}
        group.devices = {row[0]: _Device(*row) for row in self._sql.devices(sorted(names))}
        return group

    def _write(self, group: _Group) -> None:
        self._insert_events(group)
        if group.changed:
            self._sql.update_streams(list(map(_STREAM_ROW, group.changed.values())))
        if group.told:
            self._sql.write_devices(list(map(_DEVICE_ROW, group.told.values())))

    def _insert_events(self, group: _Group) -> None:
        if group.events:
            self._sql.insert_events(group.events)
            group.events = []

    def _apply(self, message: Message, group: _Group) -> Outcome:
        match message.body:
            case BatchOf() as batch:
                return self._apply_batch(message.device, batch, message.at_ms, group)
            case Match() as match:
                self._apply_match(message.device, match, message.at_ms, group)
                return True
            case Status() as status:
                return self._apply_status(message.device, status, None if message.retained else message.at_ms, group)
            case BatchRefused() as refused:
                return self._answer_refused(message.device, refused)
            case Unreadable(topic, reason, raw):
                self._losses.quarantine(topic, reason, raw, message.at_ms)
                return True

    def _apply_batch(self, device: str, batch: BatchOf[Event | Row], now_ms: int, group: _Group) -> Ack:
        stream = group.streams[device, batch.epoch]
        decision = decide(batch, stream.watermark, *self._stored(stream, batch, group))
        self._add(stream, decision.store, group)
        gaps, quarantined = self._losses.fill(stream.id, decision.late) if stream.gaps or stream.quarantined else (0, 0)
        stream.stored += len(decision.store) - len(decision.late) + gaps + quarantined
        self._losses.declare(stream.id, decision.declared, now_ms)
        self._losses.reject(device, stream.id, decision, now_ms)
        stream.gaps += sum(span.size for span in decision.declared) - gaps
        stream.quarantined += len(decision.quarantined) - quarantined
        stream.watermark, stream.head, stream.oldest = decision.watermark, batch.head, batch.oldest
        self._see(stream, batch.boot, now_ms, group)
        return answer(batch, decision, self.identity)

    def _answer_refused(self, device: str, refused: BatchRefused) -> Ack:
        """The answer to a batch that breaks the contract as a whole; nothing of it counts."""
        query = StreamRow.select(StreamRow.watermark).where((StreamRow.device == device) & (StreamRow.epoch == refused.epoch))
        watermark = next((row[0] for row in self._run(query.tuples())), 0)
        return Ack(refused.epoch, refused.boot, refused.key, watermark, self.identity, error=str(refused))

    def _apply_match(self, device: str, match: Match, now_ms: int, group: _Group) -> None:
        """Store the realtime copy of an event; a no-op where its history copy came first."""
        stream, seq = group.streams[device, match.epoch], match.event.seq
        if seq in group.contents[stream.id]:
            return
        self._add(stream, (match.event,), group)
        late = (seq,) if seq <= stream.watermark else ()
        gaps, quarantined = self._losses.fill(stream.id, late) if stream.gaps or stream.quarantined else (0, 0)
        stream.stored += 1 - len(late) + gaps + quarantined
        stream.gaps -= gaps
        stream.quarantined -= quarantined
        stream.head = max(stream.head, seq)
        self._see(stream, match.boot, now_ms, group)

    def _apply_status(self, device: str, status: Status, now_ms: int | None, group: _Group) -> bool:
        """Note what a device says of itself; False for a will or status of an earlier boot, which is ignored.

        One that the broker had kept, where `now_ms` is None, is no sign of life: its device may have died with its broker.
        """
        known = group.devices.setdefault(device, _Device(device))
        boots = tuple(known.boots.split())
        if not presence.counts(boots, status.boot, online=status.online):
            return False
        known.boots = " ".join(presence.seen(boots, status.boot))
        known.epoch = status.epoch or known.epoch
        known.online = status.online
        known.last_seen = known.last_seen if now_ms is None else now_ms
        if status.online:
            before = codec.unpack(known.status) if known.status and now_ms is None else {}
            came = to_map(status) | ({} if now_ms is None else {"received_at": now_ms})
            # When a worker comes back it is told once more what it knows, and knows when it came.
            known.status = codec.pack(before if before | came == before else came)
        group.told[device] = known
        return True

    def _stored(self, stream: _Stream, batch: BatchOf[Event | Row], group: _Group) -> tuple[dict[int, Content], list[Range]]:
        """What `decide` must know: contents of the batch's own seqs, and where else there are events."""
        known = group.contents[stream.id]
        stored = {seq: content for seq, content in known.items() if batch.after < seq <= batch.cursor} if known else known
        start = max(batch.after, stream.watermark)
        if batch.cursor - batch.after <= DENSE or batch.after > stream.watermark or start >= batch.cursor:
            return stored, []
        self._insert_events(group)
        return stored, [Range(*row) for row in self._runs(stream.id, start + 1, batch.cursor)]

    def _add(self, stream: _Stream, events: Sequence[Event | Row], group: _Group) -> None:
        self.rows.of(events).add_to(group.events, stream.id)
        if stream.messages > 1:
            group.contents[stream.id].update((event.seq, Content.of(event)) for event in events)

    def _see(self, stream: _Stream, boot: str, now_ms: int, group: _Group) -> None:
        if boot != stream.boot:
            known = group.devices.setdefault(stream.device, _Device(stream.device))
            boots = presence.seen(tuple(known.boots.split()), boot)
            if boots[-1] == boot:
                known.boots, known.epoch, known.last_seen = " ".join(boots), stream.epoch, now_ms
                group.told[stream.device] = known
        stream.boot, stream.last_seen = boot, now_ms
        group.changed[stream.id] = stream

    def _runs(self, stream: int, first: int, last: int) -> Any:
        """First and last of each run of seqs that are stored without a hole; as many rows as there are runs, not events."""
        place = peewee.fn.ROW_NUMBER().over(order_by=[EventRow.seq])
        numbered = EventRow.select(EventRow.seq, (EventRow.seq - place).alias("run"))
        numbered = numbered.where((EventRow.stream == stream) & EventRow.seq.between(first, last))
        runs = peewee.Select([numbered], [peewee.fn.MIN(numbered.c.seq), peewee.fn.MAX(numbered.c.seq)])
        return self._run(runs.group_by(numbered.c.run).tuples())

    def _run(self, query: Any) -> Any:
        return query.bind(self._db).execute()


def open_store(location: Location, *, alone: bool = True) -> Store:
    """Open the store for writing.

    Args:
        location: the database; made if it is not there.
        alone: as a worker. One process at a time is that of a SQLite store, any number of a PostgreSQL one. Otherwise for a
            command that writes a little beside a worker: the store must be there.

    Raises:
        StoreError: another worker has it, or it cannot be opened (see `open_database`).
    """
    dialect = dialect_of(location)
    resources = contextlib.ExitStack()
    try:
        if alone:
            resources.enter_context(dialect.held())
        database = dialect.open("create" if alone else "write")
        resources.callback(database.close)
        with store_errors(location):
            if alone:
                create_tables(dialect, database, secrets.token_hex(8))
            return Store(dialect, database, resources)
    except BaseException:
        resources.close()
        raise


def _ranges(stream: int, body: BatchOf[Event | Row] | Match) -> Iterator[tuple[int, int, int]]:
    """The seqs that a message is about, as ranges (stream, first, last)."""
    if isinstance(body, Match):
        yield stream, body.event.seq, body.event.seq
    elif body.cursor - body.after > DENSE:
        seqs = (*(event.seq for event in body.events), *(bad.seq for bad in body.bad if bad.seq is not None))
        yield from ((stream, seq, seq) for seq in seqs)
    elif body.after < body.cursor:
        yield stream, body.after + 1, body.cursor
