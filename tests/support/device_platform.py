"""A platform played by hand: it hears what a device publishes, and a test decides its acks."""

import queue
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, TypeVar

from waiting import WITHIN

from facewire.messages import Ack, Batch, Message, decode, encode
from facewire.topics import Topics
from facewire_mqtt import Address, Connected, Connection, Happening, Publication, Received

M = TypeVar("M", bound=Message)
TOPICS = Topics()


class PlayedPlatform:
    """The platform of device "d". It acks every batch if `acks`, else only on `answer`."""

    def __init__(self, address: Address, *, acks: bool = False) -> None:
        self.acks = acks
        self.heard: queue.SimpleQueue[tuple[Message, Received]] = queue.SimpleQueue()
        self.up = threading.Event()
        self.connection = Connection(address, "by-hand", [("facewire/v1/#", 1)], self.handle)

    def handle(self, happening: Happening) -> None:
        if isinstance(happening, Connected):
            self.up.set()
        elif isinstance(happening, Received) and not happening.topic.endswith("/ack"):
            kind: Any = happening.topic.rpartition("/")[2]
            message = decode(kind, happening.payload)
            if self.acks and isinstance(message, Batch):
                self.publish(encode(ack_of(message)))
            self.heard.put((message, happening))

    def wait(self, kind: type[M], where: Callable[[M], bool] = lambda _: True, timeout: float = WITHIN) -> tuple[M, Received]:
        """The next message of a kind for which `where` holds, and its MQTT message."""
        deadline = time.monotonic() + timeout
        while True:
            message, received = self.heard.get(timeout=max(0.0, deadline - time.monotonic()))
            if isinstance(message, kind) and where(message):
                return message, received

    def batch(self, where: Callable[[Batch], bool] = lambda batch: bool(batch.events)) -> Batch:
        """The next batch with events; a probe may come before it."""
        return self.wait(Batch, where)[0]

    def probe(self) -> Batch:
        return self.batch(lambda batch: not batch.events)

    def answer(self, batch: Batch, **changed: Any) -> None:
        self.send(encode(replace(ack_of(batch), **changed)))

    def send(self, payload: bytes) -> None:
        assert self.publish(payload)

    def publish(self, payload: bytes) -> bool:
        return self.connection.publish(Publication(TOPICS.of("d", "ack"), payload, 1))

    def drain(self) -> list[Message]:
        """The messages that no call has returned yet."""
        found = []
        while not self.heard.empty():
            found.append(self.heard.get()[0])
        return found


def ack_of(batch: Batch) -> Ack:
    return Ack(batch.epoch, batch.boot, batch.cursor, batch.cursor, "by-hand")


@contextmanager
def platform_on(address: Address, *, acks: bool = False) -> Iterator[PlayedPlatform]:
    platform = PlayedPlatform(address, acks=acks)
    platform.connection.start()
    assert platform.up.wait(WITHIN)
    try:
        yield platform
    finally:
        platform.connection.close(timeout=1.0)
