"""Every interleaving of the real machines up to a bound: uploader, ring, and the ingest rules.

A state holds a device (ring, events, boot, batch in flight), a platform (streams), the messages in
the pipe between them, an older image of each, and how many faults may still happen. From each state
every action is tried:

    record (and its realtime copy)       send (a period, a timeout)
    deliver one message, which stays     lose one message
    reboot                               factory reset
    keep or restore the platform's snapshot
    keep or restore the device's image

A message may be delivered in any order, late, often or never, so this covers loss, delay, repeats
and reordering. Time is abstract: a batch may be sent at any moment, so it covers every timeout too.

In every state: each seq at or below the watermark is either stored or a gap, never both.

From every state with an empty pipe, once faults stop, a few rounds lead to this: cursor =
watermark = head; all events in the ring are on the platform under their identity; each event ever
recorded is on the platform, unless the ring overwrote it or the device was reset. (The other states
lead to such states by deliveries and losses, which are explored too.)
"""

import inspect
import types
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, TypeAlias

import pytest

import facewire_device.uploader as real_uploader
from facewire.events import Event
from facewire.messages import Ack, Batch
from facewire_device.ring import Ring
from facewire_platform.ingest import Content, answer, decide

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
    event: Event


class Stream(NamedTuple):
    watermark: int = 0
    stored: tuple[tuple[int, int], ...] = ()
    gaps: frozenset[int] = frozenset()


class Device(NamedTuple):
    ring: Ring
    #: Contents of the seqs from oldest to head.
    held: tuple[int, ...] = ()


Platform: TypeAlias = tuple[tuple[str, Stream], ...]
Message: TypeAlias = Batch | RealtimeCopy | Ack


class Faults(NamedTuple):
    """How often each fault may still happen."""

    records: int
    reboots: int
    snapshots: int
    platform_restores: int
    images: int
    device_restores: int
    resets: int


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
    faults: Faults


