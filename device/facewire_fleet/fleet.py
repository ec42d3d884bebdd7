"""Simulated devices without their network, pure: passing people, a store in memory, the uploader.

    crowd ── people ──┐
    Rhythm ── when ───┴▶ Device.record ─▶ MemoryStore (ring of events) ─▶ Device.batch ─▶ wire
                                              ▲                                            │
                                              └────────────── Device.acked ◀── ack ────────┘

The seed decides the people, the rhythm and the scores; the clock gives the times. Epochs and boots
are new in every run. Otherwise a second run of a seed would look to a platform like a restore of
the first.
"""

import bisect
import itertools
import math
import zlib
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from facewire import codec
from facewire.events import PersonType
from facewire.messages import Ack, Status, splice_match
from facewire_device.clock_error import ClockError
from facewire_device.outgoing import OutgoingBatch, build_batch, online_status
from facewire_device.ring import Ring
from facewire_device.uploader import Adopt, Fork, Outcome, Uploader

#: How busy each half hour from 07:00 to 19:00 is, from a week of badge readings in an office
#: building (VAST Challenge 2016, mini-challenge 2).
OFFICE_DAY: Final = (
    *(1.13, 2.50, 0.58, 0.66, 0.44, 0.45, 1.27, 0.49, 0.62, 1.32, 1.62, 1.54),
    *(1.40, 0.52, 0.46, 0.60, 0.72, 0.96, 1.13, 0.92, 1.88, 0.46, 0.31, 0.11),
)
#: Enrolled people who pass one device again and again.
REGULARS: Final = 50
#: Share of passers-by who are strangers.
STRANGERS: Final = 0.1
Random = Callable[[], float]

_NAMES: Final = ("Ada", "Alan", "Barbara", "Claude", "Edsger", "Frances", "Grace", "Ken", "小明", "小红", "Łukasz", "Zoë")


class Rhythm:
    """Spreads the events over a run as they are spread over a day.

    Args:
        parts: how busy each part of the run is, in any unit; the parts are equally long.
    """

    def __init__(self, parts: Sequence[float] = OFFICE_DAY) -> None:
        total = sum(parts)
        self._done = [0.0, *(done / total for done in itertools.accumulate(parts))]

    def at(self, share: float) -> float:
        """The moment, 0 to 1, by which this share of the run's events has happened."""
        last = len(self._done) - 2
        part = min(max(0, bisect.bisect_right(self._done, share) - 1), last)
        begun, ended = self._done[part], self._done[part + 1]
        return min(1.0, (part + (share - begun) / (ended - begun)) / (last + 1))


class Person(NamedTuple):
    """An enrolled person."""

    identity_id: str
    identity_name: str
    person_type: int


def crowd(count: int, random: Random) -> list[Person]:
    """The people enrolled in a fleet: employees, a few visitors and VIPs."""
    kinds = (PersonType.VIP, PersonType.VISITOR, PersonType.VISITOR, *[PersonType.EMPLOYEE] * 17)
    return [Person(f"p{n:06}", f"{_NAMES[n % len(_NAMES)]} {n}", kinds[int(random() * len(kinds))].value) for n in range(count)]


@dataclass(frozen=True, slots=True)
class Plan:
    """The settings that all devices of a fleet share.

    Attributes:
        rate: mean events per second of one device.
        duration: how long the run takes, s.
        people: the people enrolled in the fleet.
        rhythm: decides when people pass.
        threshold: a score above it (strictly) is a match.
        period: seconds between batches.
        catch_up: batches in a period while a backlog remains.
        photo: bytes added to each event; empty for none.
        capacity: events in each ring.
    """

    rate: float
    duration: float
    people: Sequence[Person]
    rhythm: Rhythm
    threshold: float = 0.8
    period: float = 20.0
    catch_up: int = 1
    photo: bytes = b""
    capacity: int = 1_000


