"""A device, a platform, a slow broker and a gate in virtual time: each true age is known.

    device ── match, status ──▶ broker ──▶ gate
           ── batch ──────────▶ broker ──▶ platform ── ack ──▶ broker ──▶ device

Clocks are wrong, drift and are set; links are slow, differ by direction, and change; the broker
pauses; the device restarts; acks are lost, repeated and late. The gate and the clock's measurement
are the real ones.
"""

import heapq
import itertools
import random
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from facewire.events import Event
from facewire.messages import Ack, Match, Status
from facewire_device.clock_error import ClockError
from facewire_gate.freshness import Freshness, Limits, Moment, Reason

EPOCH, BORN = "0123456789abcdef", 1_764_000_000_000
HOUR = 3_600_000


@dataclass
class Plan:
    """The course of a world; times are ms from its beginning, in true time."""

    #: (from, ms): the device's clock is so far ahead from then on.
    ahead: Sequence[tuple[int, int]] = ((0, 0),)
    restarts: Sequence[int] = ()
    #: (from, ms): so long a message takes from the device, and an ack back to it.
    up: Sequence[tuple[int, int]] = ((0, 20),)
    down: Sequence[tuple[int, int]] = ((0, 20),)
    #: (from, until): the broker forwards nothing.
    pauses: Sequence[tuple[int, int]] = ()
    jitter: int = 0
    #: Share of acks that are lost, and that arrive once more up to a minute later.
    loss: float = 0.0
    repeats: float = 0.0
    #: Of the elapsed time of the device.
    drift: float = 0.0
    #: The platform's clock and the gate's are so far ahead of the true time.
    platform_ahead: int = 0
    gate_ahead: int = 0
    #: Time between matches, and how long the device holds one at most.
    every: int = 3_000
    held: int = 300
    #: Time that a match waits for the consumer at most.
    waits: int = 0
    #: (from, until): the consumer takes nothing, and newer matches push these out of its inbox.
    overruns: Sequence[tuple[int, int]] = ()
    #: Whether the device measures its clock and says its error.
    speaks: bool = True
    until: int = 240_000


@dataclass
class Opened:
    """A verdict on a match, and what nobody in the world knows."""

    at: int
    age: int
    said: bool
    reason: Reason | None
    claimed: float | None
    #: Whether the clock is no further ahead of the platform's than the match says. A late ack may
    #: answer an earlier probe with the same key, and then the clock is less ahead.
    true: bool


