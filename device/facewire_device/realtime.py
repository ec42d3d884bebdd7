"""The realtime lane: a match is published when it is recorded, or counted as missed; never late."""

import time
from collections.abc import Callable
from typing import Final

from facewire.messages import splice_match
from facewire_device.clock_error import ClockError
from facewire_device.ring import Ring
from facewire_device.store import Store
from facewire_system.clock import elapsed_ms, now_ms

#: If the last poll is longer ago than this, s, new matches count as missed, because a late match
#: must open no door.
STALE_AFTER: Final = 2.0


class Realtime:
    """Publishes the store's new matches.

    Args:
        boot: this run of the agent.
        threshold: a score above it (strictly) is a match; None publishes none.
        ring: state of the store now; events that it holds already are history only.
        clock: knows the error of our clock, which each match says.
        publish: hands a match to the session; returns False if it cannot go out at once.

    Attributes:
        threshold: may be changed while the agent runs, from any thread.
        published: matches handed to the session.
        missed: matches recorded while there was no session, or found too late.
    """

    def __init__(self, boot: str, threshold: float | None, ring: Ring, clock: ClockError, publish: Callable[[bytes], bool]) -> None:
        self._boot, self._clock, self._publish = boot, clock, publish
        self.threshold = threshold
        self.published = 0
        self.missed = 0
        #: (epoch, seq): events up to this one have been checked for matches.
        self._seen = (ring.epoch, ring.head)
        self._version = -1
        self._polled_at = time.monotonic()

    def poll(self, store: Store) -> None:
        """Publish the matches recorded since the last poll."""
        now, version_now = time.monotonic(), store.version()
        if version_now != self._version:
            self._publish_new(store, stale=now - self._polled_at > STALE_AFTER)
            self._version = version_now
        self._polled_at = now

    def restart(self, boot: str, ring: Ring) -> None:
        """Another run begins, perhaps with another store."""
        self._boot, self._seen, self._version = boot, (ring.epoch, ring.head), -1

    def forked(self, ring: Ring, first: int) -> None:
        """The store forked: the events from `first` on have new seqs, but are not new matches."""
        self._seen = (ring.epoch, max(0, self._seen[1] - first + 1))

    def _publish_new(self, store: Store, *, stale: bool) -> None:
        ring = store.ring()
        epoch, seen = self._seen
        # If another process forked the store, the matches in the new epoch were published long ago.
        if self.threshold is None or ring.epoch != epoch:
            self._seen = (ring.epoch, ring.head)
            return
        for seq, packed in store.events_above(seen, self.threshold):
            self._publish_one(epoch, packed, stale=stale)
            self._seen = (epoch, seq)
        self._seen = (epoch, max(ring.head, self._seen[1]))

    def _publish_one(self, epoch: str, packed: bytes, *, stale: bool) -> None:
        now = now_ms()
        payload = splice_match(epoch, self._boot, now, packed, clock=self._clock.read(elapsed_ms(), now))
        if not stale and self._publish(payload):
            self.published += 1
        else:
            self.missed += 1