class MemoryStore:
    """A device's store in memory: a ring of events in wire form.

    Args:
        epoch: the store's first one.
        capacity: events in the ring.
        new_id: makes another epoch if the store forks.
    """

    __slots__ = ("_capacity", "_events", "_new_id", "ring")

    def __init__(self, epoch: str, capacity: int, new_id: Callable[[], str]) -> None:
        self.ring = Ring(epoch)
        self._capacity = capacity
        self._new_id = new_id
        #: The events from `ring.oldest` to `ring.head`.
        self._events: deque[bytes] = deque(maxlen=capacity)

    def append(self, fields: dict[str, Any]) -> bytes:
        """Record an event with the next seq. Returns it packed."""
        packed = codec.pack({"seq": self.ring.head + 1, **fields})
        self._events.append(packed)
        self.ring = self.ring.appended(1, self._capacity)
        return packed

    def next_batch(self, boot: str) -> OutgoingBatch:
        """The next batch (`outgoing.build_batch`)."""
        first = self.ring.first_unacked
        events = itertools.islice(self._events, first - self.ring.oldest, None)
        return build_batch(self.ring, boot, enumerate(events, first))

    def apply_ack(self, decide: Callable[[Ring], Outcome]) -> Outcome:
        """Apply the outcome of an ack, which `decide` finds from the ring."""
        outcome = decide(self.ring)
        match outcome:
            case Adopt(cursor):
                self.ring = self.ring.adopted(cursor)
            case Fork(first):
                self._fork(first)
        return outcome

    def _fork(self, first: int) -> None:
        before, after = self.ring, self.ring.forked(self._new_id(), first, diverged=True)
        remaining = itertools.islice(self._events, max(0, first - before.oldest), None)
        again = [codec.unpack(packed) | {"seq": seq} for seq, packed in enumerate(remaining, after.oldest)]
        self._events = deque(map(codec.pack, again), self._capacity)
        self.ring = after


