"""docs/contract.md, Platform: a hand-made device talks to a real `facewire platform run`.

No code of facewire reads or writes the wire here (see wire.py). `facewire events` tells what was
stored.
"""

import json
import random
import shutil
import signal
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import msgpack
import pytest
from broker_engines import MOSQUITTO
from facewire_process import Running, ask
from mosquitto_server import Mosquitto
from wire import Message, Where, Wire

from facewire_broker import embedded

pytestmark = [pytest.mark.network, pytest.mark.process]

BOOT = "b" * 16
ENGINES = ["ours", pytest.param("mosquitto", marks=pytest.mark.mosquitto)]
AT = 1_700_000_000_000


def event(seq: int, **changed: Any) -> dict[str, Any]:
    fields = {"seq": seq, "timestamp": AT + seq, "score": 0.5, "identity_id": f"p{seq}", "identity_name": "小明", "person_type": 1}
    return fields | changed


class Platform:
    """`facewire platform run` on one database. It may be killed and started again."""

    def __init__(self, where: Where, folder: Path, root: str = "facewire") -> None:
        self.where, self.folder, self.root = where, folder, root
        self.file = folder / "platform.db"
        self.start()

    @property
    def url(self) -> str:
        return f"sqlite:///{self.file}"

    def start(self) -> None:
        self.process = Running(
            "platform", "run", "-h", self.where.host, "-p", str(self.where.port), "--database", self.url, "--root", self.root
        )
        self.process.wait_for("connected")

    def stop(self, number: int = signal.SIGTERM) -> int:
        return self.process.end(number)

    def events(self, device: str) -> dict[int, dict[str, Any]]:
        return {row["seq"]: row for row in ask("events", "--database", self.url, "-d", device)}

    def status(self, device: str) -> dict[str, Any]:
        return next(row for row in ask("status", "--database", self.url) if row["device"] == device)

    def gaps(self, device: str) -> list[tuple[int, int]]:
        return [(row["first"], row["last"]) for row in ask("gaps", "--database", self.url, "-d", device)]

    def quarantine(self) -> list[tuple[str, str]]:
        with closing(sqlite3.connect(f"file:{self.file}?mode=ro", uri=True)) as db:
            return db.execute("SELECT topic, reason FROM quarantine").fetchall()


