"""Decides which matches one consumer may act on: a late match opens no door. Pure.

A consumer acts on a match if it is not retained, its boot is the newest seen of the device, its
identity was not acted on before, and it is shown to be no older than the limit. A match that
nothing shows to be fresh is refused, with its reason.

    received - sent_at = offset + delay          one number known, two unknown, delay >= 0
    age = received - timestamp - offset

Only a round trip tells the two apart: the device measures its clock's error against the platform
and says it. If it says nothing, its clock is taken to be right, unless a message of this boot has
shown it to be ahead: each counts as evidence, acted on or not. docs/consumers.md ("How freshness is
judged") tells the theory, what it assumes, and how each detail is decided. The names there are
those of `Limits` and of the constants below.
"""

import math
from collections import Counter
from dataclasses import dataclass, field
from typing import Final, Literal, NamedTuple, TypeAlias, get_args

from facewire.messages import Match, Status

#: docs/consumers.md ("Reasons") explains each.
Reason: TypeAlias = Literal["retained", "previous_boot", "repeated", "late", "unproven", "crowded"]
REASONS: Final[tuple[Reason, ...]] = get_args(Reason)

#: What shows that a match is fresh; each also accepts the proofs before it.
Proof: TypeAlias = Literal["round_trip", "clock", "steady"]

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
#: Unknown boots of a device whose clocks are watched until one becomes the newest.
CONTESTERS: Final = 16
DEVICES: Final = 100_000


@dataclass(frozen=True, slots=True)
class Limits:
    """The limits of a fresh match, in seconds.

    Attributes:
        age: from the comparison to the judgement, at most.
        clock_error: how far the clock that dates a match may be ahead of ours: the platform's if
            the device says its error, otherwise the device's. Every match counts as older by this
            much.
        steady: length of the periods that prove the offset of a wrong clock; with `math.inf` none
            does.
        longest_delay: no network holds a stream back for longer at a constant delay.
        proof: `round_trip` refuses each match whose device does not say its clock's error. `clock`
            takes the clock of such a device to be right. `steady` also believes a wrong clock
            after two steady periods; a delay as steady then opens doors late.

    Raises:
        ValueError: no match could ever be fresh.
    """

    age: float = 5.0
    clock_error: float = 2.0
    steady: float = 60.0
    longest_delay: float = 1_200.0
    proof: Proof = "clock"

    def __post_init__(self) -> None:
        if self.proof not in get_args(Proof):
            raise ValueError(f"proof {self.proof!a} is not one of {', '.join(get_args(Proof))}")
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


class _Heard(NamedTuple):
    """The facts in a message about its device's clock."""

    arrived: Moment
    #: Device clock when it was sent, or before.
    sent_at: int
    #: Neither retained nor a last will: it was sent shortly before it arrived.
    live: bool
    #: The error that the device says its clock has: from and to, ms; None if it says nothing.
    said: tuple[int, int] | None

    @classmethod
    def of(cls, message: Match | Status, arrived: Moment, *, retained: bool) -> "_Heard":
        if isinstance(message, Match):
            return cls(arrived, message.sent_at, not retained, _said(message))
        return cls(arrived, message.at, message.online and not retained, _said(message))


