"""A bridge in this process, between a loopback broker and stores that the test reads."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from facewire import codec
from facewire_bridge.face_bridge import FaceBridge
from facewire_bridge.http_bridge import HttpBridge
from facewire_bridge.members import Members
from facewire_bridge.push_source import PushSource
from facewire_bridge.settings import BridgeSettings, read_settings
from facewire_bridge.sophon_source import SophonSource
from facewire_device.store import open_store
from facewire_mqtt.address import Address

#: Waits before pulls, in the tests: 3 s become 0.06 s.
PACE = 0.02


def write_settings(folder: Path, broker: Address, text: str) -> Path:
    path = folder / "bridge.toml"
    path.write_text(f'stores = "stores"\n[broker]\nhost = "{broker.host}"\nport = {broker.port}\n{text}')
    return path


class Stores:
    """The stores of the bridge's devices."""

    def __init__(self, settings: BridgeSettings) -> None:
        self.folder = settings.stores

    def events(self, name: str) -> list[dict[str, Any]]:
        """The events that history will send, as they travel, in order."""
        with open_store(self.folder / f"{name}.db", create=False, check=False) as store:
            rows = store.query("SELECT packed FROM event WHERE crc >= 0 ORDER BY seq")
        return [codec.unpack(packed) for (packed,) in rows]

    def matches(self, name: str) -> list[dict[str, Any]]:
        """The events that may become matches."""
        with open_store(self.folder / f"{name}.db", create=False, check=False) as store:
            return [codec.unpack(packed) for _, packed in store.events_above(0, -1e300)]

    def head(self, name: str) -> int:
        with open_store(self.folder / f"{name}.db", create=False, check=False) as store:
            return store.ring().head

    def note(self, name: str, note: str) -> str | None:
        with open_store(self.folder / f"{name}.db", create=False, check=False) as store:
            if not store.query("SELECT 1 FROM sqlite_master WHERE name = 'note'"):
                return None
            found = store.query("SELECT value FROM note WHERE name = ?", note)
        return found[0][0] if found else None


@contextlib.contextmanager
def face_bridge(path: Path) -> Iterator[FaceBridge]:
    settings = read_settings(path)
    members = Members(settings, settings.face, on_failure=lambda: None)
    bridge = FaceBridge(settings, members.pairs, members.threads, pace=PACE, tick=0.02)
    members.start()
    bridge.start()
    try:
        assert bridge.connected.wait(10)
        yield bridge
    finally:
        bridge.stop()
        members.stop()
        members.check()


@contextlib.contextmanager
def http_bridge(path: Path, period: float = 0.1) -> Iterator[HttpBridge]:
    """`bridge sophon`, or `bridge http` if there is no SophonAI box."""
    settings = read_settings(path)
    members: Members[Any] = Members(settings, settings.sophon or settings.http, on_failure=lambda: None)
    try:
        source = SophonSource if settings.sophon else PushSource
        sources = [source(device, member) for device, member in members.pairs]
        bridge = HttpBridge(settings.listen if settings.sophon else settings.http_listen, sources, members.threads, period=period)
        members.start()
        bridge.start()
        try:
            yield bridge
        finally:
            bridge.stop()
    finally:
        members.stop()
    members.check()


@contextlib.contextmanager
def sophon_bridge(path: Path, period: float = 0.1) -> Iterator[tuple[int, list[SophonSource]]]:
    """Its port, and its boxes."""
    with http_bridge(path, period) as bridge:
        yield bridge.port, [source for source in bridge.sources if isinstance(source, SophonSource)]
