"""Late doors: random worlds of clocks, delays, pauses and restarts, in which the true age is known.

Each rule that keeps a door shut is taken away in turn: then some world must open one late.
"""

import math
import os
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from gate_world import HOUR, Plan, World, any_plan

from facewire_device import clock_error
from facewire_device.clock_error import ClockError
from facewire_gate import freshness
from facewire_gate.freshness import Limits

#: `DOORS=20000 pytest …` tries more worlds.
WORLDS = int(os.environ.get("DOORS", "1000"))

Make = Callable[[random.Random], Plan]


def worlds(make: Make, count: int, limits: Limits | None = None) -> list[World]:
    return [World(make(random.Random(seed)), seed, limits or Limits()).run() for seed in range(count)]


def restarted_fast(chance: random.Random) -> Plan:
    """The clock is 3 to 8 s fast after a restart; the broker pauses as the gate adopts the boot."""
    restart, began = chance.randint(3_000, 50_000), 60_000 + chance.randint(-12_000, 3_000)
    return Plan(
        ahead=[(0, 0), (restart, chance.randint(3_000, 8_000))],
        restarts=[restart],
        pauses=[(began, began + chance.randint(4_000, 14_000))],
        speaks=False,
        every=500,
        until=120_000,
    )


def held_back_by_as_much_as_fast(chance: random.Random) -> Plan:
    """Prompt messages show that the clock is fast; then the stream is delayed by about as much."""
    fast, began = chance.randint(3_000, 603_000), chance.randint(20_000, 60_000)
    return Plan(ahead=[(0, fast)], up=[(0, 20), (began, fast + chance.randint(-1_500, 1_500))], speaks=False, until=fast + 400_000)


def fast_on_a_slow_link(chance: random.Random, *, speaks: bool = True) -> Plan:
    """The clock is ahead by about the delay of a slow link: one direction shows nothing."""
    slow = chance.randint(5_500, 8_000)
    return Plan(ahead=[(0, slow - chance.randint(1_000, 2_000))], up=[(0, slow)], down=[(0, 20)], speaks=speaks)


def shown_while_nobody_takes(chance: random.Random) -> Plan:
    """Only matches that are pushed out show that the clock is fast; then the link is as slow."""
    fast = chance.randint(3_000, 4_500)
    up = [(0, 12_000), (400, 20), (15_000, fast + chance.randint(1_500, 2_500))]
    return Plan(ahead=[(0, fast)], up=up, overruns=[(0, 15_500)], loss=1.0, speaks=False, every=500, until=60_000)


def set_back_before_publishing(chance: random.Random) -> Plan:
    """The clock is set back between the comparison and the publishing."""
    steps = [(at, chance.choice((0, 8_500))) for at in range(0, 240_000, 20_000)]
    return Plan(ahead=steps, held=9_000)


def test_no_match_that_says_the_error_of_its_clock_opens_a_door_late() -> None:
    seen: Counter[bool] = Counter()
    for world in worlds(any_plan, WORLDS):
        assert not [each for each in world.late if each.said], world
        assert not world.untrue, world
        for opened in world.verdicts:
            seen[opened.reason is None] += opened.said
            # Nor is the age of any understated; the clocks have whole ms.
            assert opened.claimed is None or not opened.said or opened.age <= opened.claimed * 1000 + 5, world
    assert seen[True] > 5 * WORLDS
    assert seen[False] > 5 * WORLDS


