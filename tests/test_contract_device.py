"""docs/contract.md, Device: a platform made for this test speaks to the real `facewire device run`.

No code of facewire makes or reads the wire here (see wire.py). A device's period is at least 20 s,
so all scenes run at the same time, each with its own device and thread. Each test waits for one.
"""

import json
import random
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import msgpack
import pytest
from facewire_process import Running, ask
from mosquitto_server import Mosquitto
from waiting import wait_until
from wire import Message, Where, Wire

from facewire_broker import embedded

pytestmark = [pytest.mark.network, pytest.mark.process, pytest.mark.timeout(200)]

ENGINES = ["ours", pytest.param("mosquitto", marks=pytest.mark.mosquitto)]
VENDOR_EVENTS = Path(__file__).parent / "data" / "vendor-events.jsonl"
AT = 1_700_000_000_000
HEX = set("0123456789abcdefABCDEF")


def source_event(number: int, **changed: Any) -> dict[str, Any]:
    fields = {"timestamp": AT + number, "score": 0.25, "identity_id": f"p{number}", "identity_name": "小明", "person_type": 1}
    return fields | changed


class Scene:
    """One device and its platform."""

    def __init__(self, where: Where, folder: Path, name: str, *events: dict[str, Any], options: tuple[str, ...] = ()) -> None:
        self.name, self.store = name, folder / f"{name}.db"
        self.wire = Wire(where, f"platform-{name}")
        self.wire.subscribe(*(f"facewire/v1/{name}/{kind}" for kind in ("history", "status", "match")))
        arguments = ("-h", where.host, "-p", str(where.port), "--id", name, "--store", self.store, "--source", "-", "--threshold", "0.8")
        self.device = Running("device", "run", *arguments, *options, stdin=True)
        self.device.wait_for("connected")
        self.device.write(*events)

    def close(self) -> None:
        self.wire.close()
        self.device.__exit__()

    def batch(self, within: float = 30.0) -> dict[str, Any]:
        return self.wire.next(lambda message: message.kind == "history", within).map  # type: ignore[no-any-return]  # a map

    def ack(self, batch: dict[str, Any], cursor: int | None = None, *, as_json: bool = False, **changed: Any) -> None:
        ack = {"epoch": batch["epoch"], "boot": batch["boot"], "key": batch["cursor"], "store": "s"}
        ack = {**ack, "cursor": batch["cursor"] if cursor is None else cursor, "unknown": [1], **changed}
        packed = json.dumps(ack).encode() if as_json else msgpack.packb(ack)
        self.wire.publish(f"facewire/v1/{self.name}/ack", packed)

    def stored(self) -> dict[str, Any]:
        return ask("device", "status", "--store", self.store)[0]

    def wait_cursor(self, cursor: int) -> None:
        wait_until(lambda: self.stored()["cursor"] == cursor, what=lambda: f"{self.stored()}\n{self.device.text}")


def check_batch(message: Message, name: str) -> None:
    """A batch keeps the contract, field by field."""
    batch = message.map
    assert (message.topic, message.qos, message.retain) == (f"facewire/v1/{name}/history", 1, False)
    assert batch.keys() - {"origins"} == {"epoch", "boot", "after", "cursor", "head", "oldest", "events"}
    for identity in (batch["epoch"], batch["boot"]):
        assert len(identity) == 16
        assert set(identity) <= HEX
    seqs = [event["seq"] for event in batch["events"]]
    assert seqs == sorted(set(seqs))
    assert len(seqs) <= 100
    assert all(batch["after"] < seq <= batch["cursor"] for seq in seqs)
    assert batch["cursor"] == (seqs[-1] if seqs else batch["after"])
    assert batch["cursor"] <= batch["head"]
    assert 1 <= batch["oldest"] <= batch["head"] + 1


