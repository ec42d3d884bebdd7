"""Counts a worker's deeds since it started, and logs those that somebody may need to act on."""

import logging
from dataclasses import dataclass, field, fields
from typing import Any

from facewire.errors import BatchRefused
from facewire.messages import Ack, BatchOf, Match, Status
from facewire_platform.intake.declared import Began, Declared, Ended
from facewire_platform.intake.rates import Postponed
from facewire_platform.store.writer import Message, Outcome, Unreadable

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Counters:
    """The work since a worker started."""

    batches: int = 0
    matches: int = 0
    statuses: int = 0
    #: Whole messages, and single events of batches.
    quarantined: int = 0
    refused: int = 0
    conflicts: int = 0
    stale_statuses: int = 0
    #: Events in the batches received, even if stored before.
    events: int = 0
    commits: int = 0
    #: Time spent in transactions, s.
    commit_seconds: float = 0.0
    #: Messages that did not fit into the inbox.
    dropped: int = 0
    #: Messages over the rate of their device.
    over_rate: int = 0
    declared: Declared = field(default_factory=Declared, repr=False)

    def __str__(self) -> str:
        """The counts, for the log."""
        return " ".join(f"{each.name}={getattr(self, each.name)}" for each in fields(self) if each.repr)

    def stored(self, message: Message, outcome: Outcome) -> None:
        """A message was stored, with this outcome."""
        match message.body:
            case BatchOf() as batch:
                self.batches += 1
                self.events += len(batch.events)
                self._acked(message.device, batch, outcome)
            case Match():
                self.matches += 1
            case Status():
                self.statuses += 1
                self.stale_statuses += not outcome
            case Postponed():
                pass  # counted when it arrived
            case BatchRefused():
                self.refused += 1
            case Unreadable(topic, reason):
                self.quarantined += 1
                log.warning("quarantined topic=%r error=%s", topic, reason)

    def _acked(self, device: str, batch: BatchOf[Any], ack: Outcome) -> None:
        assert isinstance(ack, Ack)  # noqa: S101  # the outcome of a batch
        match self.declared.stored(device, batch, ack):
            case Began(events):
                log.warning(
                    "device declares events lost device=%s epoch=%s after=%d events_lost=%d", device, batch.epoch, batch.after, events
                )
            case Ended(events, batches):
                log.warning("device loses no more events device=%s events_lost=%d batches=%d", device, events, batches)
        for rejected in ack.rejected:
            self.quarantined += 1
            log.warning("quarantined device=%s epoch=%s seq=%s reason=%s", device, batch.epoch, rejected.seq, rejected.reason)
        if ack.conflict is not None:
            self.conflicts += 1
            log.warning("conflict device=%s epoch=%s seq=%d", device, batch.epoch, ack.conflict)
