"""Fresh matches through real brokers, and through one that does what no broker should."""

import asyncio
import contextlib
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from broker_engines import PARAMETERS, anonymous, with_users
from mosquitto_server import Mosquitto
from mqtt_probe import Probe, packet, publish
from test_cli_tail import FACEWIRE, Tail, tail_of
from waiting import WITHIN, wait_until

import facewire_platform
from facewire import codec, messages
from facewire.errors import BrokerError, CredentialsRefused
from facewire.events import Event
from facewire.messages import Match, Status
from facewire.roles import Role
from facewire.topics import Topics
from facewire_broker import credentials
from facewire_broker.credentials import UsersFile
from facewire_gate import fresh_matches, fresh_matches_async
from facewire_gate import matches as consumer
from facewire_gate.freshness import Limits
from facewire_gate.matches import DropOldestInbox, FreshMatch, FreshMatches
from facewire_mqtt import Address, Connected, Disconnected, Received, Refused
from facewire_system.clock import elapsed_ms, now_ms

pytestmark = [pytest.mark.network, pytest.mark.usefixtures("quick_reconnects")]

DOCS = Path(__file__).parent.parent / "docs"
TOPIC, STATUS = Topics().of("lobby-1", "match"), Topics().of("lobby-1", "status")
OLD, NEW = "0" * 16, "1" * 16
SECRET = "correct-horse-battery-staple"  # noqa: S105  # of a test
EPOCH = "e" * 16


def match(
    seq: int, *, age: int = 0, held: int = 0, boot: str = NEW, score: float = 0.9, who: str = "", said: tuple[int, int] | None = None
) -> bytes:
    """A match that was sent so many ms ago."""
    sent = now_ms() - age
    event = Event(seq, sent - held, score, who or str(seq), "Ada", 1, None, None, {})
    return messages.encode(Match(EPOCH, boot, sent, event, *(said or ())))


def status(boot: str = NEW, *, online: bool = True, age: int = 0) -> bytes:
    return messages.encode(Status(boot, online=online, at=now_ms() - age))


class Gate:
    """An iteration that is up, its matches taken one by one."""

    def __init__(self, matches: FreshMatches, notices: list[Any]) -> None:
        self.matches, self.notices = matches, notices

    def ready(self, times: int = 1) -> None:
        self.wait_until(lambda: sum(isinstance(item, Connected) for item in self.notices) >= times)

    def wait_until(self, condition: Callable[[], bool]) -> None:
        """Iterate until the condition holds, and see no fresh match meanwhile."""
        wait_until(lambda: self.matches.take(0.01) is None and condition(), interval=0.0)

    def next(self) -> FreshMatch:
        fresh = self.matches.take(WITHIN)
        assert fresh is not None, self.matches.refused
        return fresh

    def seqs(self, until: int) -> list[int]:
        """The seqs up to a last one."""
        seqs = [self.next().match.event.seq]
        while seqs[-1] != until:
            seqs.append(self.next().match.event.seq)
        return seqs


@contextlib.contextmanager
def gate_at(address: Address, **options: Any) -> Iterator[Gate]:
    notices: list[Any] = []
    with fresh_matches(address, on_notice=notices.append, **options) as matches:
        yield Gate(matches, notices)


