"""A worker without a broker."""

from logging import LogRecord
from typing import Any

import pytest
from platform_model import batch

import facewire_platform.intake.worker
from facewire.messages import Ack, decode_ack, encode
from facewire.topics import Topics
from facewire_mqtt import Address, Happening, Publication, Received
from facewire_platform.filter import Filter
from facewire_platform.history.queries import History
from facewire_platform.intake.inbox import Delivery, Inbox
from facewire_platform.intake.worker import Worker
from facewire_platform.store.drivers import Location


def received(device: str, kind: str, payload: bytes) -> Received:
    return Received(f"facewire/v1/{device}/{kind}", payload, 1, False)


def history(device: str, after: int, *seqs: int) -> Received:
    return received(device, "history", encode(batch(after, max((*seqs, after)), *seqs)))


class Desk:
    """A worker without a broker: the desk is its receiver, and a test puts the messages in."""

    address = Address()

    def __init__(self, location: Location, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(facewire_platform.intake.worker, "STORE_RETRY", 0.0)
        self.location = location
        self.inbox = Inbox(lambda _: None, gather=0.0)
        self.worker = Worker(self.location, self, Topics(), on_turn=lambda _: self.worker.stop())
        self.last: list[Publication] = []

    def exchange(self, publications: list[Publication], most: int) -> Delivery:
        assert publications == self.last
        return self.inbox.take(most, 0.0)

    def close(self, publications: list[Publication]) -> None:
        self.last = publications

    def turn(self, *messages: Happening | LogRecord) -> list[Ack]:
        """Put messages in and let the worker take a turn; returns the acks of what it stored."""
        for message in messages:
            self.inbox.put(message)
        self.worker.turn()
        self.last = list(self.worker.acks)
        acks = [(Topics().parse(message.topic)[0], decode_ack(message.payload)) for message in self.last]
        if acks:
            with History(self.location) as other:  # another connection sees only what is committed
                watermarks = {row["device"]: row["watermark"] for row in other.devices()}
            assert all(ack.error or watermarks[device] >= ack.cursor for device, ack in acks), "acked before it was durable"
        return [ack for _, ack in acks]

    def stored(self) -> set[tuple[str, int]]:
        with History(self.location) as history:
            return {(row["device"], row["seq"]) for row in history.events(Filter())}

    def quarantine(self) -> list[dict[str, Any]]:
        with History(self.location) as history:
            return list(history.quarantine())
