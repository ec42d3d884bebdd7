"""Which losses that devices declare are worth a line in the log: once for each episode. Pure.

An episode begins with the first batch of a device that declares events lost, as after its ring
overflowed, and ends with the first that declares none.
"""

from dataclasses import dataclass
from typing import Any, Final

from facewire.messages import Ack, BatchOf

#: Devices in an episode at once; the longest known is forgotten first.
MOST: Final = 10_000


@dataclass(frozen=True, slots=True)
class Began:
    """An episode began, with so many events."""

    events: int


@dataclass(frozen=True, slots=True)
class Ended:
    """An episode is over. So many events of so many batches were lost."""

    events: int
    batches: int


@dataclass(slots=True)
class _Episode:
    epoch: str
    #: The cursor of the last batch that was counted; a batch may come twice.
    cursor: int
    events: int = 0
    batches: int = 0


class Declared:
    """Hears of each batch that was stored, and says what the log should."""

    def __init__(self) -> None:
        self._episodes: dict[str, _Episode] = {}

    def stored(self, device: str, batch: BatchOf[Any], ack: Ack) -> Began | Ended | None:
        """A batch was stored, and this is its ack."""
        if ack.conflict is not None or ack.cursor < batch.cursor:
            return None  # part of it, or nothing, counts: its device forks, or comes back in order
        lost = batch.cursor - batch.after - len(batch.events) - len(batch.bad)
        episode = self._episodes.get(device)
        if episode is None:
            return self._begin(device, batch, lost) if lost else None
        if episode.epoch == batch.epoch and batch.cursor <= episode.cursor:
            return None  # a probe, or a batch that comes again
        episode.epoch, episode.cursor = batch.epoch, batch.cursor
        if not lost:
            del self._episodes[device]
            return Ended(episode.events, episode.batches)
        episode.events += lost
        episode.batches += 1
        return None

    def _begin(self, device: str, batch: BatchOf[Any], lost: int) -> Began:
        if len(self._episodes) >= MOST:
            del self._episodes[next(iter(self._episodes))]
        self._episodes[device] = _Episode(batch.epoch, batch.cursor, lost, 1)
        return Began(lost)