class Hostile:
    """A broker that grants everything but `refuse`, and sends any packet."""

    def __init__(self, refuse: str = "") -> None:
        self.refuse = refuse
        self.filters: list[tuple[str, int]] = []
        self.subscribed = threading.Semaphore(0)
        self.puback = threading.Semaphore(0)
        #: An answer of the other thread's must not fall into the middle of a long packet.
        self._sending = threading.Lock()
        self._server = socket.create_server(("127.0.0.1", 0))
        self.address = Address(port=self._server.getsockname()[1])
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def __enter__(self) -> "Hostile":
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()
        self._thread.join()

    def send(self, *packets: bytes) -> None:
        with self._sending:
            self._client.sendall(b"".join(packets))

    def deliver(self, topic: str, *payloads: bytes) -> None:
        """Send messages, and wait until the inbox has them: paho acks each one after that."""
        self.send(*(publish(topic, payload, qos=1, packet_id=number) for number, payload in enumerate(payloads, 1)))
        for _ in payloads:
            assert self.puback.acquire(timeout=WITHIN)

    def hang_up(self) -> None:
        self._client.shutdown(socket.SHUT_RDWR)

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                self._client, _ = self._server.accept()
                with self._client, contextlib.suppress(OSError, IndexError):
                    self._talk(self._client.makefile("rb"))

    def _talk(self, stream: Any) -> None:
        while True:
            first, size = stream.read(1)[0], stream.read(1)[0]
            body = stream.read(size & 127 | (stream.read(1)[0] << 7 if size & 128 else 0))
            if first >> 4 == 1:
                self.send(packet(0x20, b"\0\0"))
            elif first >> 4 == 8:
                self.filters = [(name.decode(), qos[0]) for name, qos in re.findall(rb"\0.(facewire[^\0-\2]+)([\0-\2])", body[2:])]
                self.send(
                    packet(0x90, body[:2] + bytes(0x80 if self.refuse and name.endswith(self.refuse) else 1 for name, _ in self.filters))
                )
                self.subscribed.release()
            elif first >> 4 == 12:
                self.send(packet(0xD0))
            elif first >> 4 == 4:
                self.puback.release()


@pytest.mark.parametrize("engine", PARAMETERS)
class TestRealBrokers:
    def test_live_matches_arrive_at_once_and_in_order(self, engine: str, tmp_path: Path) -> None:
        with anonymous(engine, tmp_path) as address, gate_at(address) as gate, Probe(address, "lobby-1") as device:
            gate.ready()
            device.publish(STATUS, status(), retain=True)
            delays = []
            for seq in range(1, 101):
                device.publish(TOPIC, match(seq), qos=0)
                fresh = gate.next()
                delays.append(now_ms() - fresh.match.sent_at)
                assert (fresh.device, fresh.match.event.seq) == ("lobby-1", seq)
                assert fresh.age < 3
            # A wait for TCP's delayed ACK would make most of them 40 ms late.
            assert sorted(delays)[25] <= 25
            assert (gate.matches.accepted, gate.matches.refused) == (100, {})

    def test_a_retained_match_is_refused(self, engine: str, tmp_path: Path) -> None:
        with anonymous(engine, tmp_path) as address, Probe(address, "lobby-1") as device:
            device.publish(TOPIC, match(1), retain=True)
            with gate_at(address) as gate:
                gate.ready()
                device.publish(TOPIC, match(2), qos=0)
                assert gate.next().match.event.seq == 2
                assert gate.matches.refused == {"retained": 1}

    def test_a_retained_match_repeated_after_a_reconnect_is_refused(self, engine: str, tmp_path: Path) -> None:
        with anonymous(engine, tmp_path) as address, Probe(address, "lobby-1") as device, gate_at(address) as gate:
            gate.ready()
            device.publish(TOPIC, match(1), retain=True)  # live, and retained
            assert gate.next().match.event.seq == 1
            gate.matches._connection.reconnect("as a network does")
            gate.ready(2)
            device.publish(TOPIC, match(2), qos=0)
            assert gate.next().match.event.seq == 2
            assert gate.matches.refused == {"retained": 1}

    def test_each_rule_refuses_by_its_reason(self, engine: str, tmp_path: Path) -> None:
        with anonymous(engine, tmp_path) as address, gate_at(address) as gate, Probe(address, "lobby-1") as device:
            gate.ready()
            for payload in (match(1), match(1), match(3, age=60_000), match(4, held=6_000), b"\xc1"):
                device.publish(TOPIC, payload, qos=0)
            for boot in (NEW, OLD):
                device.publish(Topics().of("lobby-2", "status"), status(boot))
            device.publish(Topics().of("lobby-2", "match"), match(1, boot=OLD), qos=0)
            device.publish(STATUS, status("2" * 16, online=False))
            device.publish(TOPIC, match(5), qos=0)
            assert gate.seqs(5) == [1, 5]
            assert gate.matches.refused == {"previous_boot": 1, "repeated": 1, "late": 2, "unreadable": 1}

    def test_filters_by_device(self, engine: str, tmp_path: Path) -> None:
        with anonymous(engine, tmp_path) as address, gate_at(address, devices=["lobby-1"]) as gate, Probe(address, "d") as device:
            gate.ready()
            device.publish(Topics().of("lobby-2", "match"), match(1), qos=0)
            device.publish(TOPIC, match(2), qos=0)
            assert gate.next().match.event.seq == 2

    def test_a_consumer_needs_no_right_to_statuses(self, engine: str, tmp_path: Path) -> None:
        file = UsersFile(tmp_path / "users")
        with file.editing() as users:
            for name, role in (("gate-1", Role.CONSUMER), ("lobby-1", Role.DEVICE)):
                credentials.add(users, name, role, SECRET)
        with with_users(engine, tmp_path, file) as address:
            known = Address(address.host, address.port, "gate-1", SECRET)
            with (
                gate_at(known) as gate,
                Probe(address, "lobby-1", user="lobby-1", password=SECRET) as device,
            ):
                gate.ready()
                device.publish(TOPIC, match(1), qos=0)
                assert gate.next().match.event.seq == 1
            with gate_at(Address(address.host, address.port, "gate-1", "wrong")) as gate, pytest.raises(CredentialsRefused):
                gate.ready()