def _said(message: Match | Status) -> tuple[int, int] | None:
    error, uncertainty = message.clock_error_ms, message.clock_uncertainty_ms
    return None if error is None or uncertainty is None else (error - uncertainty, error + uncertainty)


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

    def hear(self, device: str, message: Match | Status, *, retained: bool, arrived: Moment) -> None:
        """Learn the newest boot and the clock from a message that is not judged.

        A last will and a retained match tell no newest boot.
        """
        if (known := self._device(device)) is not None:
            is_news = message.online if isinstance(message, Status) else not retained
            known.hear(message.boot, _Heard.of(message, arrived, retained=retained), self.limits, is_news=is_news)

    def remember(self, device: str, epoch: str, seq: int, now: float) -> None:
        """Learn that a match was acted on before this consumer began."""
        if (known := self._device(device)) is not None:
            known.act(epoch, seq, now)

    def match(self, device: str, match: Match, *, retained: bool, arrived: Moment, now: Moment) -> Verdict:
        """Hear a match, and judge it.

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
        self.hear(device, match, retained=retained, arrived=arrived)
        known = self._device(device)
        if retained:
            return Verdict("retained")
        if known is None:
            return Verdict("crowded")
        if match.boot != known.boot:
            return Verdict("previous_boot")
        if known.acted(match.epoch, match.event.seq):
            return Verdict("repeated")
        verdict = self._judge_age(known.clock, _said(match), match, now)
        if verdict.age is not None and now.ms - verdict.age * 1000 <= known.contested:
            return Verdict("previous_boot", verdict.age)
        if verdict.reason is None and not known.act(match.epoch, match.event.seq, now.monotonic):
            return Verdict("crowded", verdict.age)
        return verdict

    def _judge_age(self, clock: "_Clock", said: tuple[int, int] | None, match: Match, now: Moment) -> Verdict:
        limit = self.limits.age * 1000
        compared = match.event.timestamp
        # Take the older of the two: if the clock was set back in between, the comparison looks
        # younger than the publishing.
        elapsed = now.ms - min(compared, match.sent_at)
        if elapsed - clock.most_offset(now, said) > limit:
            return Verdict("late")
        least = clock.least_offset(now, self.limits, said)
        if least is None or compared > match.sent_at + SLEWED or elapsed - least > limit:
            return Verdict("unproven")
        return Verdict(None, (elapsed - least) / 1000)

    def _device(self, name: str) -> "_Device | None":
        known = self._devices.get(name)
        if known is None and len(self._devices) < DEVICES:
            known = self._devices[name] = _Device()
        return known


class _Device:
    """A device, as the consumer knows it."""

    __slots__ = ("_boots", "_contester", "_contesters", "_epochs", "_since", "boot", "clock", "contested")

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
        #: The clocks of unknown boots, whose messages are not acted on yet.
        self._contesters: dict[str, _Clock] = {}

    def hear(self, boot: str, heard: _Heard, limits: Limits, *, is_news: bool) -> None:
        """Learn from a message, acted on or not; `is_news`: it may show its boot to be newest."""
        if boot == self.boot:
            self.clock.hear(heard, limits)
        if boot in self._boots:
            return
        clock = self._contesters.setdefault(boot, _Clock())
        clock.hear(heard, limits)
        if len(self._contesters) > CONTESTERS:
            del self._contesters[next(iter(self._contesters))]
        if not is_news:
            return
        if self.boot is not None and not self._is_newer(clock, heard, limits):
            self._contester = boot if self._contester in {None, boot} else ""
            self.contested = heard.arrived.ms
            return
        self._adopt(boot, heard.arrived)

    def _adopt(self, boot: str, arrived: Moment) -> None:
        self._boots[boot] = None
        if len(self._boots) > BOOTS:
            del self._boots[next(iter(self._boots))]
        # A restart may have lost the clock, or found it.
        self.boot, self.clock, self._since = boot, self._contesters.pop(boot), arrived.ms
        if self._contester == boot:
            self._contester, self.contested = None, -math.inf

    def _is_newer(self, clock: "_Clock", heard: _Heard, limits: Limits) -> bool:
        """Whether an unknown boot is newer than the newest, and no straggler.

        It is if its message was provably sent after the newest boot's first one, or arrives long
        enough after that.
        """
        if heard.arrived.ms - self._since > max(STRAGGLING, limits.age) * 1000:
            return True
        least = clock.least_offset(heard.arrived, limits, heard.said) if heard.live else None
        return least is not None and heard.sent_at + least > self._since

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
    """The clock of one boot, as its messages show it, ms: received (monotonic) - sent_at.

    last two closed periods      open
    ├────────────┼────────────┼───────▶ time
      floors agree: proved          a message below them by more than `PROMPT`: all begins again
    """

    _closed: list[_Period] = field(default_factory=list)
    _open: _Period | None = None
    #: The least of all messages: how far ahead the clock has been seen.
    _least: float = math.inf
    #: How far ahead the clock is at most, by the device's last word.
    _said_ahead: float = -math.inf
    #: The same as `_least` for the clock of the platform, to which devices correct their own: the
    #: least since `_platform_since`, and of the time before.
    _platform: tuple[float, float] = (math.inf, math.inf)
    _platform_since: float = -math.inf

    def hear(self, heard: _Heard, limits: Limits) -> None:
        """Take in a message, acted on or not.

        Delay only adds, so even a retained message shows how far ahead the clock is at least.
        """
        level = heard.arrived.ms - heard.sent_at
        self._least = min(self._least, level)
        if not heard.live:
            return
        self._sample(heard.arrived.ms, level, limits.steady * 1000)
        if heard.said is not None:
            self._said_ahead = heard.said[1]
            self._sample_platform(heard.arrived.ms, level + heard.said[1], limits.longest_delay * 1000)

    def _sample(self, arrived: int, level: int, steady: float) -> None:
        if self._open is None or level < self._floor() - PROMPT:
            # Every earlier message was late, or the clock has jumped.
            self._closed, self._open = [], _Period(arrived, level)
        period = self._open
        period.floor = min(period.floor, level)
        period.messages += 1
        if period.messages >= STEADY_MESSAGES and arrived - period.began >= steady:
            self._closed = [*self._closed[-1:], period]
            self._open = _Period(arrived, level)

    def _sample_platform(self, arrived: int, level: float, longest_delay: float) -> None:
        if arrived - self._platform_since > longest_delay:
            self._platform, self._platform_since = (math.inf, self._platform[0]), arrived
        self._platform = (min(self._platform[0], level), self._platform[1])

    def _floor(self) -> int:
        """The least of the last periods. A clock has one from its first live message on."""
        assert self._open is not None  # noqa: S101  # for mypy
        return min(period.floor for period in (*self._closed, self._open))

    def most_offset(self, now: Moment, said: tuple[int, int] | None) -> float:
        """The offset at most, by a live message."""
        return self._floor() if said is None else -said[0] - (now.wall_ms - now.ms)

    def least_offset(self, now: Moment, limits: Limits, said: tuple[int, int] | None) -> float | None:
        """The offset at least, by the best witness that counts; None if there is none."""
        ahead = now.wall_ms - now.ms
        ours = -limits.clock_error * 1000 - ahead
        if said is not None:
            return ours - said[1] if min(self._platform) >= ours else None
        if limits.proof == "round_trip":
            return None
        seen = self._floor() if limits.proof == "steady" else self._least
        witnesses = [ours] if seen >= ours and self._said_ahead <= limits.clock_error * 1000 else []
        proved = self._proved() if limits.proof == "steady" else None
        if proved is not None and not ours <= proved.floor <= limits.longest_delay * 1000 - ahead:
            witnesses.append(proved.floor - PROMPT - DRIFT * max(0, now.ms - proved.began))
        return max(witnesses, default=None)

    def _proved(self) -> _Period | None:
        if len(self._closed) < 2:
            return None
        before, last = self._closed
        # Any message of the two periods may be the prompt one, so count the drift from the first.
        return _Period(before.began, min(before.floor, last.floor)) if abs(before.floor - last.floor) <= PROMPT else None
