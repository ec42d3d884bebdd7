"""The bridge as a process, killed at random: what was acked is on the platform exactly once.

`FACEWIRE_BRIDGE_ROUNDS` (30), `FACEWIRE_BRIDGE_SEED`.
"""

import datetime as dt
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from box_mqtt_face import Box
from box_sophon import Se3
from bridge_scene import wait_until, write_settings
from broker_engines import free_port
from facewire_process import Running, ask

from facewire_broker import embedded
from facewire_mqtt.address import Address

pytestmark = [pytest.mark.network, pytest.mark.process]

ROUNDS = int(os.environ.get("FACEWIRE_BRIDGE_ROUNDS", "30"))
SEED = int(os.environ.get("FACEWIRE_BRIDGE_SEED", "0")) or random.randrange(1 << 32)
#: A round's life of the bridge, once it serves, s.
LIFE = 0.4


class Scene(NamedTuple):
    broker: Address
    folder: Path
    database: str

    def stored(self, device: str) -> list[dict[str, Any]]:
        return ask("events", "--database", self.database, "-d", device, "--limit", "100000")

    def status(self, device: str) -> dict[str, Any]:
        return ask("status", "--database", self.database, "-d", device)[0]

    def wait_stored(self, device: str, count: int) -> None:
        wait_until(lambda: self.status(device)["watermark"] >= count, 120, what=lambda: str(self.status(device)))


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    with embedded.running() as broker:
        database = f"sqlite:///{tmp_path}/platform.db"
        with Running("platform", "run", "-h", broker.host, "-p", str(broker.port), "--database", database) as platform:
            platform.wait_for("connected")
            yield Scene(broker, tmp_path, database)


def kill_at_random(rounds: int, family: str, settings: Path, serves: str, meanwhile: Callable[[], object]) -> None:
    """Start the bridge and kill it, round after round; the box goes on."""
    chance = random.Random(SEED)
    print(f"seed {SEED}")
    for number in range(rounds):
        with Running("bridge", family, settings) as bridge:
            if chance.random() < 0.8:
                bridge.wait_for(serves, within=60)
            end = time.monotonic() + chance.random() * LIFE
            while time.monotonic() < end:
                meanwhile()
                time.sleep(0.01)
            bridge.process.send_signal(signal.SIGKILL)
            bridge.wait()
        assert "Traceback" not in bridge.text, f"round {number}: {bridge.text}"


@pytest.mark.timeout(600)
def test_every_record_that_a_terminal_was_acked_for_is_on_the_platform_once(scene: Scene) -> None:
    settings = write_settings(scene.folder, scene.broker, '[mqtt-face.device.gate-1]\nid = "7"\nzone = "UTC"\n')
    with Box(scene.broker.port, "7", repeat=0.05, clock=lambda: dt.datetime.now(dt.UTC)) as box:
        kill_at_random(
            ROUNDS, "mqtt-face", settings, "connected to the terminals' broker", lambda: box.record(stranger=box.chance.random() < 0.2)
        )
        with Running("bridge", "mqtt-face", settings) as bridge:
            box.wait_acked(60)
            scene.wait_stored("gate-1", len(box.made))
            assert bridge.end() == 0, bridge.text
    names = Counter("snap:1/" + str(one.number) if one.stranger else "rec:1/" + str(one.number) for one in box.made)
    assert Counter(event["source_id"] for event in scene.stored("gate-1")) == names
    row = scene.status("gate-1")
    assert (row["gaps"], row["quarantined"], row["proof"]) == (0, 0, "proven")


@pytest.mark.timeout(600)
def test_every_event_that_an_se3_was_answered_for_is_on_the_platform_once(scene: Scene) -> None:
    port = free_port()
    settings = write_settings(scene.folder, scene.broker, f'[sophon]\nlisten = "127.0.0.1:{port}"\n[sophon.device.hall-1]\nid = "b"\n')
    with Se3(f"http://127.0.0.1:{port}/sophon/b", period=0.05) as box:
        kill_at_random(-(-ROUNDS // 3), "sophon", settings, "listens port=", lambda: box.compare(random.choice((0.73, 0.16))))
        with Running("bridge", "sophon", settings) as bridge:
            box.wait_uploaded(60)
            scene.wait_stored("hall-1", len(box.passed))
            assert bridge.end() == 0, bridge.text
    assert Counter(event["identity_id"] for event in scene.stored("hall-1")) == Counter(one.identity_id for one in box.passed)
    row = scene.status("hall-1")
    assert (row["gaps"], row["quarantined"], row["proof"]) == (0, 0, "best effort")