class TestHostileBroker:
    """One that upgrades QoS, sets RETAIN, repeats, delays, brings back the past and hangs up."""

    def test_it_subscribes_to_matches_at_qos_0_and_to_statuses(self) -> None:
        with Hostile() as broker, gate_at(broker.address) as gate:
            gate.ready()
            assert broker.filters == [("facewire/v1/+/match", 0), ("facewire/v1/+/status", 1)]

    def test_upgraded_retained_repeated_and_late_matches_open_no_door(self) -> None:
        with Hostile() as broker, gate_at(broker.address) as gate:
            gate.ready()
            first = match(1)
            broker.send(
                publish(TOPIC, match(9), qos=1, retain=True),
                publish(TOPIC, first, qos=1, packet_id=2),
                publish(TOPIC, first, qos=1, packet_id=2, dup=True),
                publish(TOPIC, first, retain=True),
                publish(TOPIC, match(8, age=3_001)),
                publish(TOPIC, match(7, age=10_800_000), qos=1, packet_id=3),
                publish(TOPIC, match(2)),
            )
            assert gate.seqs(2) == [1, 2]
            assert gate.matches.refused == {"retained": 2, "repeated": 1, "unproven": 1, "late": 1}

    def test_a_match_repeated_in_a_new_session_opens_no_door(self) -> None:
        with Hostile() as broker, gate_at(broker.address) as gate:
            gate.ready()
            past = [match(seq) for seq in (1, 2)]
            broker.send(*(publish(TOPIC, item) for item in past))
            assert gate.seqs(2) == [1, 2]
            broker.hang_up()
            gate.ready(2)
            broker.send(*(publish(TOPIC, item, qos=1) for item in past), publish(TOPIC, match(3)))
            assert gate.next().match.event.seq == 3
            assert gate.matches.refused == {"repeated": 2}
            assert [type(item) for item in gate.notices] == [Connected, Disconnected, Connected]

    def test_the_former_keyword_told_still_works(self) -> None:
        notices: list[Any] = []
        with Hostile() as broker, fresh_matches(broker.address, told=notices.append) as matches:
            wait_until(lambda: matches.take(0.01) is None and notices == [Connected()])

    def test_an_older_boot_that_the_broker_repeats_opens_no_door(self) -> None:
        with Hostile() as broker, gate_at(broker.address) as gate:
            gate.ready()
            broker.send(
                publish(STATUS, status(NEW)), publish(STATUS, status(OLD, age=60_000), retain=True), publish(TOPIC, match(1, boot=OLD))
            )
            broker.send(publish(STATUS, status(OLD, age=60_000)), publish(TOPIC, b"the end"))
            gate.wait_until(lambda: gate.matches.refused["unreadable"] == 1)
            assert gate.matches.refused["previous_boot"] == 1

    def test_a_stream_late_by_a_constant_delay_is_never_learned(self) -> None:
        limits = Limits(steady=0.001, proof="steady")
        with Hostile() as broker, gate_at(broker.address, limits=limits) as gate:
            gate.ready()
            broker.send(*(publish(TOPIC, match(seq, age=40_000)) for seq in range(1, 101)), publish(TOPIC, match(101)))
            assert gate.next().match.event.seq == 101
            assert gate.matches.refused == {"unproven": 100}

    def test_a_clock_that_is_plainly_wrong_is_learned(self) -> None:
        with Hostile() as broker, gate_at(broker.address, limits=Limits(steady=0.001, proof="steady")) as gate:
            gate.ready()
            for seq in range(1, 31):
                broker.send(publish(TOPIC, match(seq, age=-3_600_000)))
                gate.matches.take(0.01)
            assert 15 < gate.matches.accepted < 30
            assert gate.matches.refused == {"unproven": 30 - gate.matches.accepted}

    def test_the_gate_goes_on_without_statuses_if_the_broker_refuses_them(self) -> None:
        with Hostile(refuse="/status") as broker, gate_at(broker.address) as gate:
            gate.ready()
            assert [name for name, _ in broker.filters] == ["facewire/v1/+/match"]
            broker.send(publish(TOPIC, match(1)))
            assert gate.next().match.event.seq == 1
            assert [type(item) for item in gate.notices] == [Connected]

    def test_the_gate_raises_if_the_broker_refuses_matches(self) -> None:
        with Hostile(refuse="/match") as broker, gate_at(broker.address) as gate, pytest.raises(BrokerError, match="match refused"):
            gate.ready()