class Device:
    """One device: its passers-by, its store, and its uploader.

    Args:
        name: the device's name in the topics.
        plan: the fleet's.
        starts_at: start of the run, monotonic seconds.
        random: returns numbers in [0, 1), for this device alone: they decide who passes when.
        jitter: returns numbers in [0, 1), for the uploader.
        new_id: makes an epoch or a boot.

    Attributes:
        clock: knows the error of the device's clock, which its matches and statuses say.
        next_at: when the next person passes, monotonic seconds; infinite when the run is over.
    """

    __slots__ = (
        "_first_regular",
        "_plan",
        "_random",
        "_share_done",
        "_starts_at",
        "boot",
        "clock",
        "memory",
        "name",
        "next_at",
        "uploader",
    )

    def __init__(self, name: str, plan: Plan, *, starts_at: float, random: Random, jitter: Random, new_id: Callable[[], str]) -> None:
        self.name = name
        self.boot = new_id()
        self.memory = MemoryStore(new_id(), plan.capacity, new_id)
        self.clock = ClockError()
        # Spread the first batches over a period, or over the run if that is shorter. Otherwise a
        # fleet would send all of its batches at once.
        first_at = starts_at + min(plan.period, plan.duration) * random()
        self.uploader = Uploader(self.boot, now=first_at, period=plan.period, catch_up=plan.catch_up, jitter=jitter)
        #: Index of its first regular among the people: neighbours share some, not all devices do.
        self._first_regular = zlib.crc32(name.encode())
        self._plan = plan
        self._starts_at = starts_at
        self._random = random
        #: Share of the run's events that have happened.
        self._share_done = 0.0
        self.next_at = 0.0
        self._schedule_next()

    def record(self, now_ms: int, elapsed_ms: int) -> bytes | None:
        """Record that somebody passes. Returns the match to publish, if it is one.

        Args:
            now_ms: device clock, ms since 1970 UTC.
            elapsed_ms: a clock that nobody sets.
        """
        score, person = self._compare()
        fields: dict[str, Any] = {
            "timestamp": now_ms,
            "score": score,
            **person._asdict(),
            "group_name": "staff" if person.person_type != PersonType.STRANGER else "",
            "ep_id": "entrance-1",
            "want_action": "open",
        }
        if self._plan.photo:
            fields["photo"] = self._plan.photo
        packed = self.memory.append(fields)
        self._schedule_next()
        if score <= self._plan.threshold:
            return None
        return splice_match(self.memory.ring.epoch, self.boot, now_ms, packed, clock=self.clock.read(elapsed_ms, now_ms))

    def batch(self) -> OutgoingBatch:
        """The batch to publish now."""
        return self.memory.next_batch(self.boot)

    def acked(self, now: float, ack: Ack) -> Outcome:
        """An ack arrived: apply its outcome to the store."""
        return self.memory.apply_ack(lambda ring: self.uploader.acked(now, ack, ring))

    def status(self, at_ms: int, elapsed_ms: int, version: str) -> Status:
        """The status to publish while online."""
        plan = self._plan
        return online_status(
            self.memory.ring,
            self.boot,
            at=at_ms,
            threshold=plan.threshold,
            period=plan.period,
            capacity=plan.capacity,
            version=version,
            clock=self.clock.read(elapsed_ms, at_ms),
        )

    def _compare(self) -> tuple[float, Person]:
        """A score and a person. Scores of enrolled people and strangers hardly overlap."""
        chance, place, sureness = self._random(), self._random(), self._random()
        if chance < STRANGERS or not self._plan.people:
            return round(0.2 + 0.5 * sureness, 4), Person(f"stranger-{int(place * 1e6)}", "", PersonType.STRANGER.value)
        # Some people use the same door all day, others hardly ever: the square favours the former.
        regular = int(REGULARS * place * place)
        score = round(0.98 - 0.3 * sureness**4, 4)
        return score, self._plan.people[(self._first_regular + regular) % len(self._plan.people)]

    def _schedule_next(self) -> None:
        expected = self._plan.rate * self._plan.duration
        # Independent events have exponential distances.
        self._share_done += -math.log(1.0 - self._random()) / expected
        over = self._share_done >= 1.0
        self.next_at = math.inf if over else self._starts_at + self._plan.duration * self._plan.rhythm.at(self._share_done)


@dataclass(frozen=True, slots=True)
class Comparison:
    """The events on a platform, compared with the events that a fleet recorded."""

    #: Recorded events that are stored.
    stored: int = 0
    #: Events stored more than once, and events that nobody recorded.
    doubled: int = 0
    #: Recorded events that are neither stored nor declared lost.
    missing: int = 0
    #: Events declared lost.
    gaps: int = 0


def compare(
    heads: Mapping[tuple[str, str], int], stored: Mapping[tuple[str, str], Sequence[int]], gaps: Mapping[tuple[str, str], int]
) -> Comparison:
    """Compare the recorded events with the stored ones, stream by stream.

    Args:
        heads: the head of each recorded stream, by (device, epoch).
        stored: the stored seqs of each stream of these devices since the run began.
        gaps: how many events of each stream were declared lost.
    """
    stored_once = doubled = missing = lost = 0
    for stream, head in heads.items():
        seqs = stored.get(stream, [])
        once = sum(1 for seq in set(seqs) if 1 <= seq <= head)
        stored_once += once
        doubled += len(seqs) - once
        lost += gaps.get(stream, 0)
        missing += max(0, head - once - gaps.get(stream, 0))
    doubled += sum(len(seqs) for stream, seqs in stored.items() if stream not in heads)
    return Comparison(stored_once, doubled, missing, lost)


def percentile(rising: Sequence[float], share: float) -> float | None:
    """The smallest of the rising values that `share` of them do not exceed; None without any."""
    return rising[min(len(rising) - 1, math.ceil(share * len(rising)) - 1)] if rising else None
