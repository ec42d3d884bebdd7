"""Applies the rules of `succession` to the database, within the writer's transaction.

Few devices ever fork, so none of this runs for a stream that leads and has no links.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

import peewee

from facewire.events import Event
from facewire.messages import BatchOf
from facewire_platform.ingest import Content, Range, missing
from facewire_platform.store.dialect import Statements
from facewire_platform.store.group import Group, Stream
from facewire_platform.store.losses import Losses
from facewire_platform.store.rows import Row
from facewire_platform.store.schema import EventRow, LinkRow, StreamRow
from facewire_platform.succession import Link, destination, end, leads, link, places

#: A stream's id and a seq.
Place: TypeAlias = tuple[int, int]
#: Rows in one DELETE.
_DELETED_AT_ONCE: Final = 500


@dataclass(slots=True)
class Located:
    """The places where a message's events are stored under other names."""

    #: By seq: the content stored where the seq has moved to.
    moved: dict[int, Content] = field(default_factory=dict)
    #: Seqs whose events a newer epoch has.
    elsewhere: set[int] = field(default_factory=set)
    #: By seq: the places under older names that hold the same event.
    twins: dict[int, list[Place]] = field(default_factory=dict)

    @property
    def handled(self) -> set[int]:
        """Seqs whose events need not be stored."""
        return self.moved.keys() | self.elsewhere


