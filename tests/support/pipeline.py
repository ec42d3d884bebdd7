"""The pipeline as a value: real uploader, ring and ingest rules, a pipe, and a platform in memory.

`World` has every action that may happen to a `State`. test_exploration.py tries them all.
`Database` is the platform's transaction by the pure rules; test_platform_successions.py compares it
with the real store.
"""

import types
from collections.abc import Iterator
from typing import Any, Final, NamedTuple, TypeAlias

import facewire_device.uploader as real_uploader
from facewire.events import Event
from facewire.messages import Ack, Batch, Status
from facewire_device.ring import Ring
from facewire_platform.ingest import Content, Range, answer, decide
from facewire_platform.presence import counts, seen
from facewire_platform.succession import Heads, Link, destination, end, leads, link, places

#: A moment by which every wait is over, s.
LATER: Final = 1e6
CAPACITY: Final = 2
BATCH: Final = 2


class NoFields(dict[str, Any]):
    """An event's `extra` that can be hashed."""

    def __hash__(self) -> int:  # type: ignore[override]  # dict has none
        return 0


def event(seq: int, content: int) -> Event:
    return Event(seq, content, 0.5, "p", "", 1, None, None, _NO_FIELDS)


_NO_FIELDS: Final = NoFields()


class RealtimeCopy(NamedTuple):
    epoch: str
    boot: str
    event: Event


class Stream(NamedTuple):
    watermark: int = 0
    heads: Heads = Heads()
    boot: str = ""
    stored: tuple[tuple[int, int], ...] = ()
    gaps: frozenset[int] = frozenset()
    #: Seqs at or below the watermark whose events belong to another epoch now.
    continued: frozenset[int] = frozenset()
    #: Seqs at or below the watermark whose events broke the contract.
    rejected: frozenset[int] = frozenset()


class Device(NamedTuple):
    ring: Ring
    #: Contents of the seqs from oldest to head.
    held: tuple[int, ...] = ()


class Platform(NamedTuple):
    """The platform's database. A stream is known by the number in its epoch's name."""

    streams: tuple[tuple[int, Stream], ...] = ()
    links: tuple[Link, ...] = ()
    #: Boots of the device, in the order in which they were first seen.
    boots: tuple[str, ...] = ()
    #: The epoch that the device is in, as its batches say.
    leader: int = 0
    #: The last status that counts.
    status: Status | None = None


Message: TypeAlias = Batch | RealtimeCopy | Ack | Status


class Faults(NamedTuple):
    """How often each fault may still happen."""

    records: int
    reboots: int
    snapshots: int
    platform_restores: int
    images: int
    device_restores: int
    resets: int
    moves: int = 0


class State(NamedTuple):
    device: Device
    boot: int
    in_flight: tuple[str, int] | None
    platform: Platform
    pipe: frozenset[Message]
    snapshot: Platform
    image: Device
    epochs: int
    recorded: int
    #: Contents that may be missing on the platform.
    excused: frozenset[int]
    #: What forks left behind, acked: (content, epoch, seq).
    behind: frozenset[tuple[int, int, int]]
    #: What died with its store although the platform had heard of it: (content, epoch, seq).
    heard: frozenset[tuple[int, int, int]]
    faults: Faults


