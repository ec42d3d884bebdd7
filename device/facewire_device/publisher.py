"""Publishes a device's matches, batches, status and goodbye on their topics."""

import dataclasses
from collections.abc import Callable, Mapping
from importlib.metadata import version
from typing import Any, Final

from facewire.messages import Status, encode
from facewire.topics import QOS, Kind
from facewire_device.clock_error import ClockError
from facewire_device.outgoing import OutgoingBatch, online_status
from facewire_device.ring import Ring
from facewire_device.settings import Settings
from facewire_mqtt import Connection, Happening, Publication
from facewire_system.clock import elapsed_ms, now_ms

_VERSION: Final = version("facewire")


class Publisher:
    """The device's side of its connection.

    Args:
        settings: the device's.
        boot: this run of the agent.
        handler: hears of the connection's happenings, on its thread.

    Attributes:
        boot: its owner may change it; a session's last will keeps the one with which it began.
        connection: it is up while `connected` says so.
        connected: whether there is a session; its owner sets it.
        acks: the topic on which acks arrive.
    """

    def __init__(self, settings: Settings, boot: str, handler: Callable[[Happening], None]) -> None:
        self._settings, self.boot = settings, boot
        self._topic = {kind: settings.topics.of(settings.device, kind) for kind in QOS}
        self.acks = self._topic["ack"]
        self.connection = Connection(settings.address, settings.device, [(self.acks, QOS["ack"])], handler, will=self._offline)
        self.connected = False

    def match(self, payload: bytes) -> bool:
        """Publish a match; false if it cannot go out at once."""
        return self.connected and self._publish("match", payload)

    def batch(self, batch: OutgoingBatch) -> bool:
        """Publish a batch; false if there is no session that takes it."""
        return self._publish("history", batch.payload)

    def status(self, ring: Ring, *, threshold: float | None, capacity: int, clock: ClockError, more: Mapping[str, Any]) -> None:
        """Publish the status of a connected device, with more of its keys."""
        now, period = now_ms(), self._settings.period
        reading = clock.read(elapsed_ms(), now)
        online = online_status(
            ring, self.boot, at=now, threshold=threshold, period=period, capacity=capacity, version=_VERSION, clock=reading
        )
        self.connection.publish(self._status(dataclasses.replace(online, **more)))

    def close(self) -> None:
        """Say goodbye to the broker."""
        self.connection.close(self._offline())

    def _publish(self, kind: Kind, payload: bytes) -> bool:
        return self.connection.publish(Publication(self._topic[kind], payload, QOS[kind]))

    def _offline(self) -> Publication:
        """The status of a device that is gone: its last will, and its goodbye."""
        return self._status(Status(self.boot, online=False, at=now_ms()))

    def _status(self, status: Status) -> Publication:
        return Publication(self._topic["status"], encode(status), QOS["status"], retain=True)
