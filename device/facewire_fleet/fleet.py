"""Simulated devices without their network, pure: people who pass, a store in memory, the real uploader.

    Crowd ── people ──┐
    Rhythm ── when ───┴▶ Device.record ─▶ MemoryStore (ring of packed events) ─▶ Device.batch ─▶ wire
                                              ▲                                              │
                                              └────────────── Device.acked ◀── ack ──────────┘

The people, the rhythm and the scores come from the seed; the times of the events from the clock, and epochs and boots
are made anew for every run, or a second run of a seed would look to a platform like the first one restored.
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
from facewire.messages import Ack, Status, splice_match
from facewire_device.outgoing import OutgoingBatch, build_batch, online_status
from facewire_device.ring import Ring
from facewire_device.uploader import Adopt, Fork, Outcome, Uploader

#: How busy each half hour from 07:00 to 19:00 is: a week of badges of an office building (VAST Challenge 2016, mini-challenge 2).
OFFICE_DAY: Final = (
    *(1.13, 2.50, 0.58, 0.66, 0.44, 0.45, 1.27, 0.49, 0.62, 1.32, 1.62, 1.54),
    *(1.40, 0.52, 0.46, 0.60, 0.72, 0.96, 1.13, 0.92, 1.88, 0.46, 0.31, 0.11),
)
#: People whom a device sees time and again, of those that the fleet knows.
REGULARS: Final = 50
STRANGERS: Final = 0.1
Random = Callable[[], float]

_NAMES: Final = ("Ada", "Alan", "Barbara", "Claude", "Edsger", "Frances", "Grace", "Ken", "小明", "小红", "Łukasz", "Zoë")
_EMPLOYEE, _VISITOR, _STRANGER, _VIP = 1, 2, 4, 5


class Rhythm:
    """How the events of a run lie in it: as those of a day, scaled.

    Args:
        parts: how busy each equal part of the run is, in any unit.
    """

    def __init__(self, parts: Sequence[float] = OFFICE_DAY) -> None:
        total = sum(parts)
        self._done = [0.0, *(done / total for done in itertools.accumulate(parts))]

    def at(self, share: float) -> float:
        """The part of the run, 0 to 1, in which so large a share of its events falls."""
        last = len(self._done) - 2
        part = min(max(0, bisect.bisect_right(self._done, share) - 1), last)
        begun, ended = self._done[part], self._done[part + 1]
        return min(1.0, (part + (share - begun) / (ended - begun)) / (last + 1))


class Person(NamedTuple):
    """Somebody enrolled."""

    identity_id: str
    identity_name: str
    person_type: int


def crowd(count: int, random: Random) -> list[Person]:
    """The people whom a fleet has enrolled: employees, a few visitors and VIPs."""
    kinds = (_VIP, _VISITOR, _VISITOR, *[_EMPLOYEE] * 17)
    return [Person(f"p{n:06}", f"{_NAMES[n % len(_NAMES)]} {n}", kinds[int(random() * len(kinds))]) for n in range(count)]


@dataclass(frozen=True, slots=True)
class Plan:
    """What the devices of a fleet have in common.

    Attributes:
        rate: events a second and device, on the average.
        duration: of the run, s.
        photo: goes with each event; empty for none.
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
    """A device's store in memory: a ring of events, packed as they travel.

    Args:
        epoch: of the store; `new_id` makes others, should it fork.
    """

    __slots__ = ("_capacity", "_events", "_new_id", "ring")

    def __init__(self, epoch: str, capacity: int, new_id: Callable[[], str]) -> None:
        self.ring = Ring(epoch)
        self._capacity = capacity
        self._new_id = new_id
        #: The events from `ring.oldest` to `ring.head`.
        self._events: deque[bytes] = deque(maxlen=capacity)

    def append(self, fields: dict[str, Any]) -> bytes:
        """Record an event; its seq is given here. Returns it packed."""
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
        """Let an ack be decided against the ring, and carry out what follows."""
        outcome = decide(self.ring)
        match outcome:
            case Adopt(cursor):
                self.ring = self.ring.adopted(cursor)
            case Fork(first):
                self._fork(first)
        return outcome

    def _fork(self, first: int) -> None:
        before, after = self.ring, self.ring.forked(self._new_id(), first)
        remaining = itertools.islice(self._events, max(0, first - before.oldest), None)
        again = [codec.unpack(packed) | {"seq": seq} for seq, packed in enumerate(remaining, after.oldest)]
        self._events = deque(map(codec.pack, again), self._capacity)
        self.ring = after


