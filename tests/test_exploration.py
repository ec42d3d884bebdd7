"""Every interleaving of the real machines up to a bound: uploader, ring, and the ingest rules.

A state holds a device (ring, events, boot, batch in flight), a platform (streams), the messages in
the pipe between them, an older image of each, and how many faults may still happen. From each state
every action is tried:

    record (and its realtime copy)       send (a period, a timeout)
    deliver one message, which stays     lose one message
    reboot                               factory reset
    keep or restore the platform's snapshot
    keep or restore the device's image   move the card to another machine

A message may be delivered in any order, late, often or never, so this covers loss, delay, repeats
and reordering. Time is abstract: a batch may be sent at any moment, so it covers every timeout too.

In every state: each comparison is stored once at most, under any of its names; each seq at or below
the watermark is either stored, or a gap, or continued in another epoch.

From every state with an empty pipe, once faults stop, a few rounds lead to this: cursor =
watermark = head; all events in the ring are on the platform under their identity; each event ever
recorded is on the platform, unless the ring overwrote it or its store died; and the losses of a
dead store of which the platform had heard are gaps. (The other states lead to such states by
deliveries and losses, which are explored too.)
"""

import inspect
import types
from collections import Counter
from dataclasses import dataclass
from typing import Final

import pytest
from pipeline import Device, Faults, Platform, State, Stream, World, contents

import facewire_device.uploader as real_uploader
from facewire_device.ring import Ring

#: The real machines never need so many; without the rules a device may fork without end.
MAX_EPOCHS: Final = 5


def check_streams(s: State) -> None:
    assert s.epochs <= MAX_EPOCHS, f"does not settle: forks without end, {s.epochs} epochs"
    everywhere = Counter(content for _, stream in s.platform.streams for _, content in stream.stored)
    twice = [content for content, count in everywhere.items() if count > 1]
    assert not twice, f"stored twice: {twice}"
    for epoch, stream in s.platform.streams:
        stored = dict(stream.stored)
        for seq in range(1, stream.watermark + 1):
            places = (seq in stored) + (seq in stream.gaps) + (seq in stream.continued)
            assert places == 1, f"seq {seq} of e{epoch} is not one of stored, a gap and continued: {stream}"
        assert all(seq <= stream.watermark for seq in stream.gaps), f"gap past the watermark in {epoch}: {stream}"


def check_settled(s: State) -> None:
    ring, held = s.device
    streams = dict(s.platform.streams)
    stream = streams.get(int(ring.epoch[1:]), Stream())
    assert ring.cursor == stream.watermark == ring.head, f"not settled: {ring} {stream}"
    stored = dict(stream.stored)
    for seq, content in enumerate(held, ring.oldest):
        moved = seq in stream.continued and content in contents(s.platform)
        assert moved or stored.get(seq) == content, f"held event {content} is not on the platform as seq {seq}: {stream}"
    for number, dead in streams.items() - {(int(ring.epoch[1:]), stream)}:
        assert dead.heads.head <= dead.watermark, f"lost in silence: e{number} ended and is not accounted for: {dead}"
    named = {content for content, epoch, seq in s.behind if epoch in streams and seq in streams[epoch].gaps}
    lost = set(range(1, s.recorded + 1)) - s.excused - named - contents(s.platform)
    assert not lost, f"lost in silence: {lost}"
    for content, epoch, seq in s.heard:
        # If another event has the seq, the platform cannot know that there was one more.
        known = content in contents(s.platform) or seq in streams[epoch].gaps or seq in dict(streams[epoch].stored)
        assert known, f"lost in silence: {content}, seq {seq} of e{epoch}"


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
    state = state._replace(faults=_NO_FAULTS, snapshot=Platform(), image=Device(Ring("")))
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
    "the platform restored": Bound(Faults(2, 1, 1, 1, 0, 0, 0)),
    "the device restored": Bound(Faults(2, 1, 0, 0, 1, 1, 0)),
    "both restored": Bound(Faults(2, 1, 0, 1, 0, 1, 0)),
    "three events overflow a ring of two": Bound(Faults(3, 0, 0, 1, 0, 1, 0)),
    "a factory reset": Bound(Faults(2, 0, 0, 1, 0, 1, 1)),
    "moved twice": Bound(Faults(2, 0, 0, 0, 0, 0, 0, moves=2)),
    "moved, the platform restored": Bound(Faults(2, 0, 0, 1, 0, 0, 0, moves=1)),
    "restored, and moved": Bound(Faults(2, 0, 0, 0, 1, 1, 0, moves=1)),
    "three messages in the pipe": Bound(Faults(3, 0, 0, 1, 0, 0, 0), pipe_size=3),
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
    # The platform's R7 finds some of the same restored stores: without it these rules stand alone.
    world = World(mutant(*MUTANTS[rule]), tails=False, hears=False)
    with pytest.raises(AssertionError, match=r"lost in silence|not settle|not on the platform"):
        explore(world, EVERY_FAULT)


@pytest.mark.parametrize("faults", [Faults(1, 0, 0, 0, 0, 0, 0, moves=1), Faults(1, 0, 0, 0, 0, 0, 1)], ids=["moved", "reset"])
def test_without_r6_an_event_is_stored_twice_or_lost_in_silence(faults: Faults) -> None:
    with pytest.raises(AssertionError, match=r"stored twice|lost in silence"):
        explore(World(successions=False), faults)


def test_without_r7_the_lost_tail_of_a_restored_store_is_not_named() -> None:
    faults = Faults(2, 0, 0, 0, 1, 1, 0)
    explore(World(), faults)
    with pytest.raises(AssertionError, match="lost in silence"):
        explore(World(tails=False), faults)


def test_without_probes_r1_the_platforms_lost_data_goes_unnoticed() -> None:
    with pytest.raises(AssertionError, match="not settled"):
        explore(World(probes=False), Faults(1, 0, 0, 1, 0, 0, 0))
