"""The effect of a batch on a stream, pure (docs/contract.md, Platform, rule 2).

A stream is one epoch of one device. Every seq up to its watermark W is stored, in a gap or in
quarantine:

    1 ──────────────────────────── W ───────────────▶ seq
      stored | gap | quarantined     stored or not yet

    after ≤ W:  the batch joins on. W becomes its cursor; seqs missing below it become a gap
    after > W:  there is a hole. Its events are stored, W stays, the ack takes the device back to W
"""

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Final, Generic, Literal, NamedTuple, Protocol, TypeAlias, TypeVar

from facewire.messages import Ack, BadEvent, BatchOf, Rejected

#: Events that a device may record unnoticed at once, and in each second of its silence. A box makes
#: five a second.
JUMP: Final = 1_000_000
JUMP_PER_SECOND: Final = 100
#: Why events are lost. `overwritten`: the device's ring was full. `missing`: its store does not
#: have them; a bridge may have seen a hole in its source's numbers. `jump`: seqs rose by more than
#: a device can record. `ended`: the device left the epoch.
Loss: TypeAlias = Literal["overwritten", "missing", "jump", "ended"]


class Decisive(Protocol):
    """The fields of an event that decide what becomes of it."""

    @property
    def seq(self) -> int: ...
    @property
    def timestamp(self) -> int: ...
    @property
    def score(self) -> float: ...
    @property
    def identity_id(self) -> str: ...


#: The form in which a batch holds its events.
E_co = TypeVar("E_co", bound=Decisive, covariant=True)


class Content(NamedTuple):
    """The fields that must be the same in both copies of an event."""

    timestamp: int
    identity_id: str
    score: float

    @classmethod
    def of(cls, event: Decisive) -> "Content":
        return cls(event.timestamp, event.identity_id, event.score)


class Range(NamedTuple):
    """The seqs from `first` to `last`, both included."""

    first: int
    last: int

    @property
    def size(self) -> int:
        return self.last - self.first + 1


@dataclass(frozen=True, slots=True)
class Decision(Generic[E_co]):
    """The writes for one batch, which belong in one transaction, and the content of its ack."""

    watermark: int
    #: Events to insert; none of them is stored.
    store: Sequence[E_co] = ()
    #: Seqs of `store` at or below the old watermark. They leave their gaps or quarantine.
    late: tuple[int, ...] = ()
    #: New gaps.
    declared: tuple[Range, ...] = ()
    #: Events to keep in quarantine and to name in the ack.
    rejected: tuple[BadEvent, ...] = ()
    #: Seqs of rejected events that the watermark passes now, for the first time.
    quarantined: tuple[int, ...] = ()
    #: The first seq whose content differs from the stored one.
    conflict: int | None = None
    #: Seqs that the watermark passes now, and whose events are stored under another epoch.
    continued: tuple[int, ...] = ()


def decide(
    batch: BatchOf[E_co],
    watermark: int,
    stored: Mapping[int, Content],
    runs: Iterable[Range] = (),
    *,
    elsewhere: Set[int] = frozenset(),
    earlier_head: int = 0,
) -> Decision[E_co]:
    """Judge a batch.

    Args:
        batch: as decoded, so its shape is right.
        watermark: the watermark of the batch's stream, 0 if never seen.
        stored: the stored contents for the batch's own seqs, those of bad events too.
        runs: all other stored seqs in (watermark, cursor]. They may overlap `stored`.
        elsewhere: seqs of the batch whose events are stored under another epoch (see `succession`).
        earlier_head: the highest seq of this epoch that an earlier boot of the device reported. A
            store whose head is lower has lost its tail: it would give the same seqs to other
            events (R7).
    """
    if batch.after > watermark:
        return Decision(watermark, store=_not_in(stored, elsewhere, batch.events), rejected=batch.bad)
    # The usual batch, recognized by its count: seqs rise in (after, cursor], so none is missing.
    plain = not stored and not batch.bad and not elsewhere and batch.head >= earlier_head
    if plain and batch.after == watermark and len(batch.events) == batch.cursor - batch.after:
        return Decision(batch.cursor, store=batch.events)
    conflict = _conflict(batch, stored, elsewhere, earlier_head)
    end = batch.cursor if conflict is None else conflict - 1
    events = batch.events if conflict is None else tuple(event for event in batch.events if event.seq <= end)
    bad = tuple(bad for bad in batch.bad if bad.seq is None or bad.seq <= end)
    new = _not_in(stored, elsewhere, events)
    quarantined = {bad.seq for bad in bad if bad.seq is not None and bad.seq > watermark and bad.seq not in stored}
    present = {event.seq for event in events} | quarantined | stored.keys()
    declared = missing(Range(watermark + 1, end), itertools.chain(((seq, seq) for seq in present), runs))
    return Decision(
        watermark=max(watermark, end),
        store=new,
        late=tuple(event.seq for event in new if event.seq <= watermark),
        declared=tuple(declared),
        rejected=bad,
        quarantined=tuple(sorted(quarantined)),
        conflict=conflict,
        continued=tuple(sorted(seq for seq in elsewhere if watermark < seq <= end and seq not in stored)),
    )


def _conflict(batch: BatchOf[Decisive], stored: Mapping[int, Content], elsewhere: Set[int], earlier_head: int) -> int | None:
    for event in batch.events:
        if event.seq in stored and event.seq not in elsewhere and stored[event.seq] != Content.of(event):
            return event.seq
    return batch.cursor + 1 if batch.head < earlier_head else None


def answer(batch: BatchOf[Decisive], decision: Decision[Decisive], store: str) -> Ack:
    """The ack to publish once the decision is durable.

    Args:
        batch: the batch.
        decision: of `decide`.
        store: the identity of the platform's store.
    """
    rejected = tuple(Rejected(bad.seq, bad.reason) for bad in decision.rejected)
    return Ack(batch.epoch, batch.boot, batch.cursor, decision.watermark, store, conflict=decision.conflict, rejected=rejected)


def highest(head: int, silent_ms: int) -> int:
    """The highest seq that a match may plausibly have.

    A match raises what is known of the head, and nothing lowers it again.

    Args:
        head: the highest seq known of its stream, 0 if it is new.
        silent_ms: time since the stream was last heard from; of a new one since 1970.
    """
    return head + JUMP + JUMP_PER_SECOND * max(0, silent_ms) // 1000


def loss(gap: Range, oldest: int, most: int) -> Loss:
    """Why the events of a gap are lost that a batch declares.

    Args:
        gap: the lost seqs.
        oldest: the oldest seq that the device holds.
        most: the highest plausible seq (`highest`).
    """
    if gap.last > most:
        return "jump"
    return "overwritten" if gap.last < oldest else "missing"


def missing(span: Range, present: Iterable[tuple[int, int]]) -> Iterator[Range]:
    """The ranges of `span` that `present` does not cover, in time that the span does not affect."""
    wanted = span.first
    for first, last in sorted(present):
        if first > span.last:
            break
        if first > wanted:
            yield Range(wanted, first - 1)
        wanted = max(wanted, last + 1)
    if wanted <= span.last:
        yield Range(wanted, span.last)


def _not_in(stored: Mapping[int, Content], elsewhere: Set[int], events: Sequence[E_co]) -> Sequence[E_co]:
    if not stored and not elsewhere:
        return events
    return tuple(event for event in events if event.seq not in stored and event.seq not in elsewhere)