def fields_and_probe(scene: Scene) -> None:
    """Each message keeps the contract, field by field; an idle device sends a probe each period."""
    lines = [json.loads(line) for line in VENDOR_EVENTS.read_text().splitlines()]
    for fields in lines:
        nested = fields.get("ext_data", {})
        fields.setdefault("person_type", nested.get("person_type"))
        fields.setdefault("ep_id", fields.get("ep_info", {}).get("ep_id") or nested.get("device_ip"))
    scene.device.write(*lines, source_event(9, score=0.8), source_event(10, score=0.81, photo="x"))
    first = scene.wire.next(lambda message: message.kind == "history" and message.map["head"] == 5)
    check_batch(first, scene.name)
    assert first.map["events"] == [
        {**fields, "seq": seq}
        for seq, fields in enumerate([*lines, source_event(9, score=0.8), source_event(10, score=0.81, photo="x")], 1)
    ]
    matches = [message for message in scene.wire.received if message.kind == "match"]
    assert [message.map["event"]["seq"] for message in matches] == [seq for seq, fields in enumerate(lines, 1) if fields["score"] > 0.8] + [
        5
    ]
    for message in matches:
        match = message.map
        assert match.keys() == {"epoch", "boot", "sent_at", "event"}
        assert (message.qos, message.retain, match["epoch"], match["boot"]) == (0, False, first.map["epoch"], first.map["boot"])
        assert abs(match["sent_at"] - time.time() * 1000) < 60_000
    scene.ack(first.map, as_json=True)
    acked_at = time.monotonic()
    scene.wait_cursor(5)
    probe = scene.wire.next(lambda message: message.kind == "history", 30)
    check_batch(probe, scene.name)
    assert (probe.map["after"], probe.map["cursor"], probe.map["events"]) == (5, 5, [])
    assert probe.at - first.at > 19.5
    assert probe.at - acked_at < 25
    scene.ack(probe.map, cursor=2)  # R3: the platform lost data
    scene.wait_cursor(2)
    status = next(message for message in reversed(scene.wire.received) if message.kind == "status")
    assert status.map.keys() >= {"boot", "online", "at", "epoch", "head", "oldest", "cursor", "threshold", "period", "capacity", "dropped"}
    assert (status.map["online"], status.map["threshold"], status.map["period"], status.qos) == (True, 0.8, 20.0, 1)
    assert scene.device.end() == 0
    goodbye = scene.wire.next(lambda message: message.kind == "status" and not message.map["online"])
    assert goodbye.map["boot"] == first.map["boot"]


def acks_that_are_not_for_it(scene: Scene) -> None:
    """R2: the batch is resent until its own ack arrives, which may be late and repeated."""
    first = scene.batch()
    scene.ack(first, key=first["cursor"] + 1)
    scene.ack(first, epoch="f" * 16)
    scene.ack(first, boot="f" * 16)
    scene.ack(first, conflict=1, boot="f" * 16)
    scene.ack(first, error="not today")
    scene.wire.publish(f"facewire/v1/{scene.name}/ack", b"\xc1noise")
    again = scene.wire.next(lambda message: message.kind == "history", 15)
    check_batch(again, scene.name)
    assert again.map == first
    assert scene.stored()["cursor"] == 0
    scene.device.wait_for("not today")
    once_more = scene.wire.next(lambda message: message.kind == "history", 20)
    assert once_more.map == first
    scene.ack(first)  # late
    scene.ack(first)  # and twice
    scene.wait_cursor(first["cursor"])


def conflict(scene: Scene) -> None:
    """R4: a new epoch, in which the events from the conflict on are recorded again from seq 1."""
    first = scene.batch()
    assert len(first["events"]) == 10
    scene.ack(first, cursor=3, conflict=4)
    scene.device.write(source_event(99))
    second = scene.wire.next(lambda message: message.kind == "history" and message.map["epoch"] != first["epoch"], 30)
    check_batch(second, scene.name)
    assert (second.map["after"], second.map["boot"]) == (0, first["boot"])
    recorded_again = [{**event, "seq": event["seq"] + 3} for event in second.map["events"][:7]]
    assert recorded_again == first["events"][3:]
    (origin,) = second.map["origins"]
    # The event just written was recorded before the fork, as seq 11 of the old epoch, or after it.
    assert origin.pop("last") in {10, second.map["head"] + 3}
    assert origin == {"epoch": first["epoch"], "first": 4, "diverged": True}
    scene.ack(second.map)
    scene.wait_cursor(second.map["cursor"])


def cursor_beyond_head(scene: Scene) -> None:
    """R5: the platform is ahead of the device, which was restored from an older copy: it forks."""
    first = scene.batch()
    scene.ack(first, cursor=first["cursor"] + 500)
    second = scene.wire.next(lambda message: message.kind == "history" and message.map["epoch"] != first["epoch"], 30)
    check_batch(second, scene.name)
    assert (second.map["after"], second.map["cursor"], second.map["head"], second.map["events"]) == (0, 0, 0, [])


