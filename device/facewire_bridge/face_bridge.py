"""`facewire bridge mqtt-face`: hears the terminals of the mqtt/face family on their broker.

    paho's thread ── topic ──▶ the device's thread: FaceSource ──▶ one commit ──▶ PushAcks
    ticker's thread ─────────▶ every thread: pulls that are due

A terminal that is not in the settings gets no ack: it keeps its records.
"""

import contextlib
import logging
import secrets
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

from facewire_bridge import mqtt_face
from facewire_bridge.face_source import FaceSource
from facewire_bridge.member import Member
from facewire_bridge.member_threads import MemberThreads, Troubles
from facewire_bridge.settings import BridgeSettings, FaceDevice
from facewire_mqtt.connection import Connection
from facewire_mqtt.happenings import Connected, Disconnected, Happening, Publication, Received, Refused
from facewire_system.clock import now_ms

log = logging.getLogger(__name__)

TICK: Final = 0.5
#: Most records of a device in one commit, so that it ends soon.
_MOST_TOGETHER: Final = 100
#: How many unknown terminals we remember, so that each is logged once.
_MOST_STRANGERS: Final = 1_000


class FaceBridge:
    """Serves every terminal of a settings file.

    Args:
        settings: the file.
        members: its terminals, each with its member.
        threads: the members' threads.
        pace: factor of the waits before pulls.
        tick: how often we look for pulls that are due, s.
    """

    def __init__(
        self,
        settings: BridgeSettings,
        members: Sequence[tuple[FaceDevice, Member]],
        threads: MemberThreads,
        *,
        pace: float = 1.0,
        tick: float = TICK,
    ) -> None:
        self._prefix, self._tick = settings.prefix, tick
        self._threads, self._troubles = threads, Troubles()
        self._publishing = threading.Lock()
        self._sources = {
            device.id: (number, FaceSource(device, member, self._sender(device.id), pace))
            for number, (device, member) in enumerate(members)
        }
        #: Records that wait for their device's thread, which records all of them together.
        self._waiting: dict[str, deque[tuple[str, bytes]]] = {device_id: deque() for device_id in self._sources}
        self._strangers: set[str] = set()
        #: The id that a device has in its topics.
        self._topic_ids: dict[str, str] = {}
        self._stopping = threading.Event()
        self._ticker = threading.Thread(target=self._tick_all, name="ticker", daemon=True)
        filters = [(name, 0) for name in mqtt_face.subscriptions(self._prefix)]
        self._connection = Connection(settings.face_broker, f"facewire-{secrets.token_hex(4)}", filters, self._on_happening)
        self.connected = threading.Event()

    @property
    def sources(self) -> list[FaceSource]:
        """All terminals; tests read their state."""
        return [source for _, source in self._sources.values()]

    def start(self) -> None:
        self._connection.start()
        self._ticker.start()

    def stop(self) -> None:
        """Receive nothing more. The threads finish their waiting work when they are closed."""
        self._stopping.set()
        self._connection.close()
        self._ticker.join()

    def _on_happening(self, happening: Happening) -> None:
        match happening:
            case Connected():
                log.info("connected to the terminals' broker devices=%d", len(self._sources))
                self.connected.set()
                self._on_all(lambda source, now, _: source.connected(now))
            case Disconnected(reason):
                if self.connected.is_set():
                    log.warning("disconnected from the terminals' broker reason=%s", reason)
                self.connected.clear()
            case Refused(reason):
                log.error("the terminals' broker refuses reason=%s", reason)
            case Received(topic=topic, payload=payload, retain=retain):
                # A retained Online may be that of a terminal that is gone.
                if not retain:
                    self._route(topic, payload)

    def _route(self, topic: str, payload: bytes) -> None:
        device_id, kind = mqtt_face.parse_topic(self._prefix, topic)
        if not kind:
            return
        if kind in {"basic", "heartbeat"}:
            if presence := mqtt_face.read_presence(payload):
                self._on_one(presence.device, lambda source, now, now_ms: source.hear(presence, now=now, now_ms=now_ms), len(payload))
        elif kind == "Ack":
            self._on_one(device_id, lambda source, now, _: source.answered(payload, now=now), len(payload))
        else:
            self._on_record(device_id, (kind, payload))

    def _on_one(self, device_id: str, work: Callable[[FaceSource, float, int], None], size_bytes: int) -> None:
        number, source = self._find(device_id)
        if source is not None:
            self._run(number, source, lambda: self._guarded(source, work), size_bytes)

    def _on_record(self, device_id: str, record: tuple[str, bytes]) -> None:
        number, source = self._find(device_id)
        if source is None:
            return
        self._topic_ids[source.device.id] = device_id
        waiting = self._waiting[source.device.id]
        waiting.append(record)
        if not self._run(number, source, lambda: self._record_waiting(source, waiting), len(record[1])):
            with contextlib.suppress(IndexError):  # its thread was faster
                waiting.pop()

    def _find(self, device_id: str) -> tuple[int, FaceSource | None]:
        # A device may stand in its topics as it does in its messages, behind a prefix and `@@@`.
        found = self._sources.get(device_id) or self._sources.get(device_id.rpartition("@@@")[2])
        if found is None:
            self._say_stranger(device_id)
        return found or (0, None)

    def _run(self, number: int, source: FaceSource, work: Callable[[], object], size_bytes: int) -> bool:
        if self._threads.run(number, work, size_bytes) is not None:
            return True
        log.warning("too much waits, dropped device=%s bytes=%d: it repeats what is not acked", source.member.name, size_bytes)
        return False

    def _record_waiting(self, source: FaceSource, waiting: deque[tuple[str, bytes]]) -> None:
        """Record all that wait, or each alone if they cannot be recorded together."""
        while records := [waiting.popleft() for _ in range(min(len(waiting), _MOST_TOGETHER))]:
            if not self._record(source, records) and len(records) > 1:
                for record in records:
                    self._record(source, [record])

    def _record(self, source: FaceSource, records: Sequence[tuple[str, bytes]]) -> bool:
        return self._guarded(source, lambda source, now, now_ms: source.record(records, now=now, now_ms=now_ms), writes=True)

    def _on_all(self, work: Callable[[FaceSource, float, int], None]) -> None:
        for number, source in self._sources.values():
            self._threads.run(number, lambda source=source: self._guarded(source, work))  # type: ignore[misc]  # bound early

    def _guarded(self, source: FaceSource, work: Callable[[FaceSource, float, int], None], *, writes: bool = False) -> bool:
        return self._troubles.guard(source.member.name, lambda: work(source, time.monotonic(), now_ms()), writes=writes)

    def _tick_all(self) -> None:
        while not self._stopping.wait(self._tick):
            if self.connected.is_set():
                self._on_all(lambda source, now, now_ms: source.tick(now=now, now_ms=now_ms))

    def _say_stranger(self, device_id: str) -> None:
        if device_id not in self._strangers and len(self._strangers) < _MOST_STRANGERS:
            self._strangers.add(device_id)
            log.warning("a terminal that is not in the settings sends; it is not acked id=%s", ascii(device_id)[:80])

    def _sender(self, device_id: str) -> Callable[[bytes], None]:
        def send(payload: bytes) -> None:
            topic = f"{self._prefix}/{self._topic_ids.get(device_id, device_id)}"
            with self._publishing:
                self._connection.publish(Publication(topic, payload, 0))

        return send