class TestIteration:
    def test_it_survives_the_end_of_a_broker(self, new_mosquitto: Callable[..., Mosquitto]) -> None:
        broker = new_mosquitto()
        with gate_at(broker.address) as gate:
            gate.ready()
            broker.kill()
            broker.start()
            gate.ready(2)
            with Probe(broker.address, "lobby-1") as device:
                device.publish(TOPIC, match(1), qos=0)
                assert gate.next().match.event.seq == 1

    def test_stop_ends_it_from_another_thread(self) -> None:
        with Hostile() as broker, fresh_matches(broker.address) as matches:
            threading.Timer(0.05, matches.stop).start()
            assert list(matches) == []
            assert list(matches) == []
            assert matches.take(5) is None

    def test_stop_may_come_before_the_start(self) -> None:
        matches = fresh_matches(Address(port=1))
        matches.stop()
        with matches:
            assert list(matches) == []

    def test_it_yields_fresh_matches(self) -> None:
        with Hostile() as broker, fresh_matches(broker.address) as matches:
            assert broker.subscribed.acquire(timeout=WITHIN)
            broker.send(*(publish(TOPIC, match(seq)) for seq in (1, 2, 3)))
            for fresh in matches:
                if fresh.match.event.seq == 3:
                    matches.stop()
            assert matches.accepted == 3

    def test_a_match_that_waited_too_long_for_its_consumer_is_late(self, monkeypatch: pytest.MonkeyPatch) -> None:
        with Hostile() as broker, gate_at(broker.address) as gate:
            gate.ready()
            broker.send(publish(TOPIC, match(1)))
            gate.next()
            broker.deliver(TOPIC, match(2))
            # It is judged when it is taken: our clocks have gone on by 6 s meanwhile.
            monkeypatch.setattr(consumer, "elapsed_ms", lambda: elapsed_ms() + 6_000)
            monkeypatch.setattr(consumer, "now_ms", lambda: now_ms() + 6_000)
            assert gate.matches.take(0) is None
            assert gate.matches.refused == {"late": 1}

    def test_a_finished_thread_leaves_no_match_behind(self) -> None:
        before = threading.active_count()
        with Hostile() as broker:
            with gate_at(broker.address) as gate:
                gate.ready()
            assert threading.active_count() == before + 1  # the hostile one
        assert threading.active_count() == before


