import base64
import contextlib
import csv
import json
import os
import queue
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mosquitto_server import Mosquitto

from facewire import codec, messages
from facewire.events import Event
from facewire.messages import Ack, Batch, Match, Rejected, Status
from facewire.topics import KINDS, Kind, Topics
from facewire_cli.following import INBOX_MESSAGES, DropNewestInbox
from facewire_cli.render import SHOWN_BYTES, duration, flat, line, narrow, to_row
from facewire_cli.tail import filters
from facewire_mqtt import Address, Connected, Connection, Happening, Publication, Received

FACEWIRE = str(Path(sys.executable).with_name("facewire"))
TOPICS = Topics()
EPOCH, BOOT = "0123456789abcdef", "fedcba9876543210"
NOW_MS = 1_764_000_000_123


def event(seq: int = 17, **more: Any) -> Event:
    fields = {"timestamp": NOW_MS - 20, "score": 0.912, "identity_id": "666666", "identity_name": "小明", "person_type": 1}
    return Event(**{"seq": seq, **fields, "group_name": None, "ep_id": None, "extra": {}, **more})


MATCH = Match(EPOCH, BOOT, NOW_MS - 12, event())
BATCH = Batch(EPOCH, BOOT, 0, 3, 250, 1, (event(1), event(3, identity_id="x", score=0.5)))


def row_of(kind: Kind, message: messages.Message | bytes, *, retain: bool = False, device: str = "lobby-1") -> Any:
    payload = message if isinstance(message, bytes) else messages.encode(message)
    return to_row(TOPICS, TOPICS.of(device, kind), payload, qos=1, retain=retain, received_at=NOW_MS)


def shown(kind: Kind, message: messages.Message | bytes, *, retain: bool = False) -> str:
    """The line without its time, which is local."""
    text = line(row_of(kind, message, retain=retain))
    assert len(text.split(" ")[0]) == len("12:00:01.123")
    return text[13:]


def test_a_match_is_a_row_with_its_own_keys() -> None:
    assert row_of("match", MATCH) == {
        "received_at": NOW_MS,
        "topic": "facewire/v1/lobby-1/match",
        "device": "lobby-1",
        "kind": "match",
        "qos": 1,
        "retain": False,
        "epoch": EPOCH,
        "boot": BOOT,
        "sent_at": NOW_MS - 12,
        "event": {
            "seq": 17,
            "timestamp": NOW_MS - 20,
            "score": 0.912,
            "identity_id": "666666",
            "identity_name": "小明",
            "person_type": 1,
        },
    }


def test_a_match_is_a_line() -> None:
    assert shown("match", MATCH) == "match    lobby-1  seq 17  score 0.912  小明 (666666) employee  age 12 ms"
    stranger = MATCH.event._replace(identity_id="", identity_name="", person_type=9, score=82.4)
    assert shown("match", Match(EPOCH, BOOT, NOW_MS, stranger), retain=True).endswith("score 82.4  - (-) type 9  age 0 ms  RETAINED")


def test_a_batch_is_a_row_with_its_good_and_bad_events() -> None:
    wire = messages.to_map(BATCH) | {"cursor": 5}
    wire["events"].append({"seq": 4, "timestamp": 1})
    row = row_of("history", codec.encode(wire))
    assert (row["after"], row["cursor"], row["head"], row["oldest"]) == (0, 5, 250, 1)
    assert [item["seq"] for item in row["events"]] == [1, 3]
    assert row["bad"] == [{"seq": 4, "reason": "score is missing: a finite number"}]
    assert line(row).endswith("seqs 1..5 (2 events)  head 250  lag 245  lost 2  bad 1: seq 4: score is missing: a finite number")


def test_a_batch_is_a_line() -> None:
    events = tuple(event(seq) for seq in range(1, 101))
    assert shown("history", Batch(EPOCH, BOOT, 0, 100, 250, 1, events)) == "history  lobby-1  seqs 1..100 (100 events)  head 250  lag 150"
    assert shown("history", Batch(EPOCH, BOOT, 250, 250, 250, 1, ())) == "history  lobby-1  probe at 250  head 250  lag 0"
    assert row_of("history", Batch(EPOCH, BOOT, 250, 250, 250, 1, ()))["events"] == []


def test_a_refused_batch_is_shown_with_its_key_and_reason() -> None:
    row = row_of("history", codec.encode(messages.to_map(BATCH) | {"after": 9}))
    assert (row["error"], row["epoch"], row["boot"], row["cursor"]) == ("cursor 3 is before after 9", EPOCH, BOOT, 3)
    assert "ERROR cursor 3 is before after 9" in line(row)