def test_a_gate_that_requires_a_round_trip_opens_no_door_late_at_all() -> None:
    for world in worlds(any_plan, WORLDS // 4, Limits(proof="round_trip")):
        assert not world.late, world
        assert all(opened.said for opened in world.verdicts if opened.reason is None)


@pytest.mark.parametrize("proof", ["clock", "steady"])
def test_evidence_of_messages_that_are_not_acted_on_counts_after_a_restart(proof: Any) -> None:
    for world in worlds(restarted_fast, 60, Limits(proof=proof)):
        assert not world.late, world
        assert any(opened.reason is None for opened in world.verdicts)


def test_a_clock_that_was_seen_ahead_opens_no_door_late_without_a_round_trip() -> None:
    for world in worlds(held_back_by_as_much_as_fast, 20):
        assert not world.late, world


def test_a_steady_stream_opens_doors_late_if_the_operator_asks_for_it() -> None:
    """Documented (docs/consumers.md, Proofs): this is why it is not the default."""
    late = [opened.age for world in worlds(held_back_by_as_much_as_fast, 10, Limits(proof="steady")) for opened in world.late]
    assert max(late) > 300_000


def test_a_clock_ahead_by_the_delay_of_a_slow_link_opens_doors_late_only_without_a_round_trip() -> None:
    """Documented too: one direction cannot tell."""
    assert not [world for world in worlds(fast_on_a_slow_link, 30) if any(each.said for each in world.late)]
    mute = worlds(lambda chance: fast_on_a_slow_link(chance, speaks=False), 20)
    assert all(world.late for world in mute)
    assert not any(world.late for world in worlds(lambda chance: fast_on_a_slow_link(chance, speaks=False), 20, Limits(proof="round_trip")))


@pytest.mark.parametrize("ahead", [0, 4_000, -10_000, HOUR, -HOUR, -50 * 365 * 24 * HOUR])
def test_a_clock_however_wrong_opens_doors_once_a_round_trip_has_measured_it(ahead: int) -> None:
    world = World(Plan(ahead=[(0, ahead)], up=[(0, 40)], down=[(0, 30)], drift=150e-6, held=0), 1).run()
    known = [opened for opened in world.verdicts if opened.at > 3_000]
    assert {opened.reason for opened in known} == {None}
    assert max(opened.claimed or math.inf for opened in known) < 2.6
    assert known[0].said


def test_a_clock_that_is_set_back_is_known_at_once_and_trusted_again_after_two_minutes() -> None:
    world = World(Plan(ahead=[(0, 0), (60_000, -20_000)], held=0, until=300_000), 1).run()
    reasons = [(opened.at, opened.reason) for opened in world.verdicts]
    assert {reason for at, reason in reasons if 3_000 < at < 60_000} == {None}
    assert {reason for at, reason in reasons if 60_500 < at < 120_000} == {"unproven"}
    assert {reason for at, reason in reasons if at > 183_000} == {None}


def without_uncertainty(monkeypatch: pytest.MonkeyPatch) -> None:
    read = ClockError.read
    monkeypatch.setattr(ClockError, "read", lambda *given: (known := read(*given)) and known._replace(uncertainty=0))


def with_the_time_of_the_batch_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """The device assumes that the platform answered at once, and that the answer took no time."""

    def acked(self: ClockError, elapsed: int, ack: Any) -> None:
        self._round_trips.append(clock_error._RoundTrip(elapsed, ack.sent_at - self._began, ack.sent_at - self._began))

    monkeypatch.setattr(ClockError, "acked", acked)


def without_a_look_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """The device says the error that its clock has now, not those of the last minute."""
    monkeypatch.setattr(clock_error, "WATCHED", -1)
    watch = ClockError.watch

    def now_only(self: ClockError, elapsed: int, wall: int) -> None:
        watch(self, elapsed, wall)
        self._before = self._window

    monkeypatch.setattr(ClockError, "watch", now_only)


def with_one_direction(monkeypatch: pytest.MonkeyPatch) -> None:
    """The gate does not look at what a match says."""
    monkeypatch.setattr(freshness, "_said", lambda message: None)


def with_the_clock_of_the_first_boot(monkeypatch: pytest.MonkeyPatch) -> None:
    """The gate forgets an unknown boot's clock when that boot becomes the newest."""
    adopt = freshness._Device._adopt

    def forgetful(self: Any, boot: str, arrived: Any) -> None:
        self._contesters[boot] = freshness._Clock()
        self._contesters[boot]._open = freshness._Period(arrived.ms, 0)
        adopt(self, boot, arrived)

    monkeypatch.setattr(freshness._Device, "_adopt", forgetful)


def without_evidence(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock is taken to be right although it was seen ahead."""
    hear = freshness._Clock.hear

    def forgetful(self: Any, heard: Any, limits: Limits) -> None:
        self._least = math.inf
        hear(self, heard, limits)

    monkeypatch.setattr(freshness._Clock, "hear", forgetful)


def without_what_was_pushed_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(World, "push_out", lambda *_: None)


def with_the_time_of_publishing(monkeypatch: pytest.MonkeyPatch) -> None:
    """The time between the comparison and the publishing does not count."""
    judge = freshness.Freshness._judge_age

    def shorter(self: Any, clock: Any, said: Any, match: Any, now: Any) -> Any:
        replaced = replace(match, event=match.event._replace(timestamp=match.sent_at))
        return judge(self, clock, said, replaced, now)

    monkeypatch.setattr(freshness.Freshness, "_judge_age", shorter)


def with_a_platform_that_is_right(monkeypatch: pytest.MonkeyPatch) -> None:
    """The platform's clock may not differ from the gate's."""
    least = freshness._Clock.least_offset

    def exact(self: Any, now: Any, limits: Limits, said: Any) -> Any:
        found = least(self, now, limits, said)
        return found if found is None or said is None else found + limits.clock_error * 1000

    monkeypatch.setattr(freshness._Clock, "least_offset", exact)


@pytest.mark.parametrize(
    ("mutate", "make"),
    [
        (without_uncertainty, any_plan),
        (with_the_time_of_the_batch_alone, any_plan),
        (without_a_look_back, set_back_before_publishing),
        (with_one_direction, fast_on_a_slow_link),
        (with_the_clock_of_the_first_boot, restarted_fast),
        (without_evidence, held_back_by_as_much_as_fast),
        (without_what_was_pushed_out, shown_while_nobody_takes),
        (with_the_time_of_publishing, any_plan),
        (with_a_platform_that_is_right, any_plan),
    ],
)
def test_without_this_rule_a_door_opens_late(
    mutate: Callable[[pytest.MonkeyPatch], None], make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    def count() -> int:
        bad = (any(each.said for each in world.late) if world.plan.speaks else world.late for world in worlds(make, 40))
        return sum(bool(each) for each in bad)

    assert count() == 0
    mutate(monkeypatch)
    assert count() > 0