class Successions:
    """Ends epochs, and moves events to the epochs that continue them.

    Args:
        database: open for writing.
        statements: its dialect's.
        losses: the same database's.
        insert: stores rows for a stream, and writes all rows that wait in the group.
    """

    def __init__(
        self, database: Any, statements: Statements, losses: Losses, insert: Callable[[Group, Stream, Sequence[Event | Row]], None]
    ) -> None:
        self._db = database
        self._sql = statements
        self._losses = losses
        self._insert = insert

    def follow(self, stream: Stream, batch: BatchOf[Event | Row], now_ms: int, group: Group) -> None:
        """End the epochs that the batch's epoch continues, or that its device has left for it."""
        links = self._links(stream.device, group)
        if sum(known.newer == stream.id for known in links) < len(batch.origins):
            for origin in batch.origins:
                older = self._stream(stream.device, origin.epoch, group)
                declared = link(origin, older.id, stream.id, links)
                if declared is not None:
                    links.append(declared)
                    self._run(LinkRow.insert(declared._asdict()))
                    older.linked = stream.linked = True
                    self._end(older, now_ms, group, declared, batch.boot)
        if not stream.leads:
            self._lead(stream, batch.boot, now_ms, group)

    def settle(self, stream: Stream, now_ms: int, group: Group) -> None:
        """After a message of an epoch that the device has left: what is missing will not come."""
        if not stream.leads and self._leader(stream.device, group) is not None:
            self._end(stream, now_ms, group)

    def report_head(self, device: str, epoch: str, boot: str, head: int, now_ms: int, group: Group) -> None:
        """Note how far an epoch reaches by a status; there may have been no batch of it."""
        stream = self._stream(device, epoch, group)
        stream.report(boot, head)
        group.change(stream)
        self.settle(stream, now_ms, group)

    def locate(self, stream: Stream, events: Sequence[Event | Row], group: Group) -> Located:
        """Find the events under other names. Those whose seqs have moved are stored there."""
        located = Located()
        links = self._links(stream.device, group)
        # A device that forks at each start has thousands of links, and most events only one place.
        near = [known for known in links if stream.id in {known.older, known.newer}]
        others = {event.seq: places(links, stream.id, event.seq) for event in events if places(near, stream.id, event.seq)}
        if not others:
            return located
        self._insert(group, stream, ())
        stored = self._contents(place for found in others.values() for place in found)
        for event in events:
            if event.seq in others:
                self._locate_one(stream, event, {place: stored[place] for place in others[event.seq] if place in stored}, located, group)
        return located

    def _locate_one(self, stream: Stream, event: Event | Row, stored: Mapping[Place, Content], located: Located, group: Group) -> None:
        content, seq = Content.of(event), event.seq
        equal = [place for place, other in stored.items() if other == content]
        target = destination(self._links(stream.device, group), stream.id, seq)
        if target != (stream.id, seq):
            if target not in stored and not equal:
                self._insert(group, stream, (event,))
                self._move_row((stream.id, seq), target, content, group)
            located.moved[seq] = stored.get(target, content)
        elif stream.leads:
            located.twins[seq] = equal
        elif equal:
            located.elsewhere.add(seq)

    def take_over(self, events: Sequence[Event | Row], located: Located, group: Group) -> None:
        """These events are stored under a newer name now: remove them under the older ones."""
        for event in events:
            for place in located.twins.get(event.seq, ()):
                self._remove(place, event.timestamp, group)

    def _lead(self, stream: Stream, boot: str, now_ms: int, group: Group) -> None:
        leader = self._leader(stream.device, group)
        links = self._links(stream.device, group)
        if leader is not None and not leads(stream.id, boot, leader.id, leader.boot, links):
            return
        for other in self._open_streams(stream, group):
            other.leads = False
            group.change(other)
            self._end(other, now_ms, group)
        stream.leads = True
        group.change(stream)

    def _links(self, device: str, group: Group) -> list[Link]:
        """The links of a device, read once for each group."""
        if device not in group.links:
            query = LinkRow.select(LinkRow).join(StreamRow, on=StreamRow.id == LinkRow.older).where(StreamRow.device == device)
            group.links[device] = [Link(*values) for values in self._run(query.tuples())]
        return group.links[device]

    def _leader(self, device: str, group: Group) -> Stream | None:
        for stream in group.streams.values():
            if stream.device == device and stream.leads:
                return stream
        query = StreamRow.select(StreamRow.epoch).where((StreamRow.device == device) & StreamRow.leads)
        for (epoch,) in self._run(query.tuples()):
            return self._stream(device, epoch, group)
        return None

    def _open_streams(self, stream: Stream, group: Group) -> list[Stream]:
        """The device's other streams that the platform expects more of, and those of the group."""
        is_open = StreamRow.head > StreamRow.watermark
        query = StreamRow.select(StreamRow.epoch).where((StreamRow.device == stream.device) & is_open)
        epochs = {epoch for (epoch,) in self._run(query.tuples())} | {epoch for device, epoch in group.streams if device == stream.device}
        return [self._stream(stream.device, epoch, group) for epoch in sorted(epochs - {stream.epoch})]

    def _stream(self, device: str, epoch: str, group: Group) -> Stream:
        key = (device, epoch)
        if key not in group.streams:
            (row,) = self._sql.streams([key])
            group.streams[key] = Stream(*row)
        return group.streams[key]

    def _stream_by_id(self, stream: int, group: Group) -> Stream:
        for known in group.streams.values():
            if known.id == stream:
                return known
        query = StreamRow.select(StreamRow.device, StreamRow.epoch).where(StreamRow.id == stream)
        ((device, epoch),) = self._run(query.tuples())
        return self._stream(device, epoch, group)

    def _end(self, stream: Stream, now_ms: int, group: Group, successor: Link | None = None, boot: str = "") -> None:
        if successor is None and stream.head <= stream.watermark:
            return
        self._insert(group, stream, ())
        ending = end(stream.watermark, stream.head, successor, stream.heads.before(boot))
        if ending.continued is not None and successor is not None:
            self._move(stream, successor, ending.continued, group)
        for span in ending.lost:
            gaps = list(missing(span, self.runs(stream.id, span)))
            self._losses.declare(stream.id, [(gap, "ended") for gap in gaps], now_ms)
            stream.gaps += sum(gap.size for gap in gaps)
        stream.watermark = stream.head = ending.watermark
        group.change(stream)

    def _move(self, older: Stream, successor: Link, span: Range, group: Group) -> None:
        """Give all events of a span their new names."""
        query = EventRow.select(EventRow.seq, EventRow.timestamp, EventRow.identity_id, EventRow.score)
        in_span = (EventRow.stream == older.id) & EventRow.seq.between(*span)
        rows = {seq: Content(*content) for seq, *content in self._run(query.where(in_span).tuples())} if span.size else {}
        below = max(0, min(span.last, older.watermark) - span.first + 1)
        gaps, rejected, continued = self._losses.cut(older.id, span)
        older.stored -= below - gaps - rejected - continued + sum(seq > older.watermark for seq in rows)
        older.gaps -= gaps
        older.quarantined -= rejected
        older.continued += span.size - continued
        if span.size:
            self._losses.continue_elsewhere(older.id, (span,))
        targets = {seq: destination(self._links(older.device, group), older.id, seq) for seq in rows}
        taken = self._contents(targets.values())
        self._losses.change(older.id, [(seq, content.timestamp) for seq, content in rows.items() if seq <= older.watermark])
        self._delete(older.id, [seq for seq in rows if targets[seq] in taken])
        free = {seq: target for seq, target in targets.items() if target not in taken}
        if {target[0] for target in free.values()} == {successor.newer}:
            moved = {EventRow.stream: successor.newer, EventRow.seq: EventRow.seq - (span.first - 1)}
            self._run(EventRow.update(moved).where(in_span))
            for seq, target in free.items():
                self._count_moved(target, rows[seq], group)
        else:
            for seq, target in free.items():
                self._move_row((older.id, seq), target, rows[seq], group)

    def _move_row(self, place: Place, target: Place, content: Content, group: Group) -> None:
        moved = {EventRow.stream: target[0], EventRow.seq: target[1]}
        self._run(EventRow.update(moved).where((EventRow.stream == place[0]) & (EventRow.seq == place[1])))
        self._count_moved(target, content, group)

    def _count_moved(self, target: Place, content: Content, group: Group) -> None:
        newer = group.change(self._stream_by_id(target[0], group))
        late = (target[1],) if target[1] <= newer.watermark else ()
        self._losses.add(newer, 1, late)
        self._losses.change(newer.id, [(seq, content.timestamp) for seq in late])
        group.contents.setdefault(target[0], {})[target[1]] = content

    def _remove(self, place: Place, timestamp: int, group: Group) -> None:
        stream, seq = group.change(self._stream_by_id(place[0], group)), place[1]
        self._delete(stream.id, [seq])
        group.contents.setdefault(stream.id, {}).pop(seq, None)
        stream.stored -= 1
        if seq <= stream.watermark:
            self._losses.change(stream.id, [(seq, timestamp)])
            self._losses.continue_elsewhere(stream.id, (Range(seq, seq),))
            stream.continued += 1

    def _delete(self, stream: int, seqs: Sequence[int]) -> None:
        for start in range(0, len(seqs), _DELETED_AT_ONCE):
            some = seqs[start : start + _DELETED_AT_ONCE]
            self._run(EventRow.delete().where((EventRow.stream == stream) & EventRow.seq.in_(some)))

    def _contents(self, wanted: Iterable[Place]) -> dict[Place, Content]:
        ranges = [(stream, seq, seq) for stream, seq in sorted(set(wanted))]
        return {(row[0], row[1]): Content(*row[2:]) for row in self._sql.contents(ranges)}

    def runs(self, stream: int, span: Range) -> Any:
        """First and last seq of each unbroken run of stored events; one row for each run."""
        place = peewee.fn.ROW_NUMBER().over(order_by=[EventRow.seq])
        numbered = EventRow.select(EventRow.seq, (EventRow.seq - place).alias("run"))
        numbered = numbered.where((EventRow.stream == stream) & EventRow.seq.between(*span))
        runs = peewee.Select([numbered], [peewee.fn.MIN(numbered.c.seq), peewee.fn.MAX(numbered.c.seq)])
        return self._run(runs.group_by(numbered.c.run).tuples())

    def _run(self, query: Any) -> Any:
        return query.bind(self._db).execute()
