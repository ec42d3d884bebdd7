"""The process with the connection: its messages, its replacement if it fails, and its end."""

import logging
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from mqtt_probe import SUBACK, Probe, publish, subscribe
from platform_model import batch
from processes import children
from waiting import WITHIN, wait_until

import facewire_platform.intake.receiver
from facewire.messages import encode
from facewire_cli.logs import split
from facewire_mqtt import Address, Connected, Disconnected, Publication
from facewire_platform.intake.decoder import pack
from facewire_platform.intake.inbox import Delivery, Inbox
from facewire_platform.intake.receiver import Receiver, Subscriber, _ForWorker
from facewire_platform.store.rows import CopyRows

pytestmark = [pytest.mark.process, pytest.mark.network, pytest.mark.mosquitto]

HISTORY, MATCH, ACK = (f"facewire/v1/d/{kind}" for kind in ("history", "match", "ack"))
BATCH = encode(batch(0, 2, 1, 2))
NOBODY = Address(port=1)


def receiver_at(address: Address) -> Receiver:
    return Receiver(Subscriber(address, "receiver", [(HISTORY, 1), (MATCH, 0)], CopyRows))


@pytest.fixture
def receiver(mosquitto: Address, monkeypatch: pytest.MonkeyPatch) -> Iterator[Receiver]:
    monkeypatch.setattr(facewire_platform.intake.receiver, "RETRY", 0.0)
    made = receiver_at(mosquitto)
    wait_until_connected(made)
    yield made
    made.close([])


@pytest.fixture
def probe(mosquitto: Address) -> Iterator[Probe]:
    with Probe(mosquitto, "probe") as made:
        yield made


def exchanges(receiver: Receiver) -> Iterator[Delivery]:
    """The exchanges of at most `WITHIN` seconds."""
    deadline = time.monotonic() + WITHIN
    while time.monotonic() < deadline:
        yield receiver.exchange([], 9)


def wait_until_connected(receiver: Receiver) -> None:
    assert any(Connected() in delivery.news for delivery in exchanges(receiver))


def pid(worker: int | None = None) -> int:
    """The receiver of a worker, such as this process."""
    found: list[int] = []

    def has_one() -> bool:
        found[:] = children(worker or os.getpid(), facewire_platform.intake.receiver.__name__)
        return len(found) == 1

    wait_until(has_one)
    return found[0]


def has_ended(process: int) -> bool:
    try:
        watched = os.pidfd_open(process)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([watched], [], [], WITHIN)[0])
    finally:
        os.close(watched)


def test_it_delivers_published_messages_with_batches_packed(receiver: Receiver, probe: Probe) -> None:
    probe.send(publish(HISTORY, BATCH, 1), publish(MATCH, BATCH), publish(HISTORY, b"\xc1", 1, packet_id=2))
    messages = []
    for delivery in exchanges(receiver):
        messages += delivery.messages
        if len(messages) == 3:
            break
    assert messages == [(HISTORY, BATCH, False, pack(BATCH, CopyRows)), (MATCH, BATCH, False, None), (HISTORY, b"\xc1", False, None)]


def test_it_publishes_in_exchanges_and_when_it_closes(receiver: Receiver, probe: Probe) -> None:
    probe.send(subscribe((ACK, 1)))
    probe.wait(SUBACK)
    receiver.exchange([Publication(ACK, b"1"), Publication(ACK, b"2")], 0)
    process = pid()
    receiver.close([Publication(ACK, b"3")])
    assert [probe.message().payload for _ in range(3)] == [b"1", b"2", b"3"]
    assert has_ended(process)


def test_a_process_that_died_is_replaced(receiver: Receiver, probe: Probe) -> None:
    first = pid()
    os.kill(first, signal.SIGKILL)
    assert has_ended(first)
    delivery = receiver.exchange([Publication(ACK, b"lost")], 9)
    assert [type(news) for news in delivery.news] == [Disconnected]
    wait_until_connected(receiver)
    assert pid() != first
    probe.send(publish(MATCH, b"x"))
    assert any(delivery.messages for delivery in exchanges(receiver))


def test_a_process_that_is_stuck_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(facewire_platform.intake.receiver, "PATIENCE", 0.05)
    for most in (1, 1_000):  # fits into the socket's buffer, or not
        receiver = receiver_at(NOBODY)
        receiver._running()
        stuck = pid()
        os.kill(stuck, signal.SIGSTOP)
        delivery = receiver.exchange([Publication(ACK, bytes(1_000))] * most, 0)
        assert [type(news) for news in delivery.news] == [Disconnected]
        assert has_ended(stuck)
        receiver.close([])


