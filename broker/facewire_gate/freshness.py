"""Decides which matches one consumer may act on: a late match opens no door. Pure.

A consumer acts on a match if it is not retained, its boot is the newest seen of the device, its
identity was not acted on before, and it is shown to be no older than the limit. A match that
nothing shows to be fresh is refused, with its reason.

    received - sent_at = offset + delay          one number known, two unknown, delay >= 0
    age = received - timestamp - offset

The least `received - sent_at` seen is the *floor*: the offset at most. It proves a match late,
never fresh. Two witnesses prove it fresh: our own clock, and a steady floor that no delay
explains. docs/consumers.md ("How freshness is judged") tells the theory, what it assumes, and how
each detail is decided. The names there are those of `Limits` and of the constants below.
"""

import math
from collections import Counter
from dataclasses import dataclass, field
from typing import Final, Literal, NamedTuple, TypeAlias, get_args

from facewire.messages import Match, Status

#: docs/consumers.md ("Reasons") explains each.
Reason: TypeAlias = Literal["retained", "previous_boot", "repeated", "late", "unproven", "crowded"]
REASONS: Final[tuple[Reason, ...]] = get_args(Reason)

#: The delay of a prompt message, at most, ms.
PROMPT: Final = 500
#: Live messages that a period needs.
STEADY_MESSAGES: Final = 3
#: How fast two clocks drift apart: 200 ppm, twice the usual drift of crystals.
DRIFT: Final = 200e-6
#: How far past `sent_at` a timestamp may be, ms, because a clock is slewed.
SLEWED: Final = 1_000

#: For this long after a restart an unknown boot may be older than it, s.
STRAGGLING: Final = 60.0
#: Seqs of an epoch that may arrive out of order; one further below the highest counts as repeated.
WINDOW: Final = 1_024
EPOCHS: Final = 16
#: An epoch is forgotten for a new one only after this long without a match, s.
EPOCH_KEPT: Final = 3_600.0
BOOTS: Final = 256
DEVICES: Final = 100_000


@dataclass(frozen=True, slots=True)
class Limits:
    """The limits of a fresh match, in seconds.

    Attributes:
        age: from the comparison to the judgement, at most.
        clock_error: how far the clock of a device may be ahead of ours. Every match counts as
            older by this much.
        steady: length of the periods that prove the offset of a wrong clock; with `math.inf` only
            our own clock counts.
        longest_delay: no network holds a stream back for longer at a constant delay.

    Raises:
        ValueError: no match could ever be fresh.
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

    #: Seconds. Nobody sets this clock, and it never stands still.
    monotonic: float
    #: ms since 1970 UTC.
    wall_ms: int

    @property
    def ms(self) -> int:
        return round(self.monotonic * 1000)


class Verdict(NamedTuple):
    """Act on the match, unless there is a reason not to."""

    reason: Reason | None
    #: Its age at most, s; None if that is not known.
    age: float | None = None


class Freshness:
    """Judges matches for one consumer.

    A caller that gets no reason must act on the match: it is not fresh a second time.
    """

    def __init__(self, limits: Limits | None = None) -> None:
        self.limits = limits or Limits()
        self.refused: Counter[Reason] = Counter()
        self.accepted = 0
        self._devices: dict[str, _Device] = {}

    def status(self, device: str, status: Status, *, retained: bool, arrived: Moment) -> None:
        """Learn the newest boot from a status, the clock from a live one, neither from a will."""
        if not status.online or (known := self._device(device)) is None:
            return
        known.saw(status.boot, arrived, None if retained else status.at, self.limits)
        if not retained and status.boot == known.boot:
            known.clock.sample(arrived.ms, status.at, self.limits.steady * 1000)

    def remember(self, device: str, epoch: str, seq: int, now: float) -> None:
        """Learn that a match was acted on before this consumer began."""
        if (known := self._device(device)) is not None:
            known.act(epoch, seq, now)

    def match(self, device: str, match: Match, *, retained: bool, arrived: Moment, now: Moment) -> Verdict:
        """Judge a match.

        Args:
            device: the device that published it.
            match: the decoded message.
            retained: whether the broker marked it as retained.
            arrived: when it arrived.
            now: the moment of acting. A match that waited in the inbox is older by then.
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
        # The older of the two: a clock that was set back in between makes the comparison look
        # younger than the publishing.
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
    """What a consumer knows about a device."""

    __slots__ = ("_boots", "_contester", "_epochs", "_since", "boot", "clock", "contested")

    def __init__(self) -> None:
        #: In the order of their first messages.
        self._boots: dict[str, None] = {}
        self._epochs: dict[str, _Acted] = {}
        self.boot: str | None = None
        #: When the first message of the newest boot arrived, ms.
        self._since = 0
        #: When a message of a contesting boot last arrived, ms. Such a boot may be newer or older.
        self.contested = -math.inf
        #: The contesting boot; empty if there are several.
        self._contester: str | None = None
        self.clock = _Clock()

    def saw(self, boot: str, arrived: Moment, sent_at: int | None, limits: Limits) -> None:
        """Note a boot. `sent_at` is that of a live message: a retained one may be of any time."""
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
        """Whether an unknown boot is newer than the newest, and no straggler.

        It is if its message is shown to be sent after the newest boot's first, or arrives long
        enough after that.
        """
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
        """Remember an identity; False if there is no room."""
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
    """The seqs of an epoch that were acted on: the highest, and a bit for each of `WINDOW`."""

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
    """The floor of one boot of a device, ms: least received (monotonic) - sent_at lately.

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
            # Every earlier message was late, or the clock has jumped.
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
        """The offset at least, by the better of the two witnesses; None if neither counts."""
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
        # Any message of the two periods may be the prompt one, so count the drift from the first.
        return _Period(before.began, min(before.floor, last.floor)) if abs(before.floor - last.floor) <= PROMPT else None
