"""The platform's rules a second time, straight from the contract, for tests to compare with."""

from dataclasses import dataclass, field

from facewire.events import Event
from facewire.messages import BadEvent, Batch

EPOCH, BOOT = "00000000000000e1", "00000000000000b1"


def event(seq: int, content: int = 0, **extra: object) -> Event:
    """An event; a different `content` gives it different content."""
    return Event(seq, 1_700_000_000_000 + content, 0.5, "p", "name", 1, None, None, dict(extra))


def bad_event(seq: int | None, reason: str = "score is missing: a finite number") -> BadEvent:
    return BadEvent(seq, reason, b"raw %d" % (seq or 0))


def batch(
    after: int, cursor: int, *events: Event | int, bad: tuple[BadEvent, ...] = (), epoch: str = EPOCH, boot: str = BOOT, head: int = 0
) -> Batch:
    made = tuple(event(item) if isinstance(item, int) else item for item in events)
    return Batch(epoch, boot, after, cursor, max(head, cursor), 1, made, bad)


@dataclass
class StreamModel:
    """One epoch of a device, as dicts and sets of seqs."""

    watermark: int = 0
    stored: dict[int, Event] = field(default_factory=dict)
    gaps: set[int] = field(default_factory=set)
    rejected: set[int] = field(default_factory=set)

    def take(self, batch: Batch) -> tuple[int, int | None]:
        """Apply a batch; returns the watermark and the conflict."""
        if batch.after > self.watermark:
            for event in batch.events:
                self._store(event)
            return self.watermark, None
        conflict = min((e.seq for e in batch.events if e.seq in self.stored and _content(e) != _content(self.stored[e.seq])), default=None)
        cursor = batch.cursor if conflict is None else conflict - 1
        bad = {bad.seq for bad in batch.bad}
        for event in batch.events:
            if event.seq <= cursor:
                self._store(event)
        for seq in range(max(batch.after, self.watermark) + 1, cursor + 1):
            if seq not in self.stored:
                (self.rejected if seq in bad else self.gaps).add(seq)
        self.watermark = max(self.watermark, cursor)
        return self.watermark, conflict

    def take_match(self, event: Event) -> None:
        self._store(event)

    def check(self) -> None:
        below = {seq for seq in self.stored if seq <= self.watermark}
        assert self.watermark == len(below) + len(self.gaps) + len(self.rejected)
        assert not self.gaps & self.rejected
        assert not (self.gaps | self.rejected) & self.stored.keys()

    def _store(self, event: Event) -> None:
        self.stored.setdefault(event.seq, event)
        self.gaps.discard(event.seq)
        self.rejected.discard(event.seq)


def _content(event: Event) -> tuple[int, str, float]:
    return event.timestamp, event.identity_id, event.score