class World:
    """The actions, with one uploader module (the real one or a mutant)."""

    def __init__(self, uploader: types.ModuleType = real_uploader, *, probes: bool = True, pipe_size: int = 2) -> None:
        self.uploader = uploader
        self.probes = probes
        self.pipe_size = pipe_size

    def start(self, faults: Faults) -> State:
        fresh = Device(Ring("e1"))
        return State(fresh, 1, None, (), frozenset(), (), fresh, 1, 0, frozenset(), faults)

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
            yield s._replace(platform=s.snapshot, faults=f._replace(platform_restores=f.platform_restores - 1))
        if f.images and s.device != s.image:
            yield s._replace(image=s.device, faults=f._replace(images=f.images - 1))
        if f.device_restores and s.device != s.image:
            yield self._replace_device(s._replace(faults=f._replace(device_restores=f.device_restores - 1)), s.image)
        if f.resets:
            epochs = s.epochs + 1
            yield self._replace_device(s._replace(epochs=epochs, faults=f._replace(resets=f.resets - 1)), Device(Ring(f"e{epochs}")))

    def record(self, s: State) -> Iterator[State]:
        content = s.recorded + 1
        before = s.device
        ring = before.ring.appended(1, CAPACITY)
        overwritten = ring.oldest - before.ring.oldest
        held = (*before.held, content)[overwritten:]
        s = s._replace(
            device=Device(ring, held),
            recorded=content,
            excused=s.excused.union(before.held[:overwritten]),
            faults=s.faults._replace(records=s.faults.records - 1),
        )
        yield s
        yield from self._put(s, RealtimeCopy(ring.epoch, event(ring.head, content)))

    def send(self, s: State) -> Iterator[State]:
        uploader = self._uploader(s)
        if not self._due(uploader, s):
            return
        batch = self._batch(s)
        uploader.sent(LATER, batch.epoch, batch.cursor)
        s = s._replace(in_flight=uploader.in_flight)
        yield from self._put(s, batch)

    def deliver(self, s: State, message: Message) -> State:
        """The message stays in the pipe, so that it may arrive again."""
        match message:
            case RealtimeCopy():
                return s._replace(platform=self._store_copy(s.platform, message))
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
        events = tuple(event(seq, held[seq - ring.oldest]) for seq in range(first, min(first + BATCH, ring.head + 1)))
        cursor = events[-1].seq if events else ring.cursor
        return Batch(ring.epoch, f"b{s.boot}", ring.cursor, cursor, ring.head, ring.oldest, events)

    def _acked(self, s: State, ack: Ack) -> State:
        uploader = self._uploader(s)
        ring, held = s.device
        outcome_name = type(outcome := uploader.acked(LATER, ack, ring)).__name__
        s = s._replace(in_flight=uploader.in_flight)
        if outcome_name == "Adopt":
            return s._replace(device=Device(ring.adopted(outcome.cursor), held))  # type: ignore[union-attr]  # a mutant's class
        if outcome_name == "Fork":
            epochs = s.epochs + 1
            forked = ring.forked(f"e{epochs}", outcome.first)  # type: ignore[union-attr]  # a mutant's class
            kept = held[len(held) - (forked.head - forked.oldest + 1) :]
            # Only the platform has the events that the fork leaves behind: excuse those that it has
            # at this moment.
            behind = set(held) - set(kept)
            excused = s.excused | (behind & contents(s.platform))
            return s._replace(device=Device(forked, kept), epochs=epochs, excused=excused)
        return s

    def _put(self, s: State, message: Message) -> Iterator[State]:
        if message in s.pipe or len(s.pipe) < self.pipe_size:
            yield s._replace(pipe=s.pipe | {message})

    def _boot(self, s: State) -> State:
        return s._replace(boot=s.boot + 1, in_flight=None)

    def _replace_device(self, s: State, device: Device) -> State:
        return self._boot(s._replace(device=device, excused=s.excused.union(s.device.held)))

    def _ingest(self, platform: Platform, batch: Batch) -> tuple[Platform, Ack]:
        streams = dict(platform)
        stream = streams.get(batch.epoch, Stream())
        stored = {seq: Content.of(event(seq, content)) for seq, content in stream.stored if batch.after < seq <= batch.cursor}
        decision = decide(batch, stream.watermark, stored)
        declared = {seq for span in decision.declared for seq in range(span.first, span.last + 1)}
        streams[batch.epoch] = Stream(
            decision.watermark,
            tuple(sorted(stream.stored + tuple((e.seq, e.timestamp) for e in decision.store))),
            (stream.gaps | declared) - set(decision.late),
        )
        return tuple(sorted(streams.items())), answer(batch, decision, "store")

    def _store_copy(self, platform: Platform, copy: RealtimeCopy) -> Platform:
        streams = dict(platform)
        stream = streams.get(copy.epoch, Stream())
        if copy.event.seq not in dict(stream.stored):
            stored = tuple(sorted((*stream.stored, (copy.event.seq, copy.event.timestamp))))
            streams[copy.epoch] = stream._replace(stored=stored, gaps=stream.gaps - {copy.event.seq})
        return tuple(sorted(streams.items()))


def contents(platform: Platform) -> set[int]:
    return {content for _, stream in platform for _, content in stream.stored}


#: The real machines never need so many; without the rules a device may fork without end.
MAX_EPOCHS: Final = 5


def check_streams(s: State) -> None:
    assert s.epochs <= MAX_EPOCHS, f"does not settle: forks without end, {s.epochs} epochs"
    for epoch, stream in s.platform:
        stored = dict(stream.stored)
        assert len(stored) == len(stream.stored), f"stored twice in {epoch}: {stream}"
        for seq in range(1, stream.watermark + 1):
            assert (seq in stored) != (seq in stream.gaps), f"seq {seq} of {epoch} is not either stored or a gap: {stream}"
        assert all(seq <= stream.watermark for seq in stream.gaps), f"gap past the watermark in {epoch}: {stream}"


def check_settled(s: State) -> None:
    ring, held = s.device
    stream = dict(s.platform).get(ring.epoch, Stream())
    assert ring.cursor == stream.watermark == ring.head, f"not settled: {ring} {stream}"
    stored = dict(stream.stored)
    for seq, content in enumerate(held, ring.oldest):
        assert stored.get(seq) == content, f"held event {content} is not on the platform as seq {seq}: {stream}"
    lost = set(range(1, s.recorded + 1)) - s.excused - contents(s.platform)
    assert not lost, f"lost in silence: {lost}"


@dataclass(frozen=True)
class Bound:
    faults: Faults
    pipe_size: int = 2


def explore(world: World, faults: Faults, *, max_states: int = 10_000_000) -> int:
    """Visit every state; returns how many.

    Raises:
        AssertionError: a state breaks a promise; the message has the shortest path to it.
    """
    first = world.start(faults)
    previous: dict[State, State | None] = {first: None}
    settled: set[State] = set()
    layer = [first]
    while layer:
        following = []
        for state in layer:
            try:
                check_streams(state)
                if not state.pipe:
                    _check_settles(world, state, settled)
            except AssertionError as exc:
                raise AssertionError(f"{exc}\n{_path_to(state, previous)}") from None
            for after in world.successors(state):
                if after not in previous:
                    previous[after] = state
                    following.append(after)
        layer = following
        assert len(previous) <= max_states
    return len(previous)


