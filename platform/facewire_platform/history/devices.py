"""What the platform knows of a device: its stream, what it last said of itself, and how fast it records."""

from typing import Any, Final, NamedTuple, TypeAlias

import peewee

from facewire import codec
from facewire_platform.store.schema import EventRow, StreamRow

Row: TypeAlias = dict[str, Any]

#: The rate of a device is that of so many of its last events.
PACED: Final = 1_000


class Pace(NamedTuple):
    """From which event on, and to which, the rate of a stream is taken."""

    first: int
    first_at: int
    last: int

    def until(self, at_ms: int) -> float | None:
        """Events a second until a moment of the device's clock; None where that says nothing."""
        return (self.last - self.first + 1) * 1000 / (at_ms - self.first_at) if at_ms > self.first_at else None


def paces() -> Any:
    """Device, epoch, and the `Pace` of each stream; two rows of each are read, by their key."""
    newest, earlier = EventRow.alias(), EventRow.alias()
    last = EventRow.select(peewee.fn.MAX(EventRow.seq)).where(EventRow.stream == StreamRow.id)
    first = EventRow.select(peewee.fn.MIN(EventRow.seq)).where((EventRow.stream == StreamRow.id) & (EventRow.seq > StreamRow.head - PACED))
    return (
        StreamRow.select(StreamRow.device, StreamRow.epoch, earlier.seq, earlier.timestamp, newest.seq)
        .join(newest, on=((newest.stream == StreamRow.id) & (newest.seq == last)))
        .join(earlier, on=((earlier.stream == StreamRow.id) & (earlier.seq == first)))
    )


def device_row(device: str, epoch: str, told: Row | None, stream: Row | None, pace: Pace | None, *, current: bool) -> Row:
    """One epoch of a device.

    Args:
        device: its name.
        epoch: which.
        told: its row of `DeviceRow`.
        stream: that of its epoch's `StreamRow`.
        pace: of that stream.
        current: whether this is its newest epoch, which its status is about.
    """
    said = codec.unpack(told["status"]) if told and told["status"] else {}
    if not current or said.get("epoch") != epoch:
        said = {}
    stored = stream or {"watermark": 0, "head": 0, "oldest": 1, "gaps": 0, "quarantined": 0, "last_seen": 0}
    head = max(stored["head"], said.get("head") or 0)
    return {
        "device": device,
        "epoch": epoch,
        "head": head,
        "watermark": stored["watermark"],
        "lag": max(0, head - stored["watermark"]),
        "gaps": stored["gaps"],
        "quarantined": stored["quarantined"],
        "dropped": said.get("dropped"),
        "online": bool(current and told and told["online"]),
        "last_seen": max(stored["last_seen"], told["last_seen"] if current and told else 0),
        "current": current,
        "period": said.get("period"),
        "capacity": said.get("capacity"),
        "version": said.get("version"),
        "clock_offset": (said["at"] - said["received_at"]) / 1000 if "received_at" in said else None,
        "rate": pace.until(said["at"]) if pace and said else None,
    }
