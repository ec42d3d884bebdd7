"""A worker without a broker."""

from typing import Any

import pytest
from platform_model import batch

import facewire_platform.worker
from facewire.messages import Ack, decode_ack, encode
from facewire.topics import Topics
from facewire_mqtt.connection import Address, Publication, Received
from facewire_platform.database import Where
from facewire_platform.queries import Filter, History
from facewire_platform.reader import GROUP
from facewire_platform.worker import Worker


def received(device: str, kind: str, payload: bytes) -> Received:
    return Received(f"facewire/v1/{device}/{kind}", payload, 1, False)


def history(device: str, after: int, *seqs: int) -> Received:
    return received(device, "history", encode(batch(after, max((*seqs, after)), *seqs)))


class Desk:
    """A worker without a broker: messages are put in, turns are taken, acks are looked at."""

    def __init__(self, where: Where, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(facewire_platform.worker, "STORE_RETRY", 0.0)
        self.where = where
        self.worker = Worker(self.where, Address(), Topics())
        self.published: list[Publication] = []
        monkeypatch.setattr(self.worker._connection, "publish", self._publish)

    def _publish(self, message: Publication) -> bool:
        with History(self.where) as other:  # another connection sees only what is committed
            ack = decode_ack(message.payload)
            for row in other.devices():
                if row["device"] == message.topic.split("/")[2] and ack.error is None:
                    assert row["watermark"] >= ack.cursor, "acked before it was durable"
        self.published.append(message)
        return True

    def turn(self, *messages: Received) -> list[Ack]:
        """Put the messages in, take a turn; the acks that it gave."""
        for message in messages:
            self.worker._tell(message)
        before = len(self.published)
        self.worker._turn([] if self.worker._held else self.worker._reader.read(GROUP, 0.0))
        return [decode_ack(message.payload) for message in self.published[before:]]

    def stored(self) -> set[tuple[str, int]]:
        with History(self.where) as history:
            return {(row["device"], row["seq"]) for row in history.events(Filter())}

    def quarantine(self) -> list[dict[str, Any]]:
        with History(self.where) as history:
            return list(history.quarantine())