def test_an_ack_is_a_line() -> None:
    assert shown("ack", Ack(EPOCH, BOOT, 100, 100, "s")) == "ack      lobby-1  key 100  cursor 100"
    full = Ack(EPOCH, BOOT, 100, 90, "s", conflict=91, rejected=(Rejected(7, "bad"),), retry_after=5000, error="no")
    assert shown("ack", full).endswith("cursor 90  conflict at 91  rejected 1: seq 7: bad  retry after 5.0 s  error: no")


def test_a_status_is_a_line() -> None:
    status = Status(BOOT, online=True, at=NOW_MS, epoch=EPOCH, head=250, cursor=100, dropped=0, threshold=0.8, version="0.1")
    assert shown("status", status, retain=True) == (
        f"status   lobby-1  online  head 250  cursor 100  lag 150  dropped 0  threshold 0.8  version 0.1  boot {BOOT}"
    )
    assert shown("status", Status(BOOT, online=False, at=NOW_MS)) == f"status   lobby-1  offline  boot {BOOT}"


@pytest.mark.parametrize("kind", KINDS)
def test_an_undecodable_message_is_one_row_with_the_reason(kind: Kind) -> None:
    payload = b"\xc1\x1b[2J" * 40
    row = row_of(kind, payload)
    assert (row["device"], row["kind"], row["size_bytes"]) == ("lobby-1", kind, len(payload))
    assert row["error"].startswith("not msgpack")
    assert base64.b64decode(row["payload"]) == payload[:SHOWN_BYTES]
    assert f"ERROR {row['error']}  {len(payload)} bytes  " in line(row)


@pytest.mark.parametrize("topic", ["facewire/v1/lobby 1/match", "facewire/v1/-/status", "else", "", "facewire/v1/\x1b[2J/match"])
def test_a_foreign_topic_is_one_row_with_the_reason(topic: str) -> None:
    row = to_row(TOPICS, topic, b"", qos=0, retain=False, received_at=NOW_MS)
    assert (row["device"], row["topic"], row["size_bytes"]) == (None, topic, 0)
    assert "is not facewire/v1/DEVICE/" in row["error"]
    assert "\x1b" not in line(row)


def test_a_name_cannot_drive_the_terminal() -> None:
    evil = Match(EPOCH, BOOT, NOW_MS, event(identity_name="\x1b]0;owned\x07\r\nforged line\x9b2J\u202e"))
    assert r"\x1b]0;owned\x07\x0d\x0aforged line\x9b2J\u202e (666666)" in shown("match", evil)


@given(st.sampled_from(KINDS), st.binary(max_size=200), st.text(max_size=30), st.booleans())
def test_any_message_becomes_exactly_one_line(kind: Kind, payload: bytes, name: str, as_json: bool) -> None:
    for topic in (f"facewire/v1/{name}/{kind}", f"facewire/v1/d/{kind}"):
        row = to_row(TOPICS, topic, b"{" + payload if as_json else payload, qos=0, retain=True, received_at=NOW_MS)
        text = line(row)
        assert text.isprintable() or "\n" not in text
        assert flat(row)["topic"] == topic


def test_a_person_and_a_score_choose_events() -> None:
    match, batch = row_of("match", MATCH), row_of("history", BATCH)
    assert narrow(match, "666666", 0.9) == match
    assert narrow(match, "666666", 0.95) is None
    assert narrow(match, "x", None) is None
    chosen = narrow(batch, "x", None)
    assert chosen is not None
    assert [item["seq"] for item in chosen["events"]] == [3]
    assert line(chosen).endswith("seqs 1..3 (1 of 2 events)  head 250  lag 247  lost 1")
    assert narrow(batch, None, 2.0) is None
    assert narrow(row_of("status", b"garbage"), "x", None) is None
    assert narrow(batch, None, None) == batch


@pytest.mark.parametrize(
    ("ms", "text"),
    [
        (0, "0 ms"),
        (-15, "-15 ms"),
        (1500, "1.5 s"),
        (90_000, "1 m 30 s"),
        (7_260_000, "2 h 1 m"),
        (-(10**9), "-11 d 13 h"),
        (2**62, "53375995583 d 15 h"),
    ],
)
def test_an_age_is_shown_in_units_that_fit(ms: int, text: str) -> None:
    assert duration(ms) == text


def test_devices_and_kinds_choose_what_is_subscribed() -> None:
    assert filters(TOPICS, (), ()) == [(f"facewire/v1/+/{kind}", 0 if kind == "match" else 1) for kind in KINDS]
    assert filters(TOPICS, ("a", "b", "a"), ("ack",)) == [("facewire/v1/a/ack", 1), ("facewire/v1/b/ack", 1)]