class Device:
    """One device: who passes it and when, what it holds, when a batch is due.

    Args:
        name: in the topics.
        plan: what it shares with its fleet.
        starts_at: monotonic seconds, when the run starts.
        random: gives numbers in [0, 1), the device's own: they decide who passes when.
        jitter: gives numbers in [0, 1), for the uploader.
        new_id: makes an epoch or a boot.
    """

    __slots__ = ("_first_regular", "_plan", "_random", "_share_done", "_starts_at", "boot", "memory", "name", "next_at", "uploader")

    def __init__(self, name: str, plan: Plan, *, starts_at: float, random: Random, jitter: Random, new_id: Callable[[], str]) -> None:
        self.name = name
        self.boot = new_id()
        self.memory = MemoryStore(new_id(), plan.capacity, new_id)
        # The period begins somewhere in the first one, or a fleet would send all of its batches at once; in a run that is
        # shorter, somewhere in the run.
        first_at = starts_at + min(plan.period, plan.duration) * random()
        self.uploader = Uploader(self.boot, now=first_at, period=plan.period, catch_up=plan.catch_up, jitter=jitter)
        #: Where its regulars begin among the people: devices share some, a fleet does not share all.
        self._first_regular = zlib.crc32(name.encode())
        self._plan = plan
        self._starts_at = starts_at
        self._random = random
        #: The share of the run's events that is over.
        self._share_done = 0.0
        #: When the next person passes, monotonic seconds; infinite when the run is over.
        self.next_at = 0.0
        self._schedule_next()

    def record(self, now_ms: int) -> bytes | None:
        """Somebody passes. Returns the Match to publish, if the score makes it one.

        Args:
            now_ms: device clock, ms since 1970 UTC.
        """
        score, person = self._compare()
        fields: dict[str, Any] = {
            "timestamp": now_ms,
            "score": score,
            **person._asdict(),
            "group_name": "staff" if person.person_type != _STRANGER else "",
            "ep_id": "entrance-1",
            "want_action": "open",
        }
        if self._plan.photo:
            fields["photo"] = self._plan.photo
        packed = self.memory.append(fields)
        self._schedule_next()
        return splice_match(self.memory.ring.epoch, self.boot, now_ms, packed) if score > self._plan.threshold else None

    def batch(self) -> OutgoingBatch:
        """The batch to publish now."""
        return self.memory.next_batch(self.boot)

    def acked(self, now: float, ack: Ack) -> Outcome:
        """An ack came; the store follows it."""
        return self.memory.apply_ack(lambda ring: self.uploader.acked(now, ack, ring))

    def status(self, at_ms: int, version: str) -> Status:
        """What it says of itself while online."""
        plan, ring = self._plan, self.memory.ring
        return online_status(
            ring, self.boot, at=at_ms, threshold=plan.threshold, period=plan.period, capacity=plan.capacity, version=version
        )

    def _compare(self) -> tuple[float, Person]:
        """Who it is, and how sure the device is: far apart for the enrolled and for strangers, with a few doubtful ones."""
        chance, place, sureness = self._random(), self._random(), self._random()
        if chance < STRANGERS or not self._plan.people:
            return round(0.2 + 0.5 * sureness, 4), Person(f"stranger-{int(place * 1e6)}", "", _STRANGER)
        # Some come through the same door all day, others hardly ever: the square favours the first.
        regular = int(REGULARS * place * place)
        score = round(0.98 - 0.3 * sureness**4, 4)
        return score, self._plan.people[(self._first_regular + regular) % len(self._plan.people)]

    def _schedule_next(self) -> None:
        expected = self._plan.rate * self._plan.duration
        # What is left to chance alone comes at exponential distances.
        self._share_done += -math.log(1.0 - self._random()) / expected
        over = self._share_done >= 1.0
        self.next_at = math.inf if over else self._starts_at + self._plan.duration * self._plan.rhythm.at(self._share_done)


@dataclass(frozen=True, slots=True)
class Comparison:
    """What a platform has of a fleet, compared with what was recorded."""

    #: Events that are there.
    stored: int = 0
    #: More of an event than one, and events that nobody recorded.
    doubled: int = 0
    #: Recorded, and neither there nor declared lost.
    missing: int = 0
    #: Declared lost.
    gaps: int = 0


def compare(
    heads: Mapping[tuple[str, str], int], stored: Mapping[tuple[str, str], Sequence[int]], gaps: Mapping[tuple[str, str], int]
) -> Comparison:
    """Compare what was recorded with what is stored, stream by stream.

    Args:
        heads: what was recorded: the head of each (device, epoch).
        stored: the seqs that are stored, of these and any other streams of these devices since the run began.
        gaps: events declared lost.
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
    """The value that `share` of them do not exceed, of values that rise; None of none."""
    return rising[min(len(rising) - 1, math.ceil(share * len(rising)) - 1)] if rising else None