def test_a_process_that_cannot_start_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(facewire_platform.intake.receiver, "RETRY", 0.0)
    receiver = receiver_at(NOBODY)
    with monkeypatch.context() as context:
        context.setattr(sys, "executable", "/nowhere/python")
        (news,) = receiver.exchange([], 9).news
    assert isinstance(news, Disconnected)
    assert "/nowhere/python" in news.reason
    (news,) = next(delivery.news for delivery in exchanges(receiver) if delivery.news)
    assert isinstance(news, Disconnected)
    assert "receiver failed" not in news.reason
    receiver.close([])


def test_a_replacement_does_not_start_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    monkeypatch.setattr(facewire_platform.intake.receiver, "RETRY", 1000.0)
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    monkeypatch.setattr(time, "sleep", slept.append)
    receiver = receiver_at(NOBODY)
    for _ in range(2):
        receiver.exchange([], 0)
    first, second = slept
    assert first == 0.0
    assert second > 900.0


def test_the_process_ends_when_its_worker_is_killed(mosquitto: Address) -> None:
    program = f"""
import time
from facewire_mqtt import Address
from facewire_platform.intake.receiver import Receiver, Subscriber
from facewire_platform.store.rows import InsertRows
receiver = Receiver(Subscriber(Address(port={mosquitto.port}), "orphan", [("x", 1)], InsertRows))
receiver.exchange([], 9)
print("ready", flush=True)
time.sleep(99)
"""
    with subprocess.Popen([sys.executable, "-P", "-c", program], stdout=subprocess.PIPE, text=True) as worker:
        assert worker.stdout is not None
        assert worker.stdout.readline() == "ready\n"
        child = os.pidfd_open(pid(worker.pid))
        worker.kill()
    assert select.select([child], [], [], WITHIN)[0], "it lives on"
    os.close(child)


def test_the_process_ignores_the_signals_for_its_worker(receiver: Receiver, probe: Probe) -> None:
    os.kill(pid(), signal.SIGTERM)
    assert os.getsid(pid()) != os.getsid(0)
    probe.send(publish(MATCH, b"x"))
    for delivery in exchanges(receiver):
        assert delivery.news == []
        if delivery.messages:
            break


def test_the_list_of_processes_shows_no_password(mosquitto: Address) -> None:
    receiver = receiver_at(Address(port=mosquitto.port, username="u", password="geheim"))  # noqa: S106
    wait_until_connected(receiver)
    for shown in ("cmdline", "environ"):
        assert b"geheim" not in Path(f"/proc/{pid()}/{shown}").read_bytes()
    receiver.close([])


def test_its_log_records_reach_the_worker() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        receiver = receiver_at(Address(port=listening.getsockname()[1]))
        receiver.exchange([], 0)
        broker, _ = listening.accept()
        with broker:
            connack, suback = b"\x20\x02\x00\x00", b"\x90\x04\x00\x01\x01\x00"
            broker.sendall(connack + suback + publish(b"\xff"))  # no UTF-8
            record = next(news for delivery in exchanges(receiver) for news in delivery.news if isinstance(news, logging.LogRecord))
        receiver.close([])
    assert record.getMessage() == "ignored topic that is not UTF-8"


def test_a_log_record_can_be_sent_and_names_an_exception_only_by_its_type() -> None:
    inbox = Inbox(lambda _: None)
    with pytest.raises(ValueError, match="小明") as raised:
        int("小明")
    exc_info = (raised.type, raised.value, raised.tb)
    for record in (
        logging.LogRecord("x", logging.ERROR, "", 0, "failed broker=%s count=%d", (NOBODY, 3), exc_info),
        logging.LogRecord("x", logging.WARNING, "", 0, "plain", None, None),
    ):
        _ForWorker(inbox).handle(record)
    first, second = inbox.take(0, 0.0).news
    assert isinstance(first, logging.LogRecord)
    assert isinstance(second, logging.LogRecord)
    assert [type(arg) for arg in first.args or ()] == [str, int, str]
    assert split(first) == ("failed", {"broker": "127.0.0.1:1", "count": 3, "error": "ValueError"})
    assert first.exc_info is None
    assert second.getMessage() == "plain"