def test_the_asynchronous_iteration_yields_and_stops() -> None:
    async def main(broker: Hostile) -> list[int]:
        seqs = []
        async with fresh_matches_async(broker.address) as matches:
            assert await asyncio.to_thread(broker.subscribed.acquire, timeout=WITHIN)
            broker.send(*(publish(TOPIC, match(seq)) for seq in (1, 1, 2)))
            async for fresh in matches:
                seqs.append(fresh.match.event.seq)
                if fresh.match.event.seq == 2:
                    threading.Thread(target=matches.stop).start()
            assert matches.refused == {"repeated": 1}
        return seqs

    with Hostile() as broker:
        assert asyncio.run(main(broker)) == [1, 2]


def test_the_asynchronous_iteration_raises_if_the_broker_refuses() -> None:
    async def main(address: Address) -> None:
        async with fresh_matches_async(address) as matches:
            async for _ in matches:
                pass

    with Hostile(refuse="/match") as broker, pytest.raises(BrokerError):
        asyncio.run(main(broker.address))


def test_a_full_inbox_pushes_out_the_oldest_and_keeps_news() -> None:
    woken: list[int] = []
    pushed: list[bytes] = []
    inbox = DropOldestInbox(3, lambda: woken.append(1), lambda _, message: pushed.append(message.payload))
    inbox.put(Received(STATUS, b"s", 1, retain=False))
    for number in range(5):
        inbox.put(Received(TOPIC, b"%d" % number, 0, retain=False))
    inbox.put(Refused("why"))
    taken = [inbox.take() for _ in range(5)]
    assert taken[0] == Refused("why")
    assert [item[1].payload for item in taken if isinstance(item, tuple)] == [b"2", b"3", b"4"]
    assert taken[4] is None
    assert (pushed, len(woken)) == ([b"s", b"0", b"1"], 7)


def test_the_inbox_is_bounded_in_bytes() -> None:
    pushed: list[int] = []
    inbox = DropOldestInbox(100, lambda: None, lambda _, message: pushed.append(len(message.payload)), most_bytes=10)
    for size in (4, 5, 6, 3):
        inbox.put(Received(TOPIC, bytes(size), 0, retain=False))
    taken = [inbox.take() for _ in range(3)]
    assert [len(item[1].payload) for item in taken if isinstance(item, tuple)] == [6, 3]
    assert pushed == [4, 5]
    inbox.put(Received(TOPIC, bytes(10), 0, retain=False))
    assert inbox.take() is not None


def test_an_overrun_is_counted() -> None:
    with Hostile() as broker, gate_at(broker.address, inbox=2) as gate:
        gate.ready()
        broker.deliver(TOPIC, *(match(seq) for seq in range(1, 11)))
        assert gate.seqs(10) == [9, 10]
        assert gate.matches.refused == {"overrun": 8}


def test_a_match_that_was_pushed_out_shows_its_clock_and_its_boot() -> None:
    with Hostile() as broker, gate_at(broker.address, inbox=2) as gate:
        gate.ready()
        # The clock is 4 s fast: prompt matches show it, and later ones seem to be 2 s old at 6 s.
        broker.deliver(TOPIC, match(1, age=-4_000), match(2, age=2_000), match(3, age=2_000))
        assert gate.matches.take(0) is None
        assert gate.matches.refused == {"overrun": 1, "late": 2}


