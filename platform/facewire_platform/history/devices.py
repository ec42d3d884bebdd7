"""Describes a device as the platform knows it: its stream, its last status, its rate of events."""

from typing import Any, Final, NamedTuple, TypeAlias

import peewee

from facewire import codec
from facewire.proof import describe_proof
from facewire_platform import sightings
from facewire_platform.store.schema import EventRow, StreamRow

Row: TypeAlias = dict[str, Any]

#: The rate of a device is the rate of this many of its last events.
RATE_EVENTS: Final = 1_000
#: Fewer events than this show no rate: two could be a minute apart, or a year.
FEWEST: Final = 3
#: Events over which the present rate is measured are no older than this, ms. Those of a replayed
#: file may be a year old: divided by that year, they promise an outage budget of centuries.
RECENT: Final = 86_400_000


class Rate(NamedTuple):
    """The events between which the rate of a stream is measured."""

    first: int
    first_at: int
    last: int

    def until(self, at_ms: int) -> float | None:
        """Events per second until a moment of the device's clock; None if few events show it."""
        events = self.last - self.first + 1
        return events * 1000 / (at_ms - self.first_at) if at_ms > self.first_at and events >= FEWEST else None


def rate_columns() -> tuple[Any, ...]:
    """`Rate`'s fields for a query of streams, null without events; reads two events of each."""

    def one(column: Any, order: Any, *within: Any) -> Any:
        # Each column has a query of its own: a database could walk through all events for a join.
        return EventRow.select(column).where(EventRow.stream == StreamRow.id, *within).order_by(order).limit(1)

    recent = EventRow.seq > StreamRow.head - RATE_EVENTS
    first, first_at = (one(column, EventRow.seq, recent) for column in (EventRow.seq, EventRow.timestamp))
    last = one(EventRow.seq, EventRow.seq.desc())
    return first.alias("rate_first"), first_at.alias("rate_first_at"), last.alias("rate_last")


def above_column() -> Any:
    """The number of stored events above the watermark, for a query of streams."""
    count = EventRow.select(peewee.fn.COUNT(EventRow.seq))
    return count.where((EventRow.stream == StreamRow.id) & (EventRow.seq > StreamRow.watermark)).alias("above")


def conserved(stream: Row) -> Row:
    """Whether the counts of a stream add up; `stream` has `above_column`."""
    stored = stream["stored"] - stream["above"]
    return {
        "device": stream["device"],
        "epoch": stream["epoch"],
        "watermark": stream["watermark"],
        "gaps": stream["gaps"],
        "quarantined": stream["quarantined"],
        "continued": stream["continued"],
        "stored": stored,
        "unaccounted": stream["watermark"] - stored - stream["gaps"] - stream["quarantined"] - stream["continued"],
    }


def _clock_offset(status: Row) -> float | None:
    """The device's clock minus ours, s: by a round trip, or less the delay of the status."""
    if "received_at" not in status:
        return None
    error: int = status.get("clock_error_ms", status["at"] - status["received_at"])
    return error / 1000


def _rate(stream: Row | None, status: Row, head: int) -> float | None:
    """Events per second, as the platform saw the head grow; at first by the events' own times.

    If these times cannot show the present rate, it is the growth so far, however short.
    """
    samples, seen_at = status.get("pace", ()), status.get("received_at", 0)
    seen = sightings.rate(samples, status.get("head", 0), seen_at, least_span=sightings.PACE_SPAN)
    if seen is not None or stream is None or stream["rate_first"] is None:
        return seen
    first_at, at = stream["rate_first_at"], status["at"]
    if at - first_at > RECENT or not all(sightings.is_plausible(each, seen_at) for each in (first_at, at)):
        return sightings.rate(samples, head, seen_at)
    return Rate(stream["rate_first"], stream["rate_first_at"], stream["rate_last"]).until(status["at"])


def device_row(device: str, epoch: str, row: Row | None, stream: Row | None, *, current: bool) -> Row:
    """One epoch of a device.

    Args:
        device: its name.
        epoch: the epoch.
        row: its row of `DeviceRow`, if any.
        stream: the row of `StreamRow` of this epoch, if any, with `rate_columns`.
        current: whether this is the newest epoch, the one that the status describes.
    """
    status = codec.unpack(row["status"]) if row and row["status"] else {}
    if not current or status.get("epoch") != epoch:
        status = {}
    stored = stream or {"watermark": 0, "head": 0, "oldest": 1, "gaps": 0, "quarantined": 0, "last_seen": 0}
    head = max(stored["head"], status.get("head") or 0)
    return {
        "device": device,
        "epoch": epoch,
        "head": head,
        "watermark": stored["watermark"],
        "lag": max(0, head - stored["watermark"]),
        "gaps": stored["gaps"],
        "quarantined": stored["quarantined"],
        "dropped": status.get("dropped"),
        "missed": status.get("missed"),
        "online": bool(current and row and row["online"]),
        "last_seen": max(stored["last_seen"], row["last_seen"] if current and row else 0),
        "current": current,
        "period": status.get("period"),
        "capacity": status.get("capacity"),
        "version": status.get("version"),
        "proof": describe_proof(status),
        "proof_at": status.get("proof_at"),
        "unexplained": status.get("unexplained"),
        "source_offset": status["source_offset"] / 1000 if status.get("source_offset") is not None else None,
        "clock_offset": _clock_offset(status),
        "turns": status.get("turns"),
        "rate": _rate(stream, status, head) if status else None,
    }
