"""The settings of a device."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from facewire.messages import MAX_BATCH_EVENTS
from facewire.topics import Topics, check_device
from facewire_device.uploader import DEFAULT_PERIOD
from facewire_mqtt.address import Address

#: The specification allows 0.1 s from an event to its match.
POLL_EVERY: Final = 0.05


@dataclass(frozen=True, slots=True)
class Settings:
    """The settings of a device.

    Attributes:
        device: name of the device in the topics.
        store: file of the store.
        address: the broker's.
        topics: names of the topics.
        threshold: a score above it (strictly) is a match; None publishes no matches.
        period: seconds between batches, at least 20.
        catch_up: batches in a period while a backlog remains.
        batch: events in a batch at most, 1 to 100.
        capacity: events in the ring; None leaves the store as it is.
        machine: identity of this machine, None if unknown.
        set_aside: whether to rename a damaged store at the start and make a new one.
        poll_every: how often the agent polls the store for events that other processes record, s.
            Events of this process wake it (`Agent.wake`).

    Raises:
        ValueError: the contract does not allow the device name, batch size or threshold.
    """

    device: str
    store: Path
    address: Address = Address()  # noqa: RUF009  # frozen
    topics: Topics = Topics()  # noqa: RUF009  # frozen
    threshold: float | None = None
    period: float = DEFAULT_PERIOD
    catch_up: int = 1
    batch: int = MAX_BATCH_EVENTS
    capacity: int | None = None
    machine: str | None = None
    set_aside: bool = False
    poll_every: float = POLL_EVERY

    def __post_init__(self) -> None:
        check_device(self.device)
        if not 1 <= self.batch <= MAX_BATCH_EVENTS:
            raise ValueError(f"batch of {self.batch} events is not from 1 to the contract's limit of {MAX_BATCH_EVENTS}")
        if self.threshold is not None and not math.isfinite(self.threshold):
            raise ValueError(f"threshold of {self.threshold} is not a finite number")
