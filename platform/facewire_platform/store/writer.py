"""Stores batches, matches, statuses and unreadable messages: one transaction for each group.

    read the rows that the group needs ─▶ decide message by message ─▶ write the rows ─▶ commit

`ingest` and `presence` are the rules. This module reads the rows that they need and writes the ones
that they decide. It keeps nothing in memory between groups, so that another worker can go on at any
time. One thread uses it.
"""

import contextlib
import secrets
from collections.abc import Iterator, Sequence
from typing import Any, Final, NamedTuple, TypeAlias

from facewire import codec
from facewire.errors import BatchRefused, StoreError
from facewire.events import Event
from facewire.messages import Ack, BatchOf, Match, Status, encode, to_map
from facewire_platform import presence
from facewire_platform.ingest import Content, Range, answer, decide, highest, loss
from facewire_platform.sightings import Turns, pace
from facewire_platform.store.database import dialect_of
from facewire_platform.store.dialect import Dialect
from facewire_platform.store.drivers import DATABASE_ERRORS, Location, failure, is_outage, store_errors
from facewire_platform.store.group import DEVICE_VALUES, STREAM_VALUES, Device, Group, Stream
from facewire_platform.store.losses import Losses
from facewire_platform.store.migrate import create_tables
from facewire_platform.store.rows import Row, Rows
from facewire_platform.store.schema import StreamRow
from facewire_platform.store.successions import Located, Successions

#: If a batch spans more seqs than this, its events are far apart: look them up one by one.
DENSE: Final = 1_000
#: Bytes kept of a match whose seq is not plausible. They name its event, without photographs.
KEPT_OF_A_MATCH: Final = 1_024


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


#: The ack of a batch. For other messages, whether it counted: not if an earlier boot sent a status.
Outcome: TypeAlias = Ack | bool


