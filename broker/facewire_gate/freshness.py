"""Which matches one consumer may act on, pure (docs/contract.md, Consumer): a late match opens no door.

A match is acted on if it is not retained, its boot is the newest seen, its identity was not acted on before, and it
is shown to be no older than the limit. What cannot be shown is refused, with its reason.

Age needs the offset of the device's clock, and a stream in one direction never gives it away alone:

    received - sent_at = offset + delay          one known, two unknown, delay >= 0
    age = received - timestamp - offset          the comparison's moment counts, not the publishing's

Only delay adds, so the least (received - sent_at) seen, the *floor*, bounds the offset from above, and the age from below: good
to say that a match is late, of no use to say that it is fresh. A stream that is late from its first message on has a
floor as steady as that of a wrong clock. Fresh needs a bound from the other side, and there are two witnesses:

1. **Our own clock.** A device's clock is taken to run ahead of ours by no more than `clock_error` (2 s), so the age is at most
   received - timestamp + `clock_error`. This holds whatever is delayed, from the first message on. It does not count while the
   floor itself says that the clock runs further ahead; how far behind it may be, the limit says.
2. **A steady floor**, for a clock that is plainly wrong. The floors of two periods on end (each `steady` long, 60 s, and of at least
   `STEADY_MESSAGES` live messages, statuses among them) agree within `PROMPT`: then a message of theirs is taken to have come within `PROMPT`. It is
   believed only of a floor that no delay explains: ahead of our clock, or behind it by more than `longest_delay` (20 min). In
   between a clock that is slow and a link that is slow look alike, and the match is refused as *unproven*: the clock must be set.

So with a clock that is right nothing late is ever yielded, however the messages are lost, repeated, reordered or delayed, at a constant
delay too (of less than `longest_delay`). With a wrong clock nothing late is yielded as long as one message of any two periods is prompt, the first after
the clock was set forward among them. Nobody can do better who may only listen; `steady=inf` does without the second witness.

- A clock that jumps forward undercuts the floor: proof and periods begin again. One that jumps back makes every match look late
  until the floor has been steady, or our own clock vouches for it, again; either way what is in doubt is refused.
- A floor that was proved loses `DRIFT` with time, as crystals do, counted from the beginning of the periods that proved it.
- Floors are in monotonic time: a step of our own clock moves only the first witness.
- A match compared after it was sent (`timestamp` past `sent_at`) was compared by another clock, or before a jump: unproven.

A boot that is not known yet is newer than the newest known, or one of before that is heard of only now. It counts as newer if its message is shown to be of after
the newest's first, or `STRAGGLING` (60 s) after that: what is yielded then cannot be from before. Until then it is refused as of a previous boot, and so is what the
newest may have sent before the unknown one was heard of.

Memory is bounded, and past its bounds the answer is no: a seq `WINDOW` below the highest acted on is taken as repeated; a new epoch waits
until the one acted on longest ago is an hour old, a new device until there is room. A boot forgotten after
`BOOTS` restarts could become the newest again; its matches are then late by all of these.
"""

import math
from collections import Counter
from dataclasses import dataclass, field
from typing import Final, Literal, NamedTuple, TypeAlias, get_args

from facewire.messages import Match, Status

#: retained: the broker kept it. previous_boot: the device has restarted since. repeated: acted on before, or too far
#: below what was to tell. late: older than the limit for certain. unproven: not shown to be fresh. crowded: no memory left to judge it.
Reason: TypeAlias = Literal["retained", "previous_boot", "repeated", "late", "unproven", "crowded"]
REASONS: Final[tuple[Reason, ...]] = get_args(Reason)

#: What a message that came promptly may have taken, ms.
PROMPT: Final = 500
#: Live messages without which a period is not over.
STEADY_MESSAGES: Final = 3
#: How fast two clocks come apart: 200 ppm, twice what is usual.
DRIFT: Final = 200e-6
#: How far past `sent_at` a timestamp may be, ms: a clock that is being slewed.
SLEWED: Final = 1_000

#: For so long after a restart an unknown boot may be one from before it, s.
STRAGGLING: Final = 60.0
#: Seqs of an epoch that may come out of order.
WINDOW: Final = 1_024
EPOCHS: Final = 16
#: s
EPOCH_KEPT: Final = 3_600.0
BOOTS: Final = 256
DEVICES: Final = 100_000