#: A fork and a rewind each take a round or two; no state needs so many.
MAX_ROUNDS: Final = 20
_NO_FAULTS: Final = Faults(0, 0, 0, 0, 0, 0, 0)


def _check_settles(world: World, state: State, settled: set[State]) -> None:
    # Faults and images make no difference to a run without faults: fewer states to settle.
    state = state._replace(faults=_NO_FAULTS, snapshot=(), image=Device(Ring("")))
    path = []
    for _ in range(MAX_ROUNDS):
        if state in settled:
            break
        path.append(state)
        after = world.healthy(state)
        if after._replace(in_flight=state.in_flight) == state:
            check_settled(state)
            break
        state = after
    else:
        raise AssertionError(f"does not settle within {MAX_ROUNDS} rounds: {state}")
    settled.update(path)


def _path_to(state: State | None, previous: dict[State, State | None]) -> str:
    steps = []
    while state is not None:
        steps.append(str(state))
        state = previous[state]
    return "\n".join(reversed(steps))


EVERY_FAULT: Final = Faults(records=2, reboots=1, snapshots=1, platform_restores=1, images=1, device_restores=1, resets=0)

#: Together at least 200,000 states; each bound explores another corner.
BOUNDS: Final = {
    "two events, every fault but a reset": Bound(EVERY_FAULT),
    "three events overflow a ring of two": Bound(Faults(3, 1, 0, 1, 0, 1, 0)),
    "a factory reset": Bound(Faults(2, 1, 0, 1, 0, 1, 1)),
    "three messages in the pipe": Bound(Faults(3, 1, 0, 1, 0, 0, 0), pipe_size=3),
}


@pytest.mark.parametrize("bound", BOUNDS.values(), ids=BOUNDS)
def test_every_interleaving_keeps_the_promise(bound: Bound, capsys: pytest.CaptureFixture[str]) -> None:
    states = explore(World(pipe_size=bound.pipe_size), bound.faults)
    with capsys.disabled():
        print(f" [{states:,} states]", end="")


#: rule -> (the source text of the uploader that states it, the text without the rule).
#: This patches source text on purpose: only so does a test show that each rule is needed. If you
#: rephrase a rule in uploader.py, rephrase it here.
MUTANTS: Final = {
    "R2": ("(ack.epoch, ack.key) != self.in_flight or ack.boot != self.boot", "False"),
    "R2 epoch": ("(ack.epoch, ack.key) != self.in_flight", "ack.key != (self.in_flight or (0, -1))[1]"),
    "R2 boot": (" or ack.boot != self.boot", ""),
    "R3 never past what was sent": ("Adopt(min(ack.cursor, ack.key))", "Adopt(ack.cursor)"),
    "R3 goes back": ("Adopt(min(ack.cursor, ack.key))", "Adopt(max(ring.cursor, min(ack.cursor, ack.key)))"),
    "R4": ("if ack.conflict is not None:", "if False:"),
    "R5": ("if ack.cursor > ring.head == ack.key:", "if False:"),
    "R5 only at head": ("if ack.cursor > ring.head == ack.key:", "if ack.cursor > ack.key:"),
}


def mutant(text: str, replacement: str) -> types.ModuleType:
    source = inspect.getsource(real_uploader)
    assert source.count(text) == 1, f"uploader.py no longer states the rule as {text!r}"
    module = types.ModuleType("mutant")
    module.__dict__["__name__"] = real_uploader.__name__  # dataclasses look themselves up
    exec(source.replace(text, replacement), module.__dict__)  # noqa: S102  # our own source
    return module


@pytest.mark.parametrize("rule", MUTANTS)
def test_without_the_rule_an_event_is_lost(rule: str) -> None:
    world = World(mutant(*MUTANTS[rule]))
    with pytest.raises(AssertionError, match=r"lost in silence|not settle|not on the platform"):
        explore(world, EVERY_FAULT)


def test_without_probes_r1_the_platforms_lost_data_goes_unnoticed() -> None:
    with pytest.raises(AssertionError, match="not settled"):
        explore(World(probes=False), Faults(1, 0, 0, 1, 0, 0, 0))