@dataclass
class World:
    plan: Plan
    seed: int
    limits: Limits = field(default_factory=Limits)

    def __post_init__(self) -> None:
        self.chance = random.Random(self.seed)
        self.gate = Freshness(self.limits)
        self.verdicts: list[Opened] = []
        self.queue: list[tuple[int, int, str, Any]] = []
        self.order = itertools.count()
        self.boot = 0
        self.seq = 0
        self.arrived = {"gate": 0, "platform": 0, "device": 0}
        self.clock = ClockError()
        self.in_flight = False

    def run(self) -> "World":
        plan = self.plan
        self.at(0, "start", None)
        for moment in plan.restarts:
            self.at(moment, "start", None)
        for moment in range(500, plan.until, plan.every):
            self.at(moment + self.chance.randrange(500), "compare", None)
        while self.queue and self.queue[0][0] < plan.until:
            now, _, name, what = heapq.heappop(self.queue)
            getattr(self, name)(now, what)
        return self

    @property
    def untrue(self) -> list[Opened]:
        """Matches whose clock is further ahead than they say."""
        return [each for each in self.verdicts if not each.true]

    @property
    def late(self) -> list[Opened]:
        """Doors that were opened late; the clocks have whole ms."""
        return [each for each in self.verdicts if each.reason is None and each.age > self.limits.age * 1000 + 5]

    # Clocks

    def elapsed(self, now: int) -> int:
        return 77_000 + int(now * (1 + self.plan.drift))

    def wall(self, now: int) -> int:
        return BORN + self.elapsed(now) - 77_000 + _at(self.plan.ahead, now)

    def moment(self, now: int) -> Moment:
        return Moment(now / 1000 + 5, BORN + now + self.plan.gate_ahead)

    def platform_wall(self, now: int) -> int:
        return BORN + now + self.plan.platform_ahead

    # The broker

    def at(self, moment: int, name: str, what: Any) -> None:
        heapq.heappush(self.queue, (moment, next(self.order), name, what))

    def send(self, now: int, to: str, way: Sequence[tuple[int, int]], name: str, what: Any) -> None:
        """Messages to one receiver keep their order."""
        arrives = now + _at(way, now) + self.chance.randint(0, self.plan.jitter)
        for began, ended in self.plan.pauses:
            if began <= arrives < ended:
                arrives = ended
        self.arrived[to] = arrives = max(arrives, self.arrived[to])
        self.at(arrives, name, what)

    # The device

    def start(self, now: int, _: None) -> None:
        self.boot += 1
        self.clock = ClockError()
        self.in_flight = False
        self.status(now)
        self.at(now + 1_000, "batch", self.boot)

    def batch(self, now: int, boot: int) -> None:
        if boot == self.boot:
            if not self.in_flight:
                self.clock.batch_sent(self.elapsed(now))
            self.in_flight = True
            self.send(now, "platform", self.plan.up, "store", self.name)
            self.at(now + 20_000, "batch", boot)

    def acked(self, now: int, ack: Ack) -> None:
        """All are probes with the same key: only R2 tells an ack of another batch."""
        if ack.boot == self.name and self.in_flight:
            self.in_flight = False
            self.clock.acked(self.elapsed(now), ack)
            self.status(now)

    @property
    def name(self) -> str:
        return f"{self.boot:016x}"

    def said(self, now: int) -> tuple[int, int] | tuple[None, None]:
        reading = self.clock.read(self.elapsed(now), self.wall(now)) if self.plan.speaks else None
        return reading or (None, None)

    def status(self, now: int) -> None:
        error, uncertainty = self.said(now)
        status = Status(self.name, online=True, at=self.wall(now), clock_error_ms=error, clock_uncertainty_ms=uncertainty)
        self.send(now, "gate", self.plan.up, "hear", status)

    def compare(self, now: int, _: None) -> None:
        self.clock.watch(self.elapsed(now), self.wall(now))
        held = self.chance.choice((0, self.plan.held // 10, self.plan.held))
        self.at(now + held, "publish", (now, self.wall(now), self.boot))

    def publish(self, now: int, comparison: tuple[int, int, int]) -> None:
        compared, timestamp, boot = comparison
        if boot != self.boot:
            return
        # The agent looks at its clocks all the time, so also before and after each step.
        for at, _ in self.plan.ahead:
            if compared <= at <= now:
                self.clock.watch(self.elapsed(at), self.wall(at))
        self.seq += 1
        event = Event(self.seq, timestamp, 0.9, "7", "Ada", 1, None, None, {})
        error, uncertainty = self.said(now)
        true = error is None or uncertainty is None or self.wall(now) - self.platform_wall(now) <= error + uncertainty
        match = Match(EPOCH, self.name, self.wall(now), event, error, uncertainty)
        self.send(now, "gate", self.plan.up, "judge", (compared, match, true))

    # The platform

    def store(self, now: int, boot: str) -> None:
        worked = now + self.chance.choice((5, 50, 400))
        ack = Ack(EPOCH, boot, 0, 0, "s", received_at=self.platform_wall(now))
        self.at(worked, "answer", ack)

    def answer(self, now: int, ack: Ack) -> None:
        ack = replace(ack, sent_at=self.platform_wall(now))
        if self.chance.random() >= self.plan.loss:
            self.send(now, "device", self.plan.down, "acked", ack)
        if self.chance.random() < self.plan.repeats:
            self.at(now + self.chance.randint(0, 60_000), "acked", ack)

    # The gate

    def hear(self, now: int, status: Status) -> None:
        self.gate.hear("d", status, retained=False, arrived=self.moment(now))

    def judge(self, now: int, published: tuple[int, Match, bool]) -> None:
        compared, match, true = published
        if any(began <= now < ended for began, ended in self.plan.overruns):
            self.push_out(now, match)
            return
        acts = now + self.chance.choice((0, 0, self.plan.waits))
        verdict = self.gate.match("d", match, retained=False, arrived=self.moment(now), now=self.moment(acts))
        said = match.clock_error_ms is not None
        self.verdicts.append(Opened(acts, acts - compared, said, verdict.reason, verdict.age, true))

    def push_out(self, now: int, match: Match) -> None:
        self.gate.hear("d", match, retained=False, arrived=self.moment(now))


def _at(steps: Sequence[tuple[int, int]], now: int) -> int:
    return next(value for since, value in reversed(steps) if since <= now)


def any_plan(chance: random.Random) -> Plan:
    """A plan of anything that may happen to clocks, links and processes."""
    until = 240_000
    clocks = (0, 0, 1_500, -1_500, 3_000, 4_000, 8_000, -10_000, 20_000, 600_000, -600_000, HOUR, -HOUR)
    links = (5, 20, 200, 1_000, 2_500, 4_000, 6_000, 11_000)

    def steps(values: Sequence[int], most: int) -> list[tuple[int, int]]:
        times = sorted(chance.randrange(until) for _ in range(chance.randint(0, most)))
        return [(0, chance.choice(values)), *((time, chance.choice(values)) for time in times)]

    restarts = sorted(chance.randrange(until) for _ in range(chance.choice((0, 0, 1, 2))))
    pauses = [
        (began, began + chance.choice((2_000, 6_000, 11_000, 40_000)))
        for began in sorted(chance.choices(range(until), k=chance.randint(0, 3)))
    ]
    ahead = steps(clocks, 2)
    ahead += [(time, chance.choice(clocks)) for time in restarts if chance.random() < 0.5]
    gate_ahead = chance.randint(-3_000, 3_000)
    return Plan(
        ahead=sorted(ahead),
        restarts=restarts,
        up=steps(links, 3),
        down=steps(links, 3),
        pauses=pauses,
        jitter=chance.choice((0, 50, 1_000)),
        loss=chance.choice((0.0, 0.3)),
        repeats=chance.choice((0.0, 0.3)),
        drift=chance.uniform(-150e-6, 150e-6),
        # The platform's clock may be ahead of the gate's as far as `Limits.clock_error` allows.
        platform_ahead=gate_ahead + chance.choice((-3_000, 0, 0, 1_000, 1_990)),
        gate_ahead=gate_ahead,
        held=chance.choice((0, 300, 2_000, 9_000)),
        waits=chance.choice((0, 0, 4_000)),
        until=until,
    )