@dataclass(frozen=True, slots=True)
class Limits:
    """What counts as fresh; durations in s.

    Attributes:
        age: from the comparison to the moment of judgement, at most.
        clock_error: how far ahead of ours a device's clock that is right may be. What it is taken to be off makes every match older.
        steady: length of the periods that prove the offset of a wrong clock; `math.inf` believes our own clock alone.
        longest_delay: no network holds a stream back, steadily, for longer.

    Raises:
        ValueError: nothing could ever be fresh.
    """

    age: float = 5.0
    clock_error: float = 2.0
    steady: float = 60.0
    longest_delay: float = 1_200.0

    def __post_init__(self) -> None:
        if not 0 <= self.clock_error < self.age:
            raise ValueError(f"clock_error of {self.clock_error:g} s is not from 0 to below the age of {self.age:g} s")
        if not (self.steady > 0 and self.longest_delay >= self.age):
            raise ValueError(f"steady of {self.steady:g} s is not above 0, or longest_delay of {self.longest_delay:g} s is below the age")


class Moment(NamedTuple):
    """Now, by both of our clocks."""

    #: s, never set, never standing still.
    monotonic: float
    #: ms since 1970 UTC.
    wall_ms: int

    @property
    def ms(self) -> int:
        return round(self.monotonic * 1000)


class Verdict(NamedTuple):
    """Act on the match, unless there is a reason not to."""

    reason: Reason | None
    #: Its age at most, s; None where that is not known.
    age: float | None = None


class Freshness:
    """Judges matches for one consumer. Whoever gets no reason acts on the match: it is not fresh a second time."""

    def __init__(self, limits: Limits | None = None) -> None:
        self.limits = limits or Limits()
        self.refused: Counter[Reason] = Counter()
        self.accepted = 0
        self._devices: dict[str, _Device] = {}

    def status(self, device: str, status: Status, *, retained: bool, arrived: Moment) -> None:
        """Learn from a status: the newest boot and, of a live one, the clock. A will says nothing of either."""
        if not status.online or (known := self._device(device)) is None:
            return
        known.saw(status.boot, arrived, None if retained else status.at, self.limits)
        if not retained and status.boot == known.boot:
            known.clock.sample(arrived.ms, status.at, self.limits.steady * 1000)

    def match(self, device: str, match: Match, *, retained: bool, arrived: Moment, now: Moment) -> Verdict:
        """Judge a match.

        Args:
            device: whose it is.
            match: as it came.
            retained: as it came.
            arrived: when it came.
            now: when it would be acted on: what waited for its consumer grew older.
        """
        verdict = self._judge(device, match, retained=retained, arrived=arrived, now=now)
        if verdict.reason is None:
            self.accepted += 1
        else:
            self.refused[verdict.reason] += 1
        return verdict

    def _judge(self, device: str, match: Match, *, retained: bool, arrived: Moment, now: Moment) -> Verdict:
        if retained:
            return Verdict("retained")
        if (known := self._device(device)) is None:
            return Verdict("crowded")
        known.saw(match.boot, arrived, match.sent_at, self.limits)
        if match.boot != known.boot:
            return Verdict("previous_boot")
        known.clock.sample(arrived.ms, match.sent_at, self.limits.steady * 1000)
        if known.acted(match.epoch, match.event.seq):
            return Verdict("repeated")
        verdict = self._judge_age(known.clock, match, now)
        if verdict.age is not None and now.ms - verdict.age * 1000 <= known.contested:
            return Verdict("previous_boot", verdict.age)
        if verdict.reason is None and not known.act(match.epoch, match.event.seq, now.monotonic):
            return Verdict("crowded", verdict.age)
        return verdict

    def _judge_age(self, clock: "_Clock", match: Match, now: Moment) -> Verdict:
        limit = self.limits.age * 1000
        compared = match.event.timestamp
        # The older of the two, as a clock that was set back in between makes the comparison look younger than the publishing.
        elapsed = now.ms - min(compared, match.sent_at)
        if elapsed - clock.floor > limit:
            return Verdict("late")
        least = clock.least_offset(now, self.limits)
        if least is None or compared > match.sent_at + SLEWED or elapsed - least > limit:
            return Verdict("unproven")
        return Verdict(None, (elapsed - least) / 1000)

    def _device(self, name: str) -> "_Device | None":
        known = self._devices.get(name)
        if known is None and len(self._devices) < DEVICES:
            known = self._devices[name] = _Device()
        return known