class Device:
    """A device written from the contract alone. `loss`: the share of its messages to lose."""

    def __init__(self, where: Where, name: str, *, as_json: bool = False, loss: float = 0.0, seed: int = 0, root: str = "facewire") -> None:
        self.root, self.name, self.as_json, self.loss = root, name, as_json, loss
        self.epoch, self.boot = f"{random.Random(name).getrandbits(64):016x}", BOOT
        self.events: dict[int, dict[str, Any]] = {}
        self.cursor = self.epochs = 0
        self.chance = random.Random(seed)
        self.wire = Wire(where, name)
        self.wire.subscribe(self.topic("ack"))

    def topic(self, kind: str) -> str:
        return f"{self.root}/v1/{self.name}/{kind}"

    @property
    def head(self) -> int:
        return max(self.events, default=0)

    def pack(self, value: Any) -> bytes:
        return json.dumps(value).encode() if self.as_json else msgpack.packb(value)

    def batch(self, after: int, cursor: int, events: list[Any], **changed: Any) -> dict[str, Any]:
        ids = {"epoch": self.epoch, "boot": self.boot}
        return {**ids, "after": after, "cursor": cursor, "head": max(cursor, self.head), "oldest": 1, "events": events} | changed

    def send(self, batch: dict[str, Any]) -> None:
        self.wire.publish(self.topic("history"), self.pack(batch))

    def ask(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Send a batch; returns its ack."""
        self.send(batch)
        return self.ack(batch).map  # type: ignore[no-any-return]  # a map

    def ack(self, batch: dict[str, Any]) -> Message:
        return self.wire.next(lambda message: is_ack_of(message, batch))

    def history(self, after: int, *seqs: int, cursor: int | None = None) -> dict[str, Any]:
        return self.ask(self.batch(after, cursor or max((*seqs, after)), [event(seq) for seq in seqs]))

    def match(self, fields: dict[str, Any], **options: Any) -> None:
        match = {"epoch": self.epoch, "boot": self.boot, "sent_at": AT, "event": fields}
        self.wire.publish(self.topic("match"), self.pack(match), 0, **options)

    def status(self, boot: str, *, online: bool, **more: Any) -> None:
        self.wire.publish(self.topic("status"), self.pack({"boot": boot, "online": online, "at": AT, **more}), retain=True)

    def record(self, *, matches: bool = False) -> None:
        seq = self.head + 1
        self.events[seq] = event(seq)
        if matches and not self.lost():
            self.match(self.events[seq])

    def lost(self) -> bool:
        return self.chance.random() < self.loss

    def turn(self) -> bool:
        """Send a batch and obey its ack (rules R1 to R5). Returns whether there was an ack."""
        sent = [seq for seq in sorted(self.events) if seq > self.cursor][:100]
        batch = self.batch(self.cursor, sent[-1] if sent else self.cursor, [self.events[seq] for seq in sent])
        if not self.lost():
            self.send(batch)
        received = self.wire.maybe(lambda message: is_ack_of(message, batch), 0.5 if self.loss else 10)
        if received is None or self.lost() or "error" in received.map:
            return False
        ack = received.map
        if "conflict" in ack:
            self.fork([self.events[seq] for seq in sorted(self.events) if seq >= ack["conflict"]])
        elif ack["cursor"] > self.head == batch["cursor"]:
            self.fork([])
        else:
            self.cursor = min(ack["cursor"], batch["cursor"])
        return True

    def fork(self, recorded_again: list[dict[str, Any]]) -> None:
        self.epochs += 1
        self.epoch = f"{random.Random(f'{self.name} {self.epochs}').getrandbits(64):016x}"
        self.events = {seq: {**fields, "seq": seq} for seq, fields in enumerate(recorded_again, 1)}
        self.cursor = 0

    def drain(self, turns: int = 400) -> None:
        """Take turns until an ack confirms that the platform has everything."""
        for _ in range(turns):
            if self.turn() and self.cursor == self.head:
                return
        raise AssertionError(f"{self.name} is at {self.cursor} of {self.head}")


def is_ack_of(message: Message, batch: dict[str, Any]) -> bool:
    ack = message.map
    return (ack["epoch"], ack["boot"], ack["key"]) == (batch["epoch"], batch["boot"], batch["cursor"])


@pytest.fixture(scope="module", params=ENGINES)
def where(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Where]:
    if request.param == "ours":
        with embedded.running() as address:
            yield address
    else:
        broker = Mosquitto(tmp_path_factory.mktemp("mosquitto"))
        broker.start()
        yield broker.address
        broker.kill()


@pytest.fixture(scope="module")
def platform(where: Where, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    running = Platform(where, tmp_path_factory.mktemp("platform"))
    yield running
    assert running.stop() == 0, running.process.text
    assert "Traceback" not in running.process.text
    assert "小明" not in running.process.text


@pytest.fixture
def new_platform(where: Where, tmp_path: Path) -> Iterator[Callable[[], Platform]]:
    """Makes platforms with the root `lab`."""
    made: list[Platform] = []

    def make() -> Platform:
        made.append(Platform(where, tmp_path, "lab"))
        return made[-1]

    yield make
    for one in made:
        one.stop(signal.SIGKILL)


@pytest.fixture
def new_device(where: Where, request: pytest.FixtureRequest) -> Iterator[Callable[..., Device]]:
    with ExitStack() as stack:
        test = "t" + request.node.name.split("[")[0][-40:]

        def make(name: str = "", **options: Any) -> Device:
            device = Device(where, f"{test}{name}", **options)
            stack.callback(device.wire.close)
            return device

        yield make


@pytest.fixture
def device(new_device: Callable[..., Device]) -> Device:
    return new_device()


def test_a_batch_is_acked_field_by_field_once_it_can_be_read_back(platform: Platform, device: Device) -> None:
    batch = device.batch(0, 2, [event(1), event(2)])
    device.send(batch)
    received = device.ack(batch)
    assert set(platform.events(device.name)) == {1, 2}
    ack = received.map
    assert ack.keys() - {"received_at", "sent_at"} == {"epoch", "boot", "key", "cursor", "store"}
    assert ack.get("received_at", 0) <= ack.get("sent_at", 0)
    assert (ack["epoch"], ack["boot"], ack["key"], ack["cursor"]) == (device.epoch, BOOT, 2, 2)
    assert (received.topic, received.qos, received.retain) == (f"facewire/v1/{device.name}/ack", 1, False)
    assert isinstance(ack["store"], str)
    assert received.payload[:1] != b"{"


def test_every_batch_gets_its_ack_with_the_same_store(platform: Platform, device: Device) -> None:
    acks = [device.history(0, 1), device.history(0, 1), device.history(1), device.history(1, 2)]
    assert [(ack["key"], ack["cursor"]) for ack in acks] == [(1, 1), (1, 1), (1, 1), (2, 2)]
    assert len({ack["store"] for ack in acks}) == 1


def test_a_probe_of_a_stream_never_seen_is_answered_with_0(platform: Platform, device: Device) -> None:
    assert device.history(7)["cursor"] == 0


def test_after_a_hole_its_events_are_stored_and_the_watermark_stays(platform: Platform, device: Device) -> None:
    device.history(0, 1, 2)
    assert device.history(5, 6, 8)["cursor"] == 2
    assert set(platform.events(device.name)) == {1, 2, 6, 8}
    assert platform.gaps(device.name) == []
    ack = device.ask(device.batch(5, 6, [event(6, timestamp=1)]))
    assert (ack["cursor"], ack.get("conflict")) == (2, None)
    assert device.history(2, 3, 4, 5, 6, 7, 8)["cursor"] == 8


def test_events_that_the_device_lost_become_a_gap_and_a_late_event_closes_it(platform: Platform, device: Device) -> None:
    assert device.history(0, 4, 7)["cursor"] == 7
    assert platform.gaps(device.name) == [(1, 3), (5, 6)]
    assert device.history(0, 2)["cursor"] == 7
    device.match(event(5))
    assert device.history(7)["cursor"] == 7
    assert platform.gaps(device.name) == [(1, 1), (3, 3), (6, 6)]
    row = platform.status(device.name)
    assert (row["watermark"], row["gaps"], row["quarantined"], len(platform.events(device.name))) == (7, 3, 0, 4)


def test_the_part_before_a_conflict_counts(platform: Platform, device: Device) -> None:
    device.history(0, 1, 2, 3)
    ack = device.ask(device.batch(2, 6, [event(3), event(5), event(6)]))
    assert ack["cursor"] == 6
    ack = device.ask(device.batch(1, 9, [event(2), event(5, identity_id="another"), event(6, score=9.0), event(9)]))
    assert (ack["conflict"], ack["cursor"], ack["key"]) == (5, 6, 9)
    device.match(event(12))
    ack = device.ask(device.batch(6, 13, [event(8), event(12, timestamp=5), event(13)]))
    assert (ack["conflict"], ack["cursor"]) == (12, 11)
    assert platform.gaps(device.name) == [(4, 4), (7, 7), (9, 11)]
    assert set(platform.events(device.name)) == {1, 2, 3, 5, 6, 8, 12}


def test_a_match_is_visible_at_once_never_acked_and_its_history_copy_changes_nothing(platform: Platform, device: Device) -> None:
    device.match(event(1, card_id="first"))
    device.history(0)
    assert platform.events(device.name)[1]["card_id"] == "first"
    assert platform.status(device.name)["watermark"] == 0
    assert device.ask(device.batch(0, 1, [event(1, card_id="second")]))["cursor"] == 1
    device.match(event(1, card_id="third", score=77.0))
    device.history(1)
    assert [row["card_id"] for row in platform.events(device.name).values()] == ["first"]
    assert len(device.wire.received) == 3


def test_a_retained_match_is_stored_once_like_any_other(platform: Platform, device: Device) -> None:
    device.match(event(1), retain=True)
    device.history(0, 1)
    assert len(platform.events(device.name)) == 1
    device.wire.publish(device.topic("match"), b"", retain=True)


def test_unknown_keys_are_ignored_in_messages_and_kept_in_events(platform: Platform, device: Device) -> None:
    more = {
        "card_id": "7",
        "ep_info": {"ep_id": "x", "deep": [1, None, {"a": b"\xff"}]},
        "ß": 2**63 - 1,
        "want_action": None,
        "group_name": "",
    }
    batch = device.batch(0, 2, [event(1, **more), event(2, ep_id="cam", group_name="staff")], shoe_size=42, hat={"a": 1})
    assert device.ask(batch)["cursor"] == 2
    stored = platform.events(device.name)
    expected = event(1, **more) | {"ep_info": {"ep_id": "x", "deep": [1, None, {"a": "/w=="}]}}
    assert stored[1] == {"device": device.name, "epoch": device.epoch, **expected}
    assert (stored[2]["ep_id"], stored[2]["group_name"]) == ("cam", "staff")


def test_a_device_that_speaks_json_is_answered_in_json(platform: Platform, new_device: Callable[..., Device]) -> None:
    device = new_device(as_json=True)
    batch = device.batch(0, 2, [event(1, score=82, note="小明", none=None), event(2, score="bad")])
    device.send(batch)
    received = device.ack(batch)
    assert received.payload[:1] == b"{"
    assert received.map["cursor"] == 2
    assert [rejected["seq"] for rejected in received.map["rejected"]] == [2]
    row = platform.events(device.name)[1]
    assert (row["score"], row["note"], row["none"]) == (82.0, "小明", None)
    refused = device.batch(0, 1, [event(5)])
    device.send(refused)
    assert device.ack(refused).payload[:1] == b"{"


BAD: dict[str, dict[str, Any]] = {
    "no timestamp": {"timestamp": None},
    "a timestamp with a point": {"timestamp": 1.5},
    "a timestamp of text": {"timestamp": "1700000000000"},
    "a score that is no number": {"score": "0.5"},
    "a score without end": {"score": float("inf")},
    "a score that is none": {"score": float("nan")},
    "a true score": {"score": True},
    "a person type of text": {"person_type": "1"},
    "an identity that is a number": {"identity_id": 7},
    "a name that is bytes": {"identity_name": b"x"},
    "a group that is a list": {"group_name": []},
}


def test_bad_events_are_named_and_passed_and_the_good_ones_stored(platform: Platform, device: Device) -> None:
    bad = [event(seq, **changed) for seq, changed in enumerate(BAD.values(), 2)]
    last = len(bad) + 2
    ack = device.ask(device.batch(0, last, [event(1), *bad, event(last)]))
    assert [rejected["seq"] for rejected in ack["rejected"]] == list(range(2, last))
    assert all(isinstance(rejected["reason"], str) and rejected["reason"] for rejected in ack["rejected"])
    assert ack["cursor"] == last
    assert set(platform.events(device.name)) == {1, last}
    row = platform.status(device.name)
    assert (row["watermark"], row["gaps"], row["quarantined"]) == (last, 0, len(BAD))
    assert device.history(0, 2, 3)["cursor"] == last
    assert platform.status(device.name)["quarantined"] == len(BAD) - 2
    assert set(platform.events(device.name)) == {1, 2, 3, last}


@pytest.mark.parametrize("unreadable", [{"seq": "2"}, {"seq": None}, {"seq": 0}, {"seq": -1}, {"seq": 2.0}, 7, "text", None, []], ids=str)
def test_an_event_without_a_readable_seq_is_quarantined_and_leaves_a_gap(
    platform: Platform, new_device: Callable[..., Device], unreadable: Any
) -> None:
    device = new_device(f"-{type(unreadable).__name__}-{abs(hash(str(unreadable)))}"[:20])
    item = event(2) | unreadable if isinstance(unreadable, dict) else unreadable
    ack = device.ask(device.batch(0, 3, [event(1), item, event(3)]))
    assert (ack["cursor"], len(ack["rejected"])) == (3, 1)
    assert set(platform.events(device.name)) == {1, 3}
    assert platform.gaps(device.name) == [(2, 2)]


REFUSED: dict[str, dict[str, Any]] = {
    "101 events": {"events": [event(seq) for seq in range(1, 102)], "cursor": 101},
    "seqs that fall": {"events": [event(2), event(1)]},
    "a seq twice": {"events": [event(2), event(2)]},
    "a seq at after": {"events": [event(2), event(3)], "after": 2},
    "a seq past the cursor": {"events": [event(2), event(9)]},
    "a cursor before after": {"after": 5, "events": []},
    "no events at all": {"events": None},
    "events that are a map": {"events": {}},
    "no after": {"after": None},
    "a negative after": {"after": -1},
    "no head": {"head": None},
    "no oldest": {"oldest": None},
}


@pytest.mark.parametrize("changed", REFUSED.values(), ids=REFUSED)
def test_a_batch_that_breaks_the_contract_is_refused_whole(
    platform: Platform, new_device: Callable[..., Device], changed: dict[str, Any]
) -> None:
    device = new_device(f"-{list(REFUSED.values()).index(changed)}")
    device.history(0, 1)
    ack = device.ask({**device.batch(1, 3, [event(2), event(3)], head=200), **changed})
    assert isinstance(ack["error"], str)
    assert ack["error"]
    assert ack["cursor"] == 1
    assert set(platform.events(device.name)) == {1}
    assert platform.status(device.name)["watermark"] == 1
    assert any(device.name in topic for topic, _ in platform.quarantine())


UNREADABLE = {
    "nothing": b"",
    "noise": b"\xc1\xff\x00",
    "no map": msgpack.packb([1, 2]),
    "half a map": msgpack.packb({"epoch": "e" * 16, "boot": BOOT})[:-3],
    "no epoch": msgpack.packb({"boot": BOOT, "cursor": 0, "after": 0, "head": 0, "oldest": 1, "events": []}),
    "an epoch that is none": msgpack.packb({"epoch": "e", "boot": BOOT, "cursor": 0, "after": 0, "head": 0, "oldest": 1, "events": []}),
    "no boot": msgpack.packb({"epoch": "e" * 16, "cursor": 0, "after": 0, "head": 0, "oldest": 1, "events": []}),
    "no cursor": msgpack.packb({"epoch": "e" * 16, "boot": BOOT, "after": 0, "head": 0, "oldest": 1, "events": []}),
    "a cursor of text": msgpack.packb({"epoch": "e" * 16, "boot": BOOT, "cursor": "1", "after": 0, "head": 0, "oldest": 1, "events": []}),
    "broken JSON": b'{"epoch": ',
    "deep JSON": b'{"a":' * 5000,
    "a map of a billion": b"\xdf\x3b\x9a\xca\x00",
}


def test_an_unreadable_message_is_quarantined_and_never_acked(platform: Platform, device: Device) -> None:
    for payload in UNREADABLE.values():
        for kind in ("history", "match", "status"):
            if payload or kind != "status":
                device.wire.publish(device.topic(kind), payload)
    assert device.history(0, 1)["cursor"] == 1
    assert [message.map["key"] for message in device.wire.received] == [1]
    quarantined = [topic for topic, _ in platform.quarantine() if device.name in topic]
    assert sum(topic.endswith("/history") for topic in quarantined) == len(UNREADABLE)
    assert sum(topic.endswith("/match") for topic in quarantined) == len(UNREADABLE)


@pytest.mark.parametrize("name", ["-leading", "a b", "é", "x" * 65])
def test_a_topic_that_names_no_device_is_quarantined(platform: Platform, device: Device, name: str) -> None:
    before = len(platform.quarantine())
    device.wire.publish(f"facewire/v1/{name}/history", device.pack(device.batch(0, 0, [])))
    device.history(0)
    assert len(platform.quarantine()) == before + 1


def test_a_batch_over_all_integers_costs_nothing(platform: Platform, device: Device) -> None:
    assert device.history(0, cursor=None)["cursor"] == 0
    assert device.ask(device.batch(0, 2**60, [event(2**60)]))["cursor"] == 2**60
    assert device.ask(device.batch(2**60, 2**63 - 1, [event(2**63 - 1)]))["cursor"] == 2**63 - 1
    assert platform.gaps(device.name) == [(1, 2**60 - 1), (2**60 + 1, 2**63 - 2)]


def test_a_will_of_an_old_boot_is_ignored_and_one_of_the_newest_is_not(platform: Platform, device: Device) -> None:
    def online() -> Any:
        device.history(0)  # the messages before it have been stored
        return platform.status(device.name)["online"]

    device.boot = "2" * 16
    device.status("1" * 16, online=True, epoch=device.epoch, head=3, oldest=1, cursor=0, threshold=0.8, capacity=9, dropped=2)
    device.status("2" * 16, online=True, epoch=device.epoch, head=5, oldest=1, cursor=0)
    device.status("1" * 16, online=False)
    assert online() is True
    assert (platform.status(device.name)["head"], platform.status(device.name)["lag"]) == (5, 5)
    device.status("2" * 16, online=False)
    assert online() is False
    device.wire.publish(device.topic("status"), b"", retain=True)


def test_no_event_is_lost_when_a_third_of_all_messages_is(platform: Platform, new_device: Callable[..., Device]) -> None:
    devices = [new_device(f"-{number}", loss=0.3, seed=number, as_json=number == 2) for number in range(3)]

    def live(device: Device) -> None:
        for _ in range(6):
            for _ in range(70):
                device.record(matches=True)
            device.turn()
        device.drain()

    threads = [threading.Thread(target=live, args=(device,)) for device in devices]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(100)
    for device in devices:
        stored = platform.events(device.name)
        assert stored == {seq: {"device": device.name, "epoch": device.epoch, **fields} for seq, fields in device.events.items()}
        row = platform.status(device.name)
        assert (row["watermark"], row["head"], row["gaps"], row["lag"]) == (420, 420, 0, 0)


@pytest.mark.parametrize("how", ["stopped", "killed", "running", "older copy"])
def test_a_platform_that_lost_its_data_gets_it_back_from_a_device_without_new_events(
    new_platform: Callable[[], Platform], new_device: Callable[..., Device], how: str
) -> None:
    platform = new_platform()
    device = new_device(f"-{how.replace(' ', '-')}", root="lab")
    for _ in range(150):
        device.record()
    device.drain()
    first_store = device.history(150)["store"]
    if how == "older copy":
        assert platform.stop() == 0
        shutil.copy(platform.file, copy := platform.folder / "copy")
        platform.start()
        for _ in range(150):
            device.record()
        device.drain()
    if how != "running":
        platform.stop(signal.SIGKILL if how == "killed" else signal.SIGTERM)
    for file in platform.folder.glob("platform.db*"):
        file.unlink()
    if how == "older copy":
        shutil.copy(copy, platform.file)
    if how != "running":
        platform.start()
    assert device.cursor == device.head
    device.turn()  # a probe
    assert device.cursor < device.head
    device.drain()
    assert platform.events(device.name).keys() == device.events.keys()
    row = platform.status(device.name)
    assert (row["watermark"], row["gaps"]) == (device.head, 0)
    assert (device.history(device.head)["store"] == first_store) == (how == "older copy")


def test_acked_events_survive_a_kill(new_platform: Callable[[], Platform], new_device: Callable[..., Device]) -> None:
    platform, device = new_platform(), new_device(root="lab")
    for _ in range(4):
        for _ in range(150):
            device.record(matches=True)
        device.turn()
        platform.stop(signal.SIGKILL)
        assert set(range(1, device.cursor + 1)) <= platform.events(device.name).keys()
        platform.start()
    device.drain()
    assert platform.events(device.name).keys() == device.events.keys()
    assert platform.gaps(device.name) == []


def test_a_device_restored_from_an_older_copy_forks_and_nothing_is_lost(platform: Platform, device: Device) -> None:
    for _ in range(50):
        device.record()
    device.drain()
    old = dict(device.events)
    for _ in range(50):
        device.record()
    device.drain()
    first_epoch, device.events, device.cursor = device.epoch, old, 50
    for seq in range(51, 61):
        device.events[seq] = event(seq, timestamp=AT + 5000 + seq)
    device.drain()
    assert device.epoch != first_epoch
    rows = ask("events", "--database", platform.url, "-d", device.name)
    assert len(rows) == 110
    assert sorted(row["seq"] for row in rows if row["epoch"] == device.epoch) == list(range(1, 11))


def test_a_second_worker_on_the_database_is_refused(platform: Platform) -> None:
    arguments = ("platform", "run", "-h", platform.where.host, "-p", str(platform.where.port), "--database", platform.url)
    with Running(*arguments) as second:
        assert second.wait() == 1
    assert "another worker has this database" in second.text
    assert "Traceback" not in second.text


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_with_0_even_without_a_broker(tmp_path: Path, number: int) -> None:
    with Running("platform", "run", "-p", "1", "--database", f"sqlite:///{tmp_path}/x.db") as running:
        running.wait_for("no connection")
        assert running.end(number) == 0
    assert "Traceback" not in running.text


@pytest.mark.skipif(MOSQUITTO is None, reason="Mosquitto is not installed")
def test_credentials_that_the_broker_refuses_end_it_with_5(tmp_path: Path) -> None:
    (tmp_path / "passwords").write_text("")
    broker = Mosquitto(tmp_path, f"allow_anonymous false\npassword_file {tmp_path}/passwords")
    broker.start()
    try:
        port = ("-p", str(broker.address.port))
        with Running("platform", "run", *port, "-u", "platform", "-P", "wrong", "--database", f"sqlite:///{tmp_path}/x.db") as running:
            assert running.wait() == 5
    finally:
        broker.kill()
    assert "Traceback" not in running.text
    assert "wrong" not in running.text
