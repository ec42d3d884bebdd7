"""Why there is no connection is said once for each change of reason."""

import logging
import resource
import socket
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import pytest
from waiting import wait_until

from facewire_broker import embedded
from facewire_mqtt import Address, Connection, Publication
from facewire_mqtt.happenings import Connected, Disconnected, Happening
from facewire_mqtt.reasons import NEWS_AFTER, Reasons


def test_a_reason_is_news_when_it_changes_and_two_that_alternate_are_not() -> None:
    reasons = Reasons()
    assert [reasons.is_news(reason, 0.0) for reason in "aabbabab"] == [True, False, True, False, False, False, False, False]
    assert not reasons.is_news("b", NEWS_AFTER)
    assert reasons.is_news("a", NEWS_AFTER)


def test_a_new_outage_has_news_again() -> None:
    reasons = Reasons()
    assert reasons.is_news("a", 0.0)
    reasons.connected()
    assert reasons.is_news("a", 1.0)


class Attempts:
    """A connection, and how often it was tried in vain."""

    def __init__(self, address: Address, *, quiet: bool = False) -> None:
        self.failed = 0
        self.up = threading.Event()
        self.connection = Connection(address, "d", [], self._handle, quiet=quiet)
        self.connection.start()

    def _handle(self, happening: Happening) -> None:
        if isinstance(happening, Connected):
            self.up.set()
        elif isinstance(happening, Disconnected):
            self.failed += 1


@contextmanager
def attempts(address: Address, *, quiet: bool = False) -> Iterator[Attempts]:
    tried = Attempts(address, quiet=quiet)
    try:
        yield tried
    finally:
        tried.connection.close()


def closed_port() -> int:
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        return int(server.getsockname()[1])


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [
        record.getMessage().partition("reason=")[2] for record in caplog.records if record.getMessage().startswith("no connection broker=")
    ]


@pytest.mark.network
def test_a_broker_that_refuses_is_said_once_and_again_after_a_session(caplog: pytest.LogCaptureFixture) -> None:
    port = closed_port()
    with attempts(Address(port=port)) as tried:
        wait_until(lambda: tried.failed >= 3)
        assert said(caplog) == ["Connection refused"]
        with embedded.running(port=port):
            assert tried.up.wait(20)
        wait_until(lambda: len(said(caplog)) == 2)
        assert said(caplog) == ["Connection refused"] * 2
    assert "client_id=d" in caplog.text


@pytest.mark.network
def test_a_name_that_is_not_found_and_tls_that_fails_are_named(caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    with attempts(Address(host="no-such-host.invalid")) as tried:
        wait_until(lambda: tried.failed >= 1)
    with embedded.running() as plain, attempts(Address(port=plain.port, cafile="/etc/ssl/certs/ca-certificates.crt")) as tried:
        wait_until(lambda: tried.failed >= 1)
    with attempts(Address(port=1, cafile=str(tmp_path / "missing.pem"))) as tried:
        wait_until(lambda: tried.failed >= 1)
    found, tls, missing = said(caplog)
    assert "ame" in found, found
    assert tls == "it does not speak TLS"
    assert missing == f"{tmp_path}/missing.pem: No such file or directory"


class Ended(Attempts):
    """A connection, and how its sessions ended."""

    def __init__(self, address: Address, *, quiet: bool = False) -> None:
        self.ends: list[Disconnected] = []
        super().__init__(address, quiet=quiet)

    def _handle(self, happening: Happening) -> None:
        if isinstance(happening, Disconnected):
            self.ends.append(happening)
        super()._handle(happening)


def first_end(address: Address) -> Disconnected:
    tried = Ended(address)
    try:
        wait_until(lambda: bool(tried.ends))
        return tried.ends[0]
    finally:
        tried.connection.close()


@contextmanager
def answering(answer: bytes) -> Iterator[Address]:
    """A listener that reads once, answers each client with these bytes, and hangs up."""

    def serve() -> None:
        with suppress(OSError):
            while True:
                sock, _ = server.accept()
                with sock:
                    sock.recv(1000)
                    sock.sendall(answer)

    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        threading.Thread(target=serve, daemon=True).start()
        yield Address(port=server.getsockname()[1])
        server.shutdown(socket.SHUT_RDWR)


@pytest.mark.network
@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (b"", "the connection was closed before an answer: another port, or TLS (cafile)?"),
        (b"\x15\x03\x03\x00\x02\x02\x46", "the answer is not MQTT 3.1.1: another port, or TLS (cafile)?"),
    ],
    ids=["closes", "alert of TLS"],
)
def test_a_port_without_mqtt_is_told_from_no_port(answer: bytes, reason: str) -> None:
    with answering(answer) as address:
        assert first_end(address) == Disconnected(reason, "port")
    assert first_end(Address(port=closed_port())) == Disconnected("Connection refused", "nothing")


@pytest.mark.network
def test_tls_on_one_side_only_is_told(tmp_path: Path) -> None:
    tls = Address(cafile="/etc/ssl/certs/ca-certificates.crt")
    with answering(b"HTTP/1.1 400 Bad Request\r\n\r\n") as address:
        assert first_end(replace(tls, port=address.port)) == Disconnected("it does not speak TLS", "port")
    with embedded.running() as plain:
        assert first_end(replace(tls, port=plain.port)) == Disconnected("it does not speak TLS", "port")


@pytest.mark.network
def test_the_end_of_a_broker_is_told_plainly() -> None:
    with embedded.running() as address:
        tried = Ended(address)
        assert tried.up.wait(20)
    try:
        wait_until(lambda: bool(tried.ends))
        assert tried.ends[0] == Disconnected("the broker closed the connection", "broker")
    finally:
        tried.connection.close()


@pytest.mark.network
def test_no_descriptor_left_is_said(caplog: pytest.LogCaptureFixture) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    opened: list[socket.socket] = []
    with embedded.running() as broker:
        resource.setrlimit(resource.RLIMIT_NOFILE, (120, hard))
        try:
            with suppress(OSError):
                while True:
                    opened.append(socket.socket())
            with attempts(broker) as tried:
                wait_until(lambda: tried.failed >= 1)
        finally:
            for each in opened:
                each.close()
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert said(caplog) == ["Too many open files"]


@pytest.mark.network
def test_a_quiet_connection_leaves_the_saying_to_its_handler(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    with attempts(Address(port=closed_port()), quiet=True) as tried:
        wait_until(lambda: tried.failed >= 1)
        assert not tried.connection.publish(Publication("t", b""))
    assert said(caplog) == []