def test_a_status_that_was_pushed_out_tells_of_a_restart() -> None:
    with Hostile() as broker, gate_at(broker.address, inbox=2) as gate:
        gate.ready()
        broker.send(publish(TOPIC, match(1, boot=OLD)))
        assert gate.next().match.event.seq == 1
        broker.deliver(STATUS, status(NEW))
        broker.deliver(TOPIC, match(2, boot=OLD), match(3, boot=OLD))
        assert gate.matches.take(0) is None
        assert gate.matches.refused == {"previous_boot": 2}


def test_a_gate_needs_no_database() -> None:
    code = "import sys, facewire_gate; assert not {'facewire_platform', 'peewee', 'rich', 'amqtt', 'asyncio', 'click'} & sys.modules.keys()"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("name", ["fresh_matches", "fresh_matches_async"])
def test_the_old_import_works_and_warns_once(name: str) -> None:
    code = (
        "import sys, facewire_platform; assert not {'paho', 'facewire_gate'} & sys.modules.keys()\n"
        f"from facewire_platform import {name}\nfrom facewire_platform import {name} as again\n"
        f"import facewire_gate; assert again is {name} is facewire_gate.{name}"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stderr.count(f"DeprecationWarning: facewire_platform.{name} has moved: from facewire_gate import {name}") == 1


def test_the_platform_has_nothing_else_of_the_gate() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        facewire_platform.nothing  # noqa: B018


@pytest.mark.process
class TestTail:
    def test_fresh_matches_are_shown_and_all_others_counted(self) -> None:
        with Hostile() as broker, tail_of(broker.address.port, "--fresh", "-C", "2", "-W", "30") as tail:
            tail.ready()
            broker.send(publish(TOPIC, match(1)), publish(TOPIC, match(1)), publish(TOPIC, match(3), retain=True), publish(TOPIC, match(2)))
            rows = [tail.row(), tail.row()]
            assert [row["event"]["seq"] for row in rows] == [1, 2]
            assert {"received_at", "topic", "device", "kind", "qos", "retain", "epoch", "boot", "sent_at"} < rows[0].keys()
            assert tail.ended() == 0
            tail.wait_for("refused so far: 1 repeated, 1 retained")

    def test_the_proof_may_be_stricter(self) -> None:
        with Hostile() as broker, tail_of(broker.address.port, "--fresh", "--proof", "round_trip", "-W", "30", "-C", "1") as tail:
            tail.ready()
            silent, speaks = match(1), match(2, said=(0, 5))
            broker.send(publish(TOPIC, silent), publish(TOPIC, speaks))
            assert tail.row()["event"]["seq"] == 2
            tail.wait_for("refused so far: 1 unproven")

    def test_a_line_for_people(self) -> None:
        with Hostile() as broker, tail_of(broker.address.port, "--fresh", "-o", "pretty", "-C", "1", "-d", "lobby-1") as tail:
            tail.ready()
            broker.send(publish(TOPIC, match(1)))
            assert "match    lobby-1  seq 1  score 0.9  Ada (1) employee  age " in tail.line()
            assert tail.ended() == 0

    @pytest.mark.parametrize("fresh", [[], ["--fresh"]])
    def test_little_is_kept_of_what_nobody_reads(self, fresh: list[str]) -> None:
        with Hostile() as broker:
            peak = flooded_while_nobody_reads(broker, [FACEWIRE, "tail", "-p", str(broker.address.port), *fresh])
            assert peak < 256 * 1024 * 1024, peak

    def test_code_124_when_the_wait_is_over_and_2_with_a_kind(self) -> None:
        with Hostile() as broker, tail_of(broker.address.port, "--fresh", "-W", "0.5") as tail:
            tail.ready()
            assert tail.ended() == 124
        for wrong in (["--fresh", "--kind", "ack"], ["--proof", "clock"]):
            with tail_of(1, *wrong) as tail:
                assert tail.ended() == 2


@contextlib.contextmanager
def started(*command: str, **environment: str) -> Iterator[Tail]:
    with subprocess.Popen(
        command, env={**os.environ, "PYTHONUNBUFFERED": "1", **environment}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            yield Tail(process)
        finally:
            process.kill()


def flooded_while_nobody_reads(broker: Hostile, command: list[str]) -> int:
    """Start a command, never read its output, and send it 250 MB of matches.

    Returns the most memory that it took, in bytes.
    """
    unread, out = os.pipe()
    with subprocess.Popen(command, stdout=out, stderr=subprocess.DEVNULL) as process:
        try:
            assert broker.subscribed.acquire(timeout=WITHIN)
            for seq in range(1, 2_501):
                broker.send(publish(TOPIC, match(seq, who="x" * 100_000)))
            broker.send(publish(STATUS, status(), qos=1, packet_id=1))
            assert broker.puback.acquire(timeout=120)
            memory = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{process.pid}/status").read_text())
            assert memory
            return int(memory[1]) * 1024
        finally:
            process.kill()
            os.close(unread)
            os.close(out)


@pytest.fixture(scope="module")
def node_gate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """docs/gate.mjs beside its two packages."""
    if not (shutil.which("node") and shutil.which("npm")):
        pytest.skip("node and npm are not installed")
    folder = tmp_path_factory.mktemp("node")
    (folder / "package.json").write_text(json.dumps({"private": True}))
    install = ["npm", "install", "--prefer-offline", "--no-audit", "--no-fund", "--ignore-scripts", "mqtt@5", "@msgpack/msgpack@3"]
    try:
        done = subprocess.run(install, cwd=folder, capture_output=True, text=True, timeout=120, check=False)
    except subprocess.TimeoutExpired:
        pytest.skip("npm cannot reach its registry")
    if done.returncode:
        pytest.skip(f"npm cannot install mqtt and @msgpack/msgpack: {done.stderr.strip()[-200:]}")
    shutil.copy(DOCS / "gate.mjs", folder)
    return folder / "gate.mjs"


def test_a_gate_that_restarts_acts_on_no_match_twice_if_it_has_a_file(tmp_path: Path) -> None:
    """A repeated match is fresh for seconds: without the file, a restart opens the door again."""
    repeated = match(7)
    for memory, again in ((None, [7, 8]), (tmp_path / "acted", [8])):
        for expected in ([7], again):
            with Hostile() as broker, gate_at(broker.address, memory=memory) as gate:
                gate.ready()
                broker.send(publish(TOPIC, repeated), publish(TOPIC, match(8)) if expected != [7] else b"")
                assert gate.seqs(expected[-1]) == expected


@pytest.mark.parametrize("engine", PARAMETERS)
def test_a_gate_of_a_narrowed_credential_opens_at_its_own_doors_only(engine: str, tmp_path: Path) -> None:
    """A gate of 150 devices, over three times what one SUBSCRIBE may hold: 300 filters."""
    file, own = UsersFile(tmp_path / "users"), ["lobby-1", *(f"side-{number}" for number in range(149))]
    with file.editing() as users:
        credentials.add(users, "gate", Role.CONSUMER, SECRET, status=True, devices=own)
        for device in ("lobby-1", "garage"):
            credentials.add(users, device, Role.DEVICE, SECRET)
    with (
        with_users(engine, tmp_path, file) as address,
        gate_at(Address(address.host, address.port, "gate", SECRET), devices=own) as gate,
        Probe(address, "lobby-1", user="lobby-1", password=SECRET) as lobby,
        Probe(address, "garage", user="garage", password=SECRET) as garage,
    ):
        gate.ready()
        garage.publish(Topics().of("garage", "match"), match(1))
        lobby.publish(TOPIC, match(2))
        fresh = gate.next()
        assert (fresh.device, fresh.match.event.seq) == ("lobby-1", 2)
        assert gate.matches.take(0.1) is None


@pytest.mark.process
class TestDocumentation:
    @pytest.fixture
    def gate_py(self, tmp_path: Path) -> Path:
        (code,) = re.findall(r"^```python\n(.*?)^```$", (DOCS / "consumers.md").read_text(), re.MULTILINE | re.DOTALL)
        assert len(code.splitlines()) < 30
        (tmp_path / "gate.py").write_text(code)
        return tmp_path / "gate.py"

    def test_the_gate_opens_for_a_fresh_match_alone(self, gate_py: Path) -> None:
        with Hostile() as broker, started(sys.executable, str(gate_py), PORT=str(broker.address.port)) as gate:
            assert gate.line() == "Connected()"
            broker.send(publish(TOPIC, match(1, age=9_000)), publish(TOPIC, match(2, score=0.5)), publish(TOPIC, match(3)))
            assert gate.line() == "open for 3"
            gate.process.terminate()
            assert gate.line() == "accepted=2 refused={'unproven': 1}"
            assert gate.ended() == 0

    def test_the_command_works(self) -> None:
        (command,) = re.findall(r"^```sh\n(.*?)\n```$", (DOCS / "consumers.md").read_text(), re.MULTILINE | re.DOTALL)
        _, *args = command.split()
        with Hostile() as broker, started(FACEWIRE, *(arg.replace("1883", str(broker.address.port)) for arg in args)) as tail:
            tail.ready()
            broker.send(publish(TOPIC, match(1)))
            assert tail.row()["event"]["seq"] == 1
            assert tail.ended() == 0

    def test_the_gate_in_javascript_opens_for_a_fresh_match_alone(self, node_gate: Path) -> None:
        with Hostile() as broker, started("node", str(node_gate), f"mqtt://127.0.0.1:{broker.address.port}") as gate:
            gate.wait_for("connected")
            first = match(1, boot=OLD)
            as_json = messages.encode(messages.decode_match(match(5)), codec.Format.JSON)
            refused = [match(2, age=3_001), match(4, held=6_000), match(6, boot=OLD), b"\xc1", b"{}"]
            broker.send(publish(TOPIC, first), publish(TOPIC, first), publish(STATUS, status(NEW)))
            broker.send(publish(TOPIC, match(9), retain=True), *(publish(TOPIC, item) for item in refused))
            broker.send(publish(STATUS, status("2" * 16, online=False)), publish(TOPIC, as_json))
            # A clock that was seen ahead is in doubt, unless the device says how wrong it is.
            ahead = [match(1, age=-2_500), match(2), match(3, said=(0, 20)), match(4, age=1_000, said=(4_000, 20))]
            ahead.append(match(5, age=-3_600_000, said=(3_600_000, 20)))
            broker.send(*(publish(Topics().of("side", "match"), item) for item in ahead))
            assert [gate.row()["seq"] for _ in range(4)] == [1, 5, 3, 5]
            gate.process.terminate()
            reasons = {"repeated": 1, "retained": 1, "late": 3, "unproven": 2, "previous_boot": 1, "unreadable": 2}
            assert gate.row() == {"refused": reasons}

    def test_the_gate_in_javascript_keeps_little_of_what_nobody_reads(self, node_gate: Path) -> None:
        with Hostile() as broker:
            peak = flooded_while_nobody_reads(broker, ["node", str(node_gate), f"mqtt://127.0.0.1:{broker.address.port}"])
            assert peak < 256 * 1024 * 1024, peak

    @pytest.mark.mosquitto
    def test_the_gate_in_javascript_works_with_a_real_broker(self, node_gate: Path, mosquitto: Address) -> None:
        with started("node", str(node_gate), f"mqtt://127.0.0.1:{mosquitto.port}") as gate, Probe(mosquitto, "d") as device:
            gate.wait_for("connected")
            device.publish(TOPIC, match(1), qos=0)
            assert gate.row() == {"device": "lobby-1", "open": "1", "seq": 1}
