"""Bridges as processes, killed at random: an acked record is on the platform exactly once.

`FACEWIRE_BRIDGE_ROUNDS` (30), `FACEWIRE_BRIDGE_SEED`.
"""

import datetime as dt
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from box_mqtt_face import Box
from box_sophon import Se3
from bridge_scene import write_settings
from broker_engines import free_port
from facewire_process import Running, ask
from waiting import wait_until

from facewire_broker import embedded
from facewire_mqtt.address import Address

pytestmark = [pytest.mark.network, pytest.mark.process]

ROUNDS = int(os.environ.get("FACEWIRE_BRIDGE_ROUNDS", "30"))
SEED = int(os.environ.get("FACEWIRE_BRIDGE_SEED", "0")) or random.randrange(1 << 32)
#: A round's life of the bridges, once they serve, s.
LIFE = 0.3
#: Records of each box in a round: all rounds' fit the batches of one period, so nothing waits for
#: the next.
RECORDS = max(1, 450 // ROUNDS)
FACE, SOPHON = ("mqtt-face", "connected to the terminals' broker"), ("sophon", "listens port=")


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


class Killer:
    """Starts both bridges and kills them, round after round, while the boxes go on."""

    def __init__(self, settings: Path, acts: Sequence[Callable[[], object]]) -> None:
        self.settings, self.acts = settings, acts
        self.chance = random.Random(SEED)

    def round(self) -> None:
        with Running("bridge", FACE[0], self.settings) as face, Running("bridge", SOPHON[0], self.settings) as sophon:
            for bridge, serves in ((face, FACE[1]), (sophon, SOPHON[1])):
                if self.chance.random() < 0.8:
                    bridge.wait_for(serves, within=60)
            self.live()
            for bridge in self.chance.sample((face, sophon), 2):
                bridge.process.send_signal(signal.SIGKILL)
                bridge.wait()
                assert "Traceback" not in bridge.text, bridge.text

    def live(self) -> None:
        end = time.monotonic() + self.chance.random() * LIFE
        for _ in range(RECORDS):
            for act in self.acts:
                act()
            time.sleep(LIFE / RECORDS)
            if time.monotonic() >= end:
                return


@pytest.mark.timeout(600)
def test_every_record_that_a_box_was_acked_for_is_on_the_platform_once(scene: Scene) -> None:
    port = free_port()
    tables = '[mqtt-face.device.gate-1]\nid = "7"\nzone = "UTC"\n[sophon.device.hall-1]\nid = "b"\n'
    settings = write_settings(scene.folder, scene.broker, f'[sophon]\nlisten = "127.0.0.1:{port}"\n{tables}')
    terminal = Box(scene.broker.port, "7", repeat=0.05, clock=lambda: dt.datetime.now(dt.UTC))
    with terminal as box, Se3(f"http://127.0.0.1:{port}/sophon/b", period=0.05) as se3:
        killer = Killer(
            settings, (lambda: box.record(stranger=box.chance.random() < 0.2), lambda: se3.compare(random.choice((0.73, 0.16))))
        )
        print(f"seed {SEED}")
        for _ in range(ROUNDS):
            killer.round()
        with Running("bridge", FACE[0], settings) as face, Running("bridge", SOPHON[0], settings) as sophon:
            box.wait_acked(60)
            se3.wait_uploaded(60)
            scene.wait_stored("gate-1", len(box.made))
            scene.wait_stored("hall-1", len(se3.passed))
            assert (face.end(), sophon.end()) == (0, 0), face.text + sophon.text
    names = Counter("snap:1/" + str(one.number) if one.stranger else "rec:1/" + str(one.number) for one in box.made)
    assert Counter(event["source_id"] for event in scene.stored("gate-1")) == names
    assert Counter(event["identity_id"] for event in scene.stored("hall-1")) == Counter(one.identity_id for one in se3.passed)
    for device, proof in (("gate-1", "proven"), ("hall-1", "best effort")):
        row = scene.status(device)
        assert (row["gaps"], row["quarantined"], row["proof"]) == (0, 0, proof)