class Store:
    """An open store for writing. Use `open_store`."""

    def __init__(self, dialect: Dialect, database: Any, resources: contextlib.ExitStack) -> None:
        self._dialect = dialect
        self._db = database
        self._resources = resources
        self._file = dialect.file_id()
        self._sql = dialect.statements(database)
        #: The form in which events are stored fastest.
        self.rows: type[Rows] = dialect.rows
        self._losses = Losses(database)
        self._successions = Successions(database, self._sql, self._losses, self._insert)
        #: Each ack carries it.
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
        """Whether the file was removed or replaced, or the connection is lost."""
        return self._dialect.file_id() != self._file or not self._db.is_connection_usable()

    def store(self, messages: Sequence[Message]) -> list[Outcome]:
        """Store a group of messages in one transaction. When it returns, they are durable.

        Returns:
            The outcome of each message, in their order. Acks may be published now, not before.

        Raises:
            StoreError: an outage (locked, full, no connection). Nothing was written, unless the
                connection was lost during the commit. Store the group again: it does no harm.
        """
        try:
            with self._dialect.transaction(self._db):
                group = self._read(messages)
                outcomes = [self._apply(message, group) for message in messages]
                self._write(group)
        except DATABASE_ERRORS as exc:
            if is_outage(exc):
                raise StoreError(failure(self._dialect.location, exc)) from exc
            raise
        if self._dialect.file_id() != self._file:
            raise StoreError(f"{self._dialect.location}: was removed or replaced while in use")
        return outcomes

    def _read(self, messages: Sequence[Message]) -> Group:
        group = Group()
        about = [(message.device, message.body) for message in messages if isinstance(message.body, BatchOf | Match)]
        keys = dict.fromkeys((device, body.epoch) for device, body in about)
        group.streams = {(row[1], row[2]): Stream(*row) for row in self._sql.streams(list(keys))}
        group.contents = {stream.id: {} for stream in group.streams.values()}
        for device, body in about:
            group.streams[device, body.epoch].messages += 1
        ranges = [span for device, body in about for span in _ranges(group.streams[device, body.epoch].id, body)]
        for stream, seq, timestamp, identity_id, score in self._sql.contents(ranges):
            group.contents[stream][seq] = Content(timestamp, identity_id, score)
        names = {device for device, body in about if body.boot != group.streams[device, body.epoch].boot}
        names |= {message.device for message in messages if isinstance(message.body, Status)}
        group.devices = {row[0]: Device(*row) for row in self._sql.devices(sorted(names))}
        return group

    def _write(self, group: Group) -> None:
        self._insert_events(group)
        if group.changed_streams:
            self._sql.update_streams(list(map(STREAM_VALUES, group.changed_streams.values())))
        if group.changed_devices:
            self._sql.write_devices(list(map(DEVICE_VALUES, group.changed_devices.values())))

    def _insert(self, group: Group, stream: Stream, events: Sequence[Event | Row]) -> None:
        self._add(stream, events, group)
        self._insert_events(group)

    def _insert_events(self, group: Group) -> None:
        if group.events:
            self._sql.insert_events(group.events)
            group.events = []

    def _apply(self, message: Message, group: Group) -> Outcome:
        match message.body:
            case BatchOf() as batch:
                return self._apply_batch(message.device, batch, message.at_ms, group)
            case Match() as match:
                return self._apply_match(message.device, match, message.at_ms, group)
            case Status() as status:
                self._remember_head(message.device, status, message.at_ms, group)
                return self._apply_status(message.device, status, None if message.retained else message.at_ms, group)
            case BatchRefused() as refused:
                return self._answer_refused(message.device, refused)
            case Unreadable(topic, reason, raw):
                self._losses.quarantine(topic, reason, raw, message.at_ms)
                return True

    def _apply_batch(self, device: str, batch: BatchOf[Event | Row], now_ms: int, group: Group) -> Ack:
        stream = group.streams[device, batch.epoch]
        known_head, silent_ms = stream.head, now_ms - stream.last_seen
        self._hear(stream, batch.boot, batch.head, now_ms, group)
        located = Located()
        if batch.origins or stream.linked or not stream.leads:
            self._successions.follow(stream, batch, now_ms, group)
            located = self._successions.locate(stream, batch.events, group)
        stored, runs = self._stored(stream, batch, group)
        decision = decide(
            batch,
            stream.watermark,
            stored | located.moved if located.moved else stored,
            runs,
            elsewhere=located.elsewhere,
            earlier_head=stream.heads.before(batch.boot),
        )
        if located.twins:
            self._successions.take_over(decision.store, located, group)
        self._add(stream, decision.store, group)
        self._losses.add(stream, len(decision.store), decision.late)
        if decision.declared:
            most = highest(known_head, silent_ms)
            self._losses.declare(stream.id, [(gap, loss(gap, batch.oldest, most)) for gap in decision.declared], now_ms)
        self._losses.reject(device, stream.id, decision, now_ms)
        self._losses.continue_elsewhere(stream.id, [Range(seq, seq) for seq in decision.continued])
        stream.gaps += sum(span.size for span in decision.declared)
        stream.quarantined += len(decision.quarantined)
        stream.continued += len(decision.continued)
        stream.watermark, stream.oldest = decision.watermark, batch.oldest
        if not stream.leads:
            self._successions.settle(stream, now_ms, group)
        return answer(batch, decision, self.identity)

    def _answer_refused(self, device: str, refused: BatchRefused) -> Ack:
        """The ack of a batch that breaks the contract as a whole. Nothing of it is stored."""
        query = StreamRow.select(StreamRow.watermark).where((StreamRow.device == device) & (StreamRow.epoch == refused.epoch))
        watermark = next((row[0] for row in self._run(query.tuples())), 0)
        return Ack(refused.epoch, refused.boot, refused.key, watermark, self.identity, error=str(refused))

    def _apply_match(self, device: str, match: Match, now_ms: int, group: Group) -> bool:
        """Store the realtime copy of an event, unless its history copy is stored already.

        False if its seq is not plausible: then the quarantine has it.
        """
        stream, seq = group.streams[device, match.epoch], match.event.seq
        if seq > (most := highest(stream.heads.head, now_ms - stream.last_seen)):
            reason = f"seq {seq} is over {most}: more events than a device can have recorded"
            self._losses.quarantine(f"{device}/match", reason, encode(match)[:KEPT_OF_A_MATCH], now_ms)
            return False
        if stream.linked and self._successions.locate(stream, (match.event,), group).handled:
            return True
        if seq in group.contents[stream.id]:
            return True
        self._hear(stream, match.boot, seq, now_ms, group)
        self._add(stream, (match.event,), group)
        self._losses.add(stream, 1, (seq,) if seq <= stream.watermark else ())
        if not stream.leads:
            self._successions.settle(stream, now_ms, group)
        return True

    def _remember_head(self, device: str, status: Status, now_ms: int, group: Group) -> None:
        """Report the head of the epoch before, if this status replaces that epoch's last one."""
        known = group.devices.get(device)
        before = codec.unpack(known.status) if known and known.status else {}
        epoch, head = before.get("epoch"), before.get("head")
        if status.online and epoch and head and epoch != status.epoch:
            self._successions.report_head(device, epoch, before["boot"], head, now_ms, group)

    def _apply_status(self, device: str, status: Status, now_ms: int | None, group: Group) -> bool:
        """Store the status of a device. Ignore a will or status of an earlier boot: False.

        For a retained message `now_ms` is None. It is no sign of life: the device may have died
        together with the broker.
        """
        known = group.devices.setdefault(device, Device(device))
        boots = tuple(known.boots.split())
        before = codec.unpack(known.status) if known.status else {}
        if status.online and now_ms is not None:
            turns = Turns(*before.get("turns", ())).heard(status.boot, now_ms, is_known=status.boot in boots)
            before |= {"turns": list(turns)}
        if not presence.counts(boots, status.boot, online=status.online):
            if known.status and "turns" in before:
                known.status = codec.pack(before)
                group.changed_devices[device] = known
            return False
        known.boots = " ".join(presence.seen(boots, status.boot))
        known.epoch = status.epoch or known.epoch
        known.online = status.online
        known.last_seen = known.last_seen if now_ms is None else now_ms
        if status.online:
            received = to_map(status)
            if now_ms is not None:
                noted = {"turns": before["turns"], "pace": pace(before, status.epoch, status.head, now_ms)}
                known.status = codec.pack(received | noted | {"received_at": now_ms})
            elif before | received != before:
                known.status = codec.pack(received | ({"turns": before["turns"]} if "turns" in before else {}))
            # Otherwise a worker that reconnected got the same status again: keep its `received_at`.
        group.changed_devices[device] = known
        return True

    def _stored(self, stream: Stream, batch: BatchOf[Event | Row], group: Group) -> tuple[dict[int, Content], list[Range]]:
        """For `decide`: contents of the batch's own seqs, and ranges of other events."""
        known = group.contents[stream.id]
        stored = {seq: content for seq, content in known.items() if batch.after < seq <= batch.cursor} if known else known
        if batch.cursor - batch.after <= DENSE or not batch.after <= stream.watermark < batch.cursor:
            return stored, []
        self._insert_events(group)
        return stored, [Range(*row) for row in self._successions.runs(stream.id, Range(stream.watermark + 1, batch.cursor))]

    def _add(self, stream: Stream, events: Sequence[Event | Row], group: Group) -> None:
        self.rows.of(events).add_to(group.events, stream.id)
        if events and events[0].seq <= stream.watermark:
            late = [(event.seq, event.timestamp) for event in events if event.seq <= stream.watermark]
            self._losses.change(stream.id, late)
        if stream.messages > 1:
            group.contents[stream.id].update((event.seq, Content.of(event)) for event in events)

    def _hear(self, stream: Stream, boot: str, head: int, now_ms: int, group: Group) -> None:
        """A message of `boot` reaches up to seq `head`."""
        if boot != stream.boot:
            known = group.devices.setdefault(stream.device, Device(stream.device))
            boots = presence.seen(tuple(known.boots.split()), boot)
            if boots[-1] == boot:
                known.boots, known.epoch, known.last_seen = " ".join(boots), stream.epoch, now_ms
                group.changed_devices[stream.device] = known
                stream.boot = boot
        stream.report(boot, head)
        stream.last_seen = now_ms
        group.change(stream)

    def _run(self, query: Any) -> Any:
        return query.bind(self._db).execute()


def open_store(location: Location, *, alone: bool = True) -> Store:
    """Open the store for writing.

    Args:
        location: the database. A worker creates a missing one.
        alone: open it as a worker does: SQLite allows one at a time, PostgreSQL any number. False
            for a command that writes a little beside a worker.

    Raises:
        StoreError: another worker has it, or it cannot be opened (see `open_database`).
    """
    dialect = dialect_of(location)
    resources = contextlib.ExitStack()
    try:
        if alone:
            resources.enter_context(dialect.worker_lock())
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
