"""A peer that speaks the wire without facewire: paho, msgpack, json, and docs/contract.md.

with Wire(address, "box-1") as wire:
    wire.subscribe("facewire/v1/box-1/ack")
    wire.publish("facewire/v1/box-1/history", msgpack.packb({...}), qos=1)
    message = wire.next(lambda message: ...)
"""

import json
import threading
import time
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import msgpack
from paho.mqtt import client as paho
from paho.mqtt.enums import CallbackAPIVersion
from waiting import WITHIN


class Where(Protocol):
    """Tells where a broker is."""

    @property
    def host(self) -> str: ...
    @property
    def port(self) -> int: ...


class Message(NamedTuple):
    topic: str
    payload: bytes
    qos: int
    retain: bool
    #: Monotonic, s.
    at: float

    @property
    def map(self) -> Any:
        return json.loads(self.payload) if self.payload[:1] == b"{" else msgpack.unpackb(self.payload)

    @property
    def kind(self) -> str:
        return self.topic.rpartition("/")[2]


class Wire:
    """One session; `received` has every message, in order."""

    def __init__(self, where: Where, name: str) -> None:
        self._client = paho.Client(CallbackAPIVersion.VERSION2, client_id=name, clean_session=True, protocol=paho.MQTTv311)
        self._changed = threading.Condition()
        self._received: list[Message] = []
        self._returned = 0
        self._granted: set[int] = set()
        self._client.on_message = self._on_message
        self._client.on_subscribe = self._on_subscribe
        self._client.connect(where.host, where.port, 60)
        self._client.loop_start()

    def subscribe(self, *filters: str, qos: int = 1) -> None:
        _, mid = self._client.subscribe([(name, qos) for name in filters])
        with self._changed:
            assert self._changed.wait_for(lambda: mid in self._granted, WITHIN), "no SUBACK"

    def publish(self, topic: str, payload: bytes, qos: int = 1, *, retain: bool = False) -> None:
        self._client.publish(topic, payload, qos, retain)

    def next(self, wanted: Callable[[Message], bool] = lambda _: True, within: float = WITHIN) -> Message:
        """The next message that is wanted; those before it are passed over."""
        found = self.maybe(wanted, within)
        assert found is not None, f"not within {within:g} s; last received {self._received[-3:]}"
        return found

    def maybe(self, wanted: Callable[[Message], bool], within: float) -> Message | None:
        deadline = time.monotonic() + within
        with self._changed:
            while True:
                while self._returned < len(self._received):
                    self._returned += 1
                    if wanted(self._received[self._returned - 1]):
                        return self._received[self._returned - 1]
                if not self._changed.wait(max(0.0, deadline - time.monotonic())) and time.monotonic() >= deadline:
                    return None

    @property
    def received(self) -> list[Message]:
        with self._changed:
            return list(self._received)

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()

    def __enter__(self) -> "Wire":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _on_message(self, _client: object, _data: object, message: paho.MQTTMessage) -> None:
        with self._changed:
            self._received.append(Message(message.topic, bytes(message.payload), message.qos, message.retain, time.monotonic()))
            self._changed.notify_all()

    def _on_subscribe(self, _client: object, _data: object, mid: int, *_: object) -> None:
        with self._changed:
            self._granted.add(mid)
            self._changed.notify_all()