def test_a_full_inbox_counts_dropped_messages_and_keeps_all_other_happenings() -> None:
    inbox = DropNewestInbox(2)
    for number in range(5):
        inbox.put(Received("t", b"%d" % number, 0, retain=False))
    inbox.put(Connected())
    items = [inbox.get(0.0) for _ in range(4)]
    assert [item and type(item[1]) for item in items] == [Received, Received, Connected, None]
    assert inbox.dropped == 3


def test_the_inbox_is_bounded_in_bytes_and_has_room_again_for_each_message_taken() -> None:
    inbox = DropNewestInbox(100, most_bytes=10)
    for size in (6, 6, 4, 1):
        inbox.put(Received("t", bytes(size), 0, retain=False))
    inbox.put(Connected())
    assert inbox.dropped == 2
    assert inbox.get(0.0)
    inbox.put(Received("t", bytes(6), 0, retain=False))
    assert inbox.dropped == 2


class Tail:
    """A running `facewire tail`."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.out: queue.SimpleQueue[str] = queue.SimpleQueue()
        self.notices: queue.SimpleQueue[str] = queue.SimpleQueue()
        assert process.stderr
        self.pump(process.stderr, self.notices)
        if process.stdout:
            self.pump(process.stdout, self.out)

    @staticmethod
    def pump(stream: Any, into: "queue.SimpleQueue[str]") -> None:
        def run() -> None:
            for text in stream:
                into.put(text.rstrip("\n"))

        threading.Thread(target=run, daemon=True).start()

    def wait_for(self, text: str) -> str:
        while text not in (notice := self.notices.get(timeout=15)):
            pass
        return notice

    def ready(self) -> "Tail":
        self.wait_for("connected to")
        return self

    def line(self) -> str:
        return self.out.get(timeout=15)

    def row(self) -> Any:
        return json.loads(self.line())

    def ended(self) -> int:
        return self.process.wait(timeout=15)


@contextlib.contextmanager
def tail_of(port: int, *args: str, stdout: int = subprocess.PIPE) -> Iterator[Tail]:
    command = [FACEWIRE, "tail", "-p", str(port), *args]
    with subprocess.Popen(
        command, stdout=stdout, stderr=subprocess.PIPE, text=True, encoding="utf-8", env={**os.environ, "TZ": "UTC"}
    ) as process:
        try:
            yield Tail(process)
        finally:
            process.kill()


@contextlib.contextmanager
def publisher(address: Address) -> Iterator[Callable[[str, bytes], None]]:
    up = threading.Event()

    def handle(happening: Happening) -> None:
        if isinstance(happening, Connected):
            up.set()

    def publish(topic: str, payload: bytes) -> None:
        assert connection.publish(Publication(topic, payload))

    connection = Connection(address, "publisher", [], handle)
    connection.start()
    try:
        assert up.wait(15)
        yield publish
    finally:
        connection.close()


real = [pytest.mark.network, pytest.mark.mosquitto, pytest.mark.process]


class TestReal:
    """The console script and Mosquitto."""

    pytestmark = real

    def test_json_lines_on_a_pipe_and_code_0_at_the_count(self, mosquitto: Address) -> None:
        with tail_of(mosquitto.port, "-C", "4", "-W", "30") as tail, publisher(mosquitto) as publish:
            tail.ready()
            publish(TOPICS.of("lobby-1", "match"), messages.encode(MATCH))
            publish(TOPICS.of("lobby-1", "history"), messages.encode(BATCH))
            publish(TOPICS.of("lobby-1", "ack"), b"\x1b[2J\xff")
            publish(TOPICS.of("lobby-1", "status"), messages.encode(Status(BOOT, online=True, at=1), codec.Format.JSON))
            rows = [tail.row() for _ in range(4)]
            assert [row["kind"] for row in rows] == ["match", "history", "ack", "status"]
            assert rows[0]["event"]["identity_name"] == "小明"
            assert "size_bytes" in rows[2]
            assert tail.ended() == 0

    def test_pretty_lines_show_escape_sequences(self, mosquitto: Address) -> None:
        with tail_of(mosquitto.port, "-o", "pretty", "-C", "2") as tail, publisher(mosquitto) as publish:
            tail.ready()
            publish(TOPICS.of("d", "match"), messages.encode(Match(EPOCH, BOOT, NOW_MS, event(identity_name="\x1b[31m\nx"))))
            publish(TOPICS.of("d", "match"), b"garbage")
            assert r"\x1b[31m\x0ax (666666) employee" in tail.line()
            assert "ERROR " in tail.line()
            assert tail.ended() == 0

    def test_csv_has_a_header_and_a_row_a_message(self, mosquitto: Address) -> None:
        with tail_of(mosquitto.port, "-o", "csv", "-C", "1") as tail, publisher(mosquitto) as publish:
            tail.ready()
            publish(TOPICS.of("d", "match"), messages.encode(MATCH))
            (row,) = csv.DictReader([tail.line(), tail.line()])
            assert (row["device"], row["seq"], row["identity_name"]) == ("d", "17", "小明")

    def test_filters_by_device_kind_and_person(self, mosquitto: Address) -> None:
        args = ("-d", "a", "--kind", "match", "--person", "666666", "--min-score", "0.9", "-C", "1")
        with tail_of(mosquitto.port, *args) as tail, publisher(mosquitto) as publish:
            tail.ready()
            publish(TOPICS.of("b", "match"), messages.encode(MATCH))
            publish(TOPICS.of("a", "history"), messages.encode(BATCH))
            publish(TOPICS.of("a", "match"), messages.encode(Match(EPOCH, BOOT, 0, event(1, identity_id="x"))))
            publish(TOPICS.of("a", "match"), messages.encode(Match(EPOCH, BOOT, 0, event(2, score=0.1))))
            publish(TOPICS.of("a", "match"), messages.encode(Match(EPOCH, BOOT, 0, event(3))))
            assert tail.row()["event"]["seq"] == 3
            assert tail.ended() == 0

    def test_code_124_when_the_wait_is_over(self, mosquitto: Address) -> None:
        with tail_of(mosquitto.port, "-C", "1", "-W", "1") as tail:
            assert tail.ended() == 124

    def test_code_124_after_one_notice_without_a_broker(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as server:
            port = server.getsockname()[1]
        with tail_of(port, "-W", "2") as tail:
            assert "waiting for 127.0.0.1" in tail.notices.get(timeout=15)
            assert tail.ended() == 124
            assert tail.notices.empty()

    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
    def test_a_signal_ends_it_well(self, mosquitto: Address, number: signal.Signals) -> None:
        with tail_of(mosquitto.port) as tail:
            tail.ready()
            tail.process.send_signal(number)
            assert tail.ended() == 0
            assert tail.notices.empty()

    def test_a_closed_pipe_ends_it_well_even_if_no_message_arrives(self, mosquitto: Address) -> None:
        reader, writer = os.pipe()
        with tail_of(mosquitto.port, stdout=writer) as tail, publisher(mosquitto) as publish:
            os.close(writer)
            tail.ready()
            publish(TOPICS.of("d", "match"), messages.encode(MATCH))
            assert os.read(reader, 10)
            os.close(reader)
            assert tail.ended() == 0
            assert tail.notices.empty()

    def test_it_survives_the_end_of_a_broker(self, new_mosquitto: Callable[..., Mosquitto]) -> None:
        broker = new_mosquitto()
        with tail_of(broker.port, "-C", "1") as tail:
            tail.ready()
            broker.kill()
            tail.wait_for("lost 127.0.0.1")
            broker.start()
            tail.ready()
            with publisher(broker.address) as publish:
                publish(TOPICS.of("d", "match"), messages.encode(MATCH))
                assert tail.row()["event"]["seq"] == 17

    def test_code_5_when_the_credentials_are_refused(self, tmp_path: Path, new_mosquitto: Callable[..., Mosquitto]) -> None:
        (tmp_path / "passwords").touch(mode=0o600)
        broker = new_mosquitto(f"password_file {tmp_path}/passwords")
        with tail_of(broker.port, "-u", "ops", "-P", "wrong") as tail:
            assert tail.ended() == 5
            assert "refused our credentials" in tail.wait_for("Error: ")

    def test_every_message_of_a_flood_is_shown_or_counted(self, new_mosquitto: Callable[..., Mosquitto]) -> None:
        broker = new_mosquitto("allow_anonymous true\nmax_queued_messages 0\nmax_inflight_messages 0")
        reader, writer = os.pipe()
        # Closed last, as closing waits for the thread that reads.
        with (
            os.fdopen(reader) as out,
            tail_of(broker.port, "--kind", "status", stdout=writer) as tail,
            publisher(broker.address) as publish,
        ):
            os.close(writer)
            tail.ready()
            payload, sent = messages.encode(Status(BOOT, online=True, at=1)), INBOX_MESSAGES + 2_000
            for _ in range(sent):
                publish(TOPICS.of("d", "status"), payload)
            Tail.pump(out, tail.out)
            counted, deadline = 0, time.monotonic() + 40
            while tail.out.qsize() + counted < sent and time.monotonic() < deadline:
                with contextlib.suppress(queue.Empty):
                    counted += int(tail.notices.get(timeout=0.1).split()[0])
            assert tail.out.qsize() + counted == sent


def test_tail_loads_no_library_that_it_does_not_need() -> None:
    code = "import sys, facewire_cli.tail, facewire_mqtt.connection; print(sorted({'rich', 'peewee', 'amqtt', 'asyncio'} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
