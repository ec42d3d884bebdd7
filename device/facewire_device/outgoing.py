"""Builds a device's messages about its ring, pure: the next batch of history, and its status.

The agent and the simulated fleet build both here, so that they cut batches alike.
"""

import itertools
from collections.abc import Iterable
from typing import Final, NamedTuple

from facewire.events import MAX_EVENT_BYTES
from facewire.messages import MAX_BATCH_EVENTS, Status, splice_batch
from facewire_device.clock_error import ClockReading
from facewire_device.ring import Ring

#: A batch ends before it would grow past this. The largest event fits, and so does the batch in
#: our broker's packet limit of 256 KiB.
MAX_BATCH_BYTES: Final = MAX_EVENT_BYTES + 32 * 1024


class OutgoingBatch(NamedTuple):
    """A batch ready to publish. Its ack must repeat `epoch` and `key`."""

    epoch: str
    key: int
    payload: bytes


def build_batch(ring: Ring, boot: str, events: Iterable[tuple[int, bytes]], limit: int = MAX_BATCH_EVENTS) -> OutgoingBatch:
    """Build the next batch: the oldest unacked events within the limits. Without any, a probe.

    Args:
        ring: the state of the store, read together with the events.
        boot: this run of the agent.
        events: (seq, packed event) from `ring.first_unacked` on, rising. Read no further than
            needed: a hundred pictures are many times what fits.
        limit: events in the batch at most.
    """
    packed: list[bytes] = []
    size_bytes, key = 0, ring.cursor
    for seq, event in itertools.islice(events, limit):
        size_bytes += len(event)
        if packed and size_bytes > MAX_BATCH_BYTES:
            break
        packed.append(event)
        key = seq
    payload = splice_batch(
        ring.epoch,
        boot,
        after=ring.cursor,
        cursor=key,
        head=ring.head,
        oldest=ring.oldest,
        events=packed,
        origins=ring.origins,
    )
    return OutgoingBatch(ring.epoch, key, payload)


def online_status(
    ring: Ring, boot: str, *, at: int, threshold: float | None, period: float, capacity: int, version: str, clock: ClockReading | None
) -> Status:
    """Build the status of a connected device. `at` is its clock, ms since 1970 UTC."""
    return Status(
        boot,
        online=True,
        at=at,
        epoch=ring.epoch,
        head=ring.head,
        oldest=ring.oldest,
        cursor=ring.cursor,
        threshold=threshold,
        period=period,
        capacity=capacity,
        dropped=ring.dropped,
        version=version,
        clock_error_ms=clock and clock.error,
        clock_uncertainty_ms=clock and clock.uncertainty,
    )
