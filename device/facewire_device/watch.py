"""Logs a store's troubles once for each episode: a ring that overflows, a slow disk."""

import contextlib
import logging
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from facewire_device.ring import Ring

log = logging.getLogger(__name__)

#: A transaction that takes longer than this, s, is slow.
SLOW_AFTER: Final = 1.0


class Watch:
    """Watches one open store."""

    def __init__(self, path: Path) -> None:
        self._path = path
        #: Events that the ring had dropped before this episode of overflow.
        self._dropped_before: int | None = None
        #: The longest transaction of this episode of slowness, s.
        self._slowest = 0.0

    def appended(self, before: Ring, after: Ring, capacity: int) -> None:
        """Events were recorded. An episode of overflow ends when half of the ring is acked."""
        if self._dropped_before is None:
            if after.dropped > before.dropped:
                self._dropped_before = before.dropped
                log.warning("ring full, events are overwritten before they are acked store=%s capacity=%d", self._path, capacity)
        elif after.lag <= capacity // 2:
            lost = after.dropped - self._dropped_before
            self._dropped_before = None
            log.warning("ring has room again store=%s events_dropped=%d", self._path, lost)

    def resized(self, before: Ring, after: Ring, capacity: int) -> None:
        """The ring has another capacity."""
        if after.dropped > before.dropped:
            lost = after.dropped - before.dropped
            log.warning(
                "capacity lowered, events dropped that were not acked store=%s capacity=%d events_dropped=%d", self._path, capacity, lost
            )

    @contextlib.contextmanager
    def timed(self) -> Iterator[None]:
        """Time a transaction, also one that fails."""
        started = time.monotonic()
        try:
            yield
        finally:
            self._took(time.monotonic() - started)

    def _took(self, seconds: float) -> None:
        if seconds > SLOW_AFTER:
            if not self._slowest:
                log.warning("store slow store=%s seconds=%.1f", self._path, seconds)
            self._slowest = max(self._slowest, seconds)
        elif self._slowest:
            log.info("store fast again store=%s slowest_seconds=%.1f", self._path, self._slowest)
            self._slowest = 0.0