def cursor_beyond_what_was_sent(scene: Scene) -> None:
    """R3: the cursor never skips an unsent event. While catching up, batches follow at once."""
    first = scene.batch()
    assert (len(first["events"]), first["head"]) == (100, 250)
    scene.ack(first, cursor=220)
    second = scene.batch(10)
    assert (second["after"], second["cursor"], second["epoch"]) == (100, 200, first["epoch"])
    scene.ack(second)
    third = scene.batch(10)
    assert (third["after"], third["cursor"]) == (200, 250)
    scene.ack(third, retry_after=40_000)
    scene.wait_cursor(250)
    assert scene.wire.maybe(lambda message: message.kind == "history", 22) is None, "the platform asked for patience"


def loss_of_a_third(scene: Scene) -> None:
    """Batches and acks are lost, but every event arrives, in order and without a hole."""
    chance = random.Random(7)
    received: dict[int, dict[str, Any]] = {}
    watermark = 0
    while watermark < 250:
        message = scene.wire.next(lambda message: message.kind == "history", 45)
        check_batch(message, scene.name)
        batch = message.map
        if chance.random() < 0.3:
            continue
        assert batch["after"] <= watermark
        received |= {event["seq"]: event for event in batch["events"]}
        watermark = max(watermark, batch["cursor"])
        if chance.random() >= 0.3:
            scene.ack(batch, cursor=watermark)
    assert received == {seq: {"seq": seq, **source_event(seq)} for seq in range(1, 251)}


def overflow(scene: Scene) -> None:
    """Rule 6: events overwritten before they were acked show as a gap, and are counted."""
    first = scene.wire.next(lambda message: message.kind == "history" and message.map["head"] == 80, 40)
    check_batch(first, scene.name)
    assert (first.map["after"], first.map["oldest"]) == (0, 31)
    assert [event["seq"] for event in first.map["events"]] == list(range(31, 81))
    assert scene.stored()["dropped"] == 30


CATCH_UP = ("--catch-up", "10")
MANY = tuple(source_event(number) for number in range(1, 251))
SCENES: dict[Callable[[Scene], None], tuple[tuple[dict[str, Any], ...], tuple[str, ...]]] = {
    fields_and_probe: ((), ()),
    acks_that_are_not_for_it: (MANY[:3], ()),
    conflict: (MANY[:10], CATCH_UP),
    cursor_beyond_head: (MANY[:5], CATCH_UP),
    cursor_beyond_what_was_sent: (MANY, CATCH_UP),
    loss_of_a_third: (MANY, CATCH_UP),
    overflow: (MANY[:80], ("--capacity", "50")),
}


@pytest.fixture(scope="module", params=ENGINES)
def played(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[Callable[[Scene], None], Future[None]]]:
    """All scenes at the same time, on one broker."""
    folder = tmp_path_factory.mktemp("devices")

    def play(where: Where, scene: Callable[[Scene], None]) -> None:
        events, options = SCENES[scene]
        with closing(Scene(where, folder, scene.__name__, *events, options=options)) as opened:
            scene(opened)
            assert "Traceback" not in opened.device.text
            assert "小明" not in opened.device.text

    with ThreadPoolExecutor(len(SCENES)) as pool:
        if request.param == "ours":
            with embedded.running() as address:
                yield {scene: pool.submit(play, address, scene) for scene in SCENES}
                pool.shutdown()
        else:
            broker = Mosquitto(folder)
            broker.start()
            yield {scene: pool.submit(play, broker.address, scene) for scene in SCENES}
            pool.shutdown()
            broker.kill()


@pytest.mark.parametrize("scene", SCENES, ids=lambda scene: scene.__name__)
def test_a_device_keeps_the_contract(played: dict[Callable[[Scene], None], Future[None]], scene: Callable[[Scene], None]) -> None:
    played[scene].result(150)


def test_another_process_that_reads_a_store_does_not_delete_its_wal(tmp_path: Path) -> None:
    """If the agent closes a file that it opened beside SQLite, SQLite's locks on it are gone."""
    with embedded.running() as address, closing(Scene(address, tmp_path, "box", source_event(1))) as scene:
        scene.wire.next(lambda message: message.kind == "history" and message.map["head"] == 1)
        assert scene.stored()["head"] == 1
        scene.device.write(source_event(2, score=0.9))
        scene.wire.next(lambda message: message.kind == "match")
        assert scene.stored()["head"] == 2