class World:
    """The actions, with one uploader module (the real one or a mutant)."""

    def __init__(
        self,
        uploader: types.ModuleType = real_uploader,
        *,
        probes: bool = True,
        successions: bool = True,
        tails: bool = True,
        hears: bool = True,
        pipe_size: int = 2,
        capacity: int = CAPACITY,
        batch_size: int = BATCH,
    ) -> None:
        self.uploader = uploader
        self.probes = probes
        self.successions = successions
        self.tails = tails
        #: Whether to remember what died with a store although the platform had heard of it.
        self.hears = hears
        self.pipe_size = pipe_size
        self.capacity, self.batch_size = capacity, batch_size
        #: The cursor and the conflict of the last ack of each batch.
        self.answers: dict[Batch, tuple[int, int | None]] = {}

    def start(self, faults: Faults) -> State:
        fresh = Device(Ring("e1"))
        return State(fresh, 1, None, Platform(), frozenset(), Platform(), fresh, 1, 0, frozenset(), frozenset(), frozenset(), faults)

    def successors(self, s: State) -> Iterator[State]:
        yield from self.send(s)
        for message in s.pipe:
            yield s._replace(pipe=s.pipe - {message})
            yield self.deliver(s, message)
        f = s.faults
        if f.records:
            yield from self.record(s)
        if f.reboots:
            yield self._boot(s._replace(faults=f._replace(reboots=f.reboots - 1)))
        if f.snapshots and s.platform != s.snapshot:
            yield s._replace(snapshot=s.platform, faults=f._replace(snapshots=f.snapshots - 1))
        if f.platform_restores and s.platform != s.snapshot:
            yield s._replace(platform=s.snapshot, heard=frozenset(), faults=f._replace(platform_restores=f.platform_restores - 1))
        if f.images and s.device != s.image:
            yield s._replace(image=s.device, faults=f._replace(images=f.images - 1))
        if f.device_restores and s.device != s.image:
            yield self._replace_device(s._replace(faults=f._replace(device_restores=f.device_restores - 1)), s.image)
        if f.moves:
            yield self._boot(self._fork(s._replace(faults=f._replace(moves=f.moves - 1)), s.device.ring.cursor + 1, diverged=False))
        if f.resets:
            epochs = s.epochs + 1
            yield self._replace_device(s._replace(epochs=epochs, faults=f._replace(resets=f.resets - 1)), Device(Ring(f"e{epochs}")))

    def record(self, s: State) -> Iterator[State]:
        content = s.recorded + 1
        before = s.device
        ring = before.ring.appended(1, self.capacity)
        # A restored store that records before it is told of its lost tail gives a lost seq away.
        s = s._replace(heard=frozenset(item for item in s.heard if item[1] != int(ring.epoch[1:])))
        overwritten = ring.oldest - before.ring.oldest
        held = (*before.held, content)[overwritten:]
        s = s._replace(
            device=Device(ring, held),
            recorded=content,
            excused=s.excused.union(before.held[:overwritten]),
            faults=s.faults._replace(records=s.faults.records - 1),
        )
        yield s
        yield from self._put(s, RealtimeCopy(ring.epoch, f"b{s.boot}", event(ring.head, content)))

    def send(self, s: State) -> Iterator[State]:
        uploader = self._uploader(s)
        if not self._due(uploader, s):
            return
        batch = self._batch(s)
        uploader.sent(LATER, batch.epoch, batch.cursor)
        s = s._replace(in_flight=uploader.in_flight)
        yield from self._put(s, batch)

    def say(self, s: State) -> Iterator[State]:
        """The device publishes its status. `successors` has none, or there would be too many."""
        ring = s.device.ring
        yield from self._put(s, Status(f"b{s.boot}", True, 1, ring.epoch, ring.head, ring.oldest, ring.cursor))

    def deliver(self, s: State, message: Message) -> State:
        """The message stays in the pipe, so that it may arrive again."""
        match message:
            case RealtimeCopy():
                return s._replace(platform=self._store_copy(s.platform, message))
            case Status():
                return s._replace(platform=self._store_status(s.platform, message))
            case Batch():
                platform, ack = self._ingest(s.platform, message)
                return next(self._put(s._replace(platform=platform), ack), s._replace(platform=platform))
            case Ack():
                return self._acked(s, message)

    def healthy(self, s: State) -> State:
        """One round without faults: a batch, and its ack."""
        uploader = self._uploader(s)
        if not self._due(uploader, s):
            return s
        batch = self._batch(s)
        uploader.sent(LATER, batch.epoch, batch.cursor)
        platform, ack = self._ingest(s.platform, batch)
        return self._acked(s._replace(in_flight=uploader.in_flight, platform=platform), ack)

    def _due(self, uploader: real_uploader.Uploader, s: State) -> bool:
        return uploader.poll(LATER) and (self.probes or s.device.ring.lag > 0)

    def _uploader(self, s: State) -> real_uploader.Uploader:
        uploader: real_uploader.Uploader = self.uploader.Uploader(f"b{s.boot}", now=0.0, jitter=float)
        uploader.in_flight = s.in_flight
        uploader.connected(0.0)
        return uploader

    def _batch(self, s: State) -> Batch:
        ring, held = s.device
        first = max(ring.cursor + 1, ring.oldest)
        events = tuple(event(seq, held[seq - ring.oldest]) for seq in range(first, min(first + self.batch_size, ring.head + 1)))
        cursor = events[-1].seq if events else ring.cursor
        return Batch(ring.epoch, f"b{s.boot}", ring.cursor, cursor, ring.head, ring.oldest, events, origins=ring.origins)

    def _acked(self, s: State, ack: Ack) -> State:
        uploader = self._uploader(s)
        ring, held = s.device
        outcome_name = type(outcome := uploader.acked(LATER, ack, ring)).__name__
        s = s._replace(in_flight=uploader.in_flight)
        if outcome_name == "Adopt":
            return s._replace(device=Device(ring.adopted(outcome.cursor), held))  # type: ignore[union-attr]  # a mutant's class
        if outcome_name == "Fork":
            return self._fork(s, outcome.first, diverged=True)  # type: ignore[union-attr]  # a mutant's class
        return s

    def _fork(self, s: State, first: int, *, diverged: bool) -> State:
        ring, held = s.device
        epochs = s.epochs + 1
        forked = ring.forked(f"e{epochs}", first, diverged=diverged)
        remaining = held[len(held) - (forked.head - forked.oldest + 1) :]
        # From now on only the platform has the events that the fork leaves behind. They are excused
        # if it has them at this moment, or names them.
        behind = {(content, int(ring.epoch[1:]), seq) for seq, content in enumerate(held, ring.oldest) if content not in remaining}
        excused = s.excused | ({content for content, _, _ in behind} & contents(s.platform))
        return s._replace(device=Device(forked, remaining), epochs=epochs, excused=excused, behind=s.behind | behind)

    def _put(self, s: State, message: Message) -> Iterator[State]:
        if message in s.pipe or len(s.pipe) < self.pipe_size:
            yield s._replace(pipe=s.pipe | {message})

    def _boot(self, s: State) -> State:
        return s._replace(boot=s.boot + 1, in_flight=None)

    def _replace_device(self, s: State, device: Device) -> State:
        heard = s.heard | {item for item in _heard(s) if self.hears and item[0] not in device.held}
        return self._boot(s._replace(device=device, excused=s.excused.union(s.device.held), heard=heard))

    def _ingest(self, platform: Platform, batch: Batch) -> tuple[Platform, Ack]:
        database, number = Database(platform), int(batch.epoch[1:])
        database.hear(number, batch.boot, batch.head)
        elsewhere: set[int] = set()
        moved: dict[int, int] = {}
        if self.successions:
            database.succeed(number, batch)
            moved = {e.seq: content for e in batch.events if (content := database.redirect(number, e.seq, e.timestamp)) is not None}
            elsewhere = {e.seq for e in batch.events if database.is_again(number, e.seq, e.timestamp)}
        stream, all_stored = database.stream(number), database.stored(number) | moved
        stored = {seq: Content.of(event(seq, content)) for seq, content in all_stored.items() if batch.after < seq <= batch.cursor}
        earlier_head = stream.heads.before(batch.boot) if self.tails else 0
        decision = decide(batch, stream.watermark, stored, elsewhere=elsewhere, earlier_head=earlier_head)
        for e in decision.store:
            database.take_over(number, e.seq, e.timestamp)
            database.store(number, e.seq, e.timestamp)
        stream = database.stream(number)
        declared = {seq for span in decision.declared for seq in range(span.first, span.last + 1)}
        continued, rejected = stream.continued.union(decision.continued), stream.rejected.union(decision.quarantined)
        database.change(number, watermark=decision.watermark, gaps=stream.gaps | declared, continued=continued, rejected=rejected)
        if self.successions:
            database.settle(number)
        ack = answer(batch, decision, "store")
        self.answers[batch] = (ack.cursor, ack.conflict)
        return database.state(), ack

    def _store_copy(self, platform: Platform, copy: RealtimeCopy) -> Platform:
        database, number, seq = Database(platform), int(copy.epoch[1:]), copy.event.seq
        content = copy.event.timestamp
        if self.successions and (database.redirect(number, seq, content) is not None or database.is_again(number, seq, content)):
            return database.state()
        if seq not in database.stored(number):
            database.hear(number, copy.boot, seq)
            database.store(number, seq, content)
            if self.successions:
                database.settle(number)
        return database.state()

    def _store_status(self, platform: Platform, status: Status) -> Platform:
        database = Database(platform)
        database.remember(status)
        return database.state()


