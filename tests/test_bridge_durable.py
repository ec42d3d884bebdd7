"""A bridge syncs before it acks: the order of its syncs and packets, as libc sees it."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from box_mqtt_face import Box
from bridge_scene import write_settings
from broker_engines import free_port
from facewire_process import Running
from faults import faulty
from waiting import wait_until

from facewire_broker import embedded
from facewire_mqtt.address import Address

pytestmark = [pytest.mark.network, pytest.mark.process]

PICTURE = "data:image/jpeg;base64,/9j/4AAQSkZJRgABAQEAAAAAAAD/2w=="
SE3 = {"identity_id": "7", "identity_name": "Ana", "timestamp": 1_764_054_010_701, "score": 0.62, "ext_data": {"spot_pic": PICTURE}}


class Trace:
    """The acts of the bridge's process since the last look, in order."""

    def __init__(self, folder: Path, needle: str) -> None:
        self.path, self.settings = folder / "trace", folder / "faults"
        self.path.touch()
        self.settings.touch()
        self.env = faulty(folder / "stores", self.settings) | {"FAULTS_TRACE": str(self.path), "FAULTS_NEEDLE": needle}
        self._seen = 0

    def news(self) -> list[str]:
        lines = self.path.read_text().splitlines()
        self._seen, before = len(lines), self._seen
        return [line.partition("/stores/")[2] or line.strip() for line in lines[before:]]


@pytest.fixture
def broker() -> Iterator[Address]:
    with embedded.running() as broker:
        yield broker


def assert_synced_first(news: list[str], store: str) -> None:
    """The photograph, its folder and the commit are synced before the first ack is sent."""
    assert "sent" in news, news
    before = news[: news.index("sent")]
    photo = next(i for i, name in enumerate(before) if name.endswith(".new"))
    folder = next(i for i, name in enumerate(before) if name == before[photo].rpartition("/")[0])
    assert photo < folder < len(before) - 1, before
    assert before[-1] == f"{store}-wal", before


def test_a_terminal_is_acked_after_the_sync(tmp_path: Path, broker: Address) -> None:
    settings = write_settings(tmp_path, broker, '[mqtt-face.device.gate-1]\nid = "7"\nzone = "UTC"\n')
    trace = Trace(tmp_path, '"PushAck"')
    with Box(broker.port, "7", picture=PICTURE.partition(",")[2]) as box, Running("bridge", "mqtt-face", settings, env=trace.env) as bridge:
        bridge.wait_for("connected to the terminals' broker")
        trace.news()
        box.record()
        box.wait_acked()
        assert_synced_first(trace.news(), "gate-1.db")
        assert bridge.end() == 0, bridge.text


def test_an_se3_is_answered_after_the_sync(tmp_path: Path, broker: Address) -> None:
    port = free_port()
    settings = write_settings(tmp_path, broker, f'[sophon]\nlisten = "127.0.0.1:{port}"\n[sophon.device.hall-1]\nid = "b"\n')
    trace = Trace(tmp_path, "SUCCESS")
    with Running("bridge", "sophon", settings, env=trace.env) as bridge:
        bridge.wait_for("listens port=")
        trace.news()
        body: list[dict[str, Any]] = [SE3, SE3 | {"timestamp": SE3["timestamp"] + 1}]  # type: ignore[operator]  # an integer
        answer = httpx.post(f"http://127.0.0.1:{port}/sophon/b/history", content=json.dumps(body), trust_env=False)
        assert answer.json()["message"] == "SUCCESS"
        assert_synced_first(trace.news(), "hall-1.db")
        assert bridge.end() == 0, bridge.text


def test_records_that_wait_for_a_slow_disk_are_synced_together(tmp_path: Path, broker: Address) -> None:
    settings = write_settings(tmp_path, broker, '[mqtt-face.device.gate-1]\nid = "7"\nzone = "UTC"\nresume = false\n')
    trace = Trace(tmp_path, '"PushAck"')
    with Box(broker.port, "7", resume=False) as box, Running("bridge", "mqtt-face", settings, env=trace.env) as bridge:
        bridge.wait_for("connected to the terminals' broker")
        trace.news()
        trace.settings.write_text("sync_ms 200\n")
        for _ in range(30):
            box.record()
        wait_until(lambda: all(one.acked for one in box.made), 60)
        news = trace.news()
        assert news.count("sent") >= 30, "the box may be asked for some of them, and is acked again"
        # One for the first record, one for those that came meanwhile, and perhaps a straggler's.
        assert news.count("gate-1.db-wal") <= 10, news
        assert bridge.end(within=60) == 0, bridge.text
