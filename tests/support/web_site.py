"""A broker, a worker and its web server as processes, and devices that a test speaks for."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import httpx
from facewire_process import Running
from waiting import WITHIN, wait_until
from wire import Wire

from facewire.events import event_from_map
from facewire.messages import Match, Status, encode
from facewire_mqtt.address import Address
from facewire_system.clock import now_ms

EPOCH, BOOT = "00000000000000e1", "00000000000000b1"


def event_map(seq: int, **fields: Any) -> dict[str, Any]:
    usual = {"timestamp": now_ms(), "score": 0.91, "identity_id": f"p{seq}", "identity_name": f"Person {seq}", "person_type": 1}
    return {"seq": seq, **usual, **fields}


class Site:
    """Everything from the broker to the page's URL; a context manager.

    Args:
        folder: for the database.
        options: of `facewire platform run`.
    """

    def __init__(self, folder: Path, *options: str) -> None:
        self.database = folder / "platform.db"
        self._broker = Running("broker", "run", "--listen", "127.0.0.1:0")
        self.port = int(self._broker.find(r"listening address=127\.0\.0\.1:(\d+)")[1])
        self.platform = self.start_platform(*options)
        self.url = self.platform.find(r"web page at (http://\S+/)")[1]
        self.wait_until_live()
        self.wire = Wire(self.where, "site")
        self.seqs: dict[str, int] = {}

    @property
    def where(self) -> Address:
        return Address(port=self.port)

    def start_platform(self, *options: str) -> Running:
        database = f"sqlite:///{self.database}"
        web = () if "--web" in options else ("--web", "127.0.0.1:0")
        return Running("platform", "run", "-p", str(self.port), "--database", database, *web, *options)

    def wait_until_live(self) -> None:
        """The web server hears the broker: a match that comes before is not shown."""
        wait_until(lambda: httpx.get(f"{self.url}healthz", timeout=WITHIN).json()["broker"], what=lambda: self.platform.text)

    def match(self, device: str, **fields: Any) -> Mapping[str, Any]:
        """A device publishes a match, compared now unless `fields` differ; returns its event."""
        self.seqs[device] = seq = self.seqs.get(device, 0) + 1
        event = event_map(seq, **fields)
        self.wire.publish(f"facewire/v1/{device}/match", encode(Match(EPOCH, BOOT, now_ms(), event_from_map(event))), qos=0)
        return event

    def history(self, device: str, *events: Mapping[str, Any], after: int = 0) -> None:
        """A device sends a batch."""
        cursor = max(event["seq"] for event in events)
        batch = {"epoch": EPOCH, "boot": BOOT, "after": after, "cursor": cursor, "head": cursor, "oldest": 1, "events": list(events)}
        self.wire.publish(f"facewire/v1/{device}/history", json.dumps(batch).encode(), qos=1)

    def status(self, device: str, **fields: Any) -> None:
        status = Status(**{"boot": BOOT, "online": True, "at": now_ms(), **fields})
        self.wire.publish(f"facewire/v1/{device}/status", encode(status), qos=1)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.wire.close()
        for process in (self.platform, self._broker):
            process.end()

    def stop_broker(self) -> None:
        self._broker.end()