def _heard(s: State) -> set[tuple[int, int, int]]:
    """The events of the device's store that the platform knows of and does not have."""
    number = int(s.device.ring.epoch[1:])
    stream, there = dict(s.platform.streams).get(number, Stream()), contents(s.platform)
    taken = dict(stream.stored).keys()
    held = enumerate(s.device.held, s.device.ring.oldest)
    return {(content, number, seq) for seq, content in held if seq <= stream.heads.head and seq not in taken and content not in there}


class Database:
    """One transaction of the platform, by the pure rules of `succession`."""

    def __init__(self, platform: Platform) -> None:
        self.streams, self.links = dict(platform.streams), list(platform.links)
        self.boots, self.leader, self.status = platform.boots, platform.leader, platform.status
        self._contents: dict[int, dict[int, int]] = {}

    def state(self) -> Platform:
        for number, stored in self._contents.items():
            self.streams[number] = self.streams[number]._replace(stored=tuple(sorted(stored.items())))
        return Platform(tuple(sorted(self.streams.items())), tuple(self.links), self.boots, self.leader, self.status)

    def stream(self, number: int) -> Stream:
        return self.streams.setdefault(number, Stream())

    def stored(self, number: int) -> dict[int, int]:
        """The contents of a stream by seq, to be read and changed."""
        if number not in self._contents:
            self._contents[number] = dict(self.stream(number).stored)
        return self._contents[number]

    def change(self, number: int, **changes: Any) -> Stream:
        self.streams[number] = self.stream(number)._replace(**changes)
        return self.streams[number]

    def hear(self, number: int, boot: str, head: int) -> None:
        """A message of `boot` says that the stream reaches `head`."""
        stream = self.stream(number)
        self.boots = seen(self.boots, boot)
        newest = self.boots[-1] == boot
        self.change(number, boot=boot if newest else stream.boot, heads=stream.heads.report(boot, head))

    def remember(self, status: Status) -> None:
        """The status before this one may name an epoch that the platform has no batch of."""
        before = self.status
        if before is not None and before.head and before.epoch != status.epoch:
            number = int(str(before.epoch)[1:])
            self.change(number, heads=self.stream(number).heads.report(before.boot, before.head))
            self.settle(number)
        if counts(self.boots, status.boot, online=True):
            self.boots, self.status = seen(self.boots, status.boot), status

    def succeed(self, number: int, batch: Batch) -> None:
        """End the epochs that this one follows."""
        for origin in batch.origins:
            declared = link(origin, int(origin.epoch[1:]), number, self.links)
            if declared is not None:
                self.links.append(declared)
                self._end(declared.older, declared, batch.boot)
        if number != self.leader and self._leads(number, batch.boot):
            self.leader = number
            for other in self.streams.keys() - {number}:
                self._end(other, None)

    def settle(self, number: int) -> None:
        """A message of an epoch that the device left: the missing events will never arrive."""
        if self.leader not in {0, number}:
            self._end(number, None)

    def redirect(self, number: int, seq: int, content: int) -> int | None:
        """Store an event where its seq moved; returns the content there, or None if it stays."""
        place = destination(self.links, number, seq) if self.links else (number, seq)
        if place == (number, seq):
            return None
        there = self.stored(place[0]).get(place[1])
        if there is None and not self._is_elsewhere(number, seq, content):
            self.store(*place, content)
        return content if there is None else there

    def is_again(self, number: int, seq: int, content: int) -> bool:
        """Whether the same event was recorded again in a newer epoch, and is stored there."""
        return number != self.leader and self._is_elsewhere(number, seq, content)

    def take_over(self, number: int, seq: int, content: int) -> None:
        """The event is stored here now, and no longer under an older name."""
        for other, at in places(self.links, number, seq) if self.links else ():
            if self.stored(other).get(at) == content:
                self._remove(other, at)

    def store(self, number: int, seq: int, content: int) -> None:
        stream = self.stream(number)
        self.stored(number)[seq] = content
        if seq <= stream.watermark:
            self.change(number, gaps=stream.gaps - {seq}, continued=stream.continued - {seq}, rejected=stream.rejected - {seq})

    def _is_elsewhere(self, number: int, seq: int, content: int) -> bool:
        return any(self.stored(other).get(at) == content for other, at in places(self.links, number, seq))

    def _leads(self, number: int, boot: str) -> bool:
        leader = self.streams.get(self.leader)
        return leader is None or leads(number, boot, self.leader, leader.boot, self.links)

    def _remove(self, number: int, seq: int) -> None:
        stream = self.stream(number)
        del self.stored(number)[seq]
        if seq <= stream.watermark:
            self.change(number, continued=stream.continued | {seq})

    def _end(self, number: int, successor: Link | None, boot: str = "") -> None:
        stream = self.stream(number)
        ending = end(stream.watermark, stream.heads.head, successor, stream.heads.before(boot))
        if ending.continued and successor:
            self._move(successor, ending.continued)
        lost = {seq for span in ending.lost for seq in range(span.first, span.last + 1)}
        stream = self.stream(number)
        lost -= self.stored(number).keys() | stream.continued
        self.change(number, watermark=ending.watermark, heads=stream.heads._replace(head=ending.watermark), gaps=stream.gaps | lost)

    def _move(self, successor: Link, span: Range) -> None:
        older = successor.older
        stream = self.stream(older)
        seqs = set(range(span.first, span.last + 1))
        moving = {seq: content for seq, content in self.stored(older).items() if seq in seqs}
        for seq in moving:
            del self.stored(older)[seq]
        self.change(older, gaps=stream.gaps - seqs, continued=stream.continued | seqs, rejected=stream.rejected - seqs)
        for seq, content in moving.items():
            number, place = destination(self.links, older, seq)
            if place not in self.stored(number):
                self.store(number, place, content)


def contents(platform: Platform) -> set[int]:
    return {content for _, stream in platform.streams for _, content in stream.stored}