class _Device:
    """What a consumer knows of a device."""

    __slots__ = ("_boots", "_contester", "_epochs", "_since", "boot", "clock", "contested")

    def __init__(self) -> None:
        #: In the order in which they were first seen.
        self._boots: dict[str, None] = {}
        self._epochs: dict[str, _Acted] = {}
        self.boot: str | None = None
        #: When the first message of the newest boot arrived, ms.
        self._since = 0
        #: When a boot of which it is not known whether it is newer was last heard of, ms.
        self.contested = -math.inf
        #: Which one that was; empty for several.
        self._contester: str | None = None
        self.clock = _Clock()

    def saw(self, boot: str, arrived: Moment, sent_at: int | None, limits: Limits) -> None:
        """Take in a boot; `sent_at` of a live message, as a retained one may be of any time."""
        if boot in self._boots:
            return
        if self.boot is not None and not self._is_newer(arrived, sent_at, limits):
            self._contester = boot if self._contester in {None, boot} else ""
            self.contested = arrived.ms
            return
        self._boots[boot] = None
        if len(self._boots) > BOOTS:
            del self._boots[next(iter(self._boots))]
        # A restart may have lost the clock, or found it.
        self.boot, self.clock, self._since = boot, _Clock(), arrived.ms
        if self._contester == boot:
            self._contester, self.contested = None, -math.inf

    def _is_newer(self, arrived: Moment, sent_at: int | None, limits: Limits) -> bool:
        """Whether an unknown boot is newer than the newest, and no straggler: shown to be of after its first message, or late enough."""
        if arrived.ms - self._since > max(STRAGGLING, limits.age) * 1000:
            return True
        clock = _Clock()
        if sent_at is None:
            return False
        clock.sample(arrived.ms, sent_at, limits.steady * 1000)
        least = clock.least_offset(arrived, limits)
        return least is not None and sent_at + least > self._since

    def acted(self, epoch: str, seq: int) -> bool:
        return epoch in self._epochs and self._epochs[epoch].has(seq)

    def act(self, epoch: str, seq: int, now: float) -> bool:
        """Remember an identity; False where there is no room."""
        if epoch not in self._epochs:
            if len(self._epochs) >= EPOCHS:
                oldest = min(self._epochs, key=lambda name: self._epochs[name].at)
                if now - self._epochs[oldest].at < EPOCH_KEPT:
                    return False
                del self._epochs[oldest]
            self._epochs[epoch] = _Acted()
        self._epochs[epoch].add(seq, now)
        return True


class _Acted:
    """The seqs of an epoch that were acted on: the highest, and a bit for each of the `WINDOW` up to it."""

    __slots__ = ("_bits", "_highest", "at")

    def __init__(self) -> None:
        self._highest, self._bits, self.at = 0, 0, 0.0

    def has(self, seq: int) -> bool:
        below = self._highest - seq
        return below >= WINDOW or (below >= 0 and bool(self._bits >> below & 1))

    def add(self, seq: int, now: float) -> None:
        self.at = now
        above = seq - self._highest
        if above > 0:
            self._highest = seq
            self._bits = (self._bits << min(above, WINDOW)) & ((1 << WINDOW) - 1)
        self._bits |= 1 << (self._highest - seq)


@dataclass(slots=True)
class _Period:
    began: int
    floor: int
    messages: int = 0


@dataclass(slots=True)
class _Clock:
    """The floor of one boot of a device, ms: received (monotonic) - sent_at, the least of the last periods.

    last two closed periods      open
    ├────────────┼────────────┼───────▶ time
      floors agree: proved          a message below them by more than `PROMPT`: all begins again
    """

    _closed: list[_Period] = field(default_factory=list)
    _open: _Period | None = None

    def sample(self, arrived: int, sent_at: int, steady: float) -> None:
        """Take in a live message."""
        level = arrived - sent_at
        if self._open is None or level < self.floor - PROMPT:
            # Whatever came before was late, or the clock has jumped.
            self._closed, self._open = [], _Period(arrived, level)
        period = self._open
        period.floor = min(period.floor, level)
        period.messages += 1
        if period.messages >= STEADY_MESSAGES and arrived - period.began >= steady:
            self._closed = [*self._closed[-1:], period]
            self._open = _Period(arrived, level)

    @property
    def floor(self) -> int:
        """The offset at most. A clock has one from its first sample on."""
        assert self._open is not None  # noqa: S101  # for mypy
        return min(period.floor for period in (*self._closed, self._open))

    def least_offset(self, now: Moment, limits: Limits) -> float | None:
        """The offset at least, by the better of the two witnesses; None where neither says anything."""
        ahead = now.wall_ms - now.ms
        ours = -limits.clock_error * 1000 - ahead
        witnesses = [ours] if self.floor >= ours else []
        proved = self._proved()
        if proved is not None and not ours <= proved.floor <= limits.longest_delay * 1000 - ahead:
            witnesses.append(proved.floor - PROMPT - DRIFT * max(0, now.ms - proved.began))
        return max(witnesses, default=None)

    def _proved(self) -> _Period | None:
        if len(self._closed) < 2:
            return None
        before, last = self._closed
        # Any message of the two may be the prompt one: the clocks may have come apart since the first.
        return _Period(before.began, min(before.floor, last.floor)) if abs(before.floor - last.floor) <= PROMPT else None
