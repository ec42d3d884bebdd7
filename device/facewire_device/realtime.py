"""The realtime lane: what is recorded above the threshold is published at once, or counted as missed; never late."""

import time
from collections.abc import Callable
from typing import Final

from facewire.messages import splice_match
from facewire_device.ring import Ring
from facewire_device.store import Store

#: Who has not looked for this long does not publish what it finds: a late match opens no door. s.
STALE_AFTER: Final = 2.0


class Realtime:
    """Looks for new matches in the store.

    Args:
        boot: this run of the agent.
        threshold: a score above it (strictly) is a match; None publishes none.
        ring: the store as it is: what it holds already is not looked at.
        publish: hands a match to the session; False where it cannot go at once.

    Attributes:
        published: matches handed over.
        missed: matches that found no session, or came too late.
    """

    def __init__(self, boot: str, threshold: float | None, ring: Ring, publish: Callable[[bytes], bool]) -> None:
        self._boot, self._threshold, self._publish = boot, threshold, publish
        self.published = 0
        self.missed = 0
        #: Epoch, and the seq up to which matches were looked for.
        self._seen = (ring.epoch, ring.head)
        self._version = -1
        self._polled_at = time.monotonic()

    def poll(self, store: Store) -> None:
        """Publish what was recorded since the last look. Called whenever something may have been."""
        now, version_now = time.monotonic(), store.version()
        if version_now != self._version:
            self._publish_new(store, stale=now - self._polled_at > STALE_AFTER)
            self._version = version_now
        self._polled_at = now

    def forked(self, ring: Ring, first: int) -> None:
        """The events from `first` on were recorded again from seq 1: they keep their place, as most were published long ago."""
        self._seen = (ring.epoch, max(0, self._seen[1] - first + 1))

    def _publish_new(self, store: Store, *, stale: bool) -> None:
        ring = store.ring()
        epoch, seen = self._seen
        # In an epoch that another process made, what was recorded again was published as matches long ago.
        if self._threshold is None or ring.epoch != epoch:
            self._seen = (ring.epoch, ring.head)
            return
        for seq, packed in store.events_above(seen, self._threshold):
            self._publish_one(epoch, packed, stale=stale)
            self._seen = (epoch, seq)
        self._seen = (epoch, max(ring.head, self._seen[1]))

    def _publish_one(self, epoch: str, packed: bytes, *, stale: bool) -> None:
        payload = splice_match(epoch, self._boot, time.time_ns() // 1_000_000, packed)
        if not stale and self._publish(payload):
            self.published += 1
        else:
            self.missed += 1
