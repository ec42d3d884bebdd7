"""Hostile clients of --metrics; its server runs in this process."""

import contextlib
import logging
import socket
import threading
import time
from collections.abc import Mapping
from pathlib import Path

import pytest
from waiting import wait_until

from facewire_platform.health import scrapes
from facewire_platform.health.metrics import serve_metrics
from facewire_platform.health.scrapes import MAX_CONNECTIONS, Answer, Scrapes

pytestmark = pytest.mark.network
GET = b"GET /metrics HTTP/1.1\r\nHost: localhost:1\r\n\r\n"


class Served:
    """A server, and how many of its answers were made at the same time."""

    def __init__(self, *, own_names_only: bool = True) -> None:
        bound = socket.create_server(("127.0.0.1", 0), backlog=1_000)
        self.port, self.at_once, self._now = bound.getsockname()[1], 0, 0
        Scrapes(self._answer, own_names_only=own_names_only).serve_in_thread(bound)

    def _answer(self, asked: Mapping[str, str]) -> Answer:
        self._now += 1
        self.at_once = max(self.at_once, self._now)
        body = f"sample {asked.get('accept')}\n".encode() * 100_000
        self._now -= 1
        return {"Content-Type": "text/x"}, body

    def connect(self, sent: bytes = b"") -> socket.socket:
        opened = socket.create_connection(("127.0.0.1", self.port), 20)
        opened.sendall(sent)
        return opened

    def ask(self, sent: bytes = GET) -> bytes:
        with self.connect(sent) as opened:
            return to_its_end(opened)


def to_its_end(opened: socket.socket) -> bytes:
    received = b""
    with contextlib.suppress(ConnectionError):
        while part := opened.recv(65_536):
            received += part
    return received


def has_ended(opened: socket.socket) -> bool:
    """Whether the server has closed it, having sent nothing."""
    opened.setblocking(False)
    try:
        return opened.recv(1) == b""
    except BlockingIOError:
        return False
    except ConnectionError:
        return True


@pytest.fixture(scope="module")
def served() -> Served:
    return Served()


def test_a_scrape_is_answered_whole(served: Served) -> None:
    head, _, body = served.ask().partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 OK\r\nContent-Type: text/x\r\n")
    assert body == b"sample None\n" * 100_000
    assert b"sample a/b" in served.ask(GET.replace(b"localhost:1", b"localhost:1\r\nACCEPT: a/b "))
    assert served.ask(GET.replace(b"GET", b"HEAD")).partition(b"\r\n\r\n")[2] == b""


@pytest.mark.parametrize(("sent", "status"), [
    (b"GET / HTTP/1.1\r\nHost: evil.example\r\n\r\n", b"421"),
    (b"GET / HTTP/1.1\r\n\r\n", b"421"),
    (b"POST / HTTP/1.1\r\nHost: localhost\r\n\r\n", b"405"),
    (b"\x00\xff\r\n\r\n", b"405"),
])  # fmt: skip
def test_a_foreign_host_and_other_methods_are_refused(served: Served, sent: bytes, status: bytes) -> None:
    assert served.ask(sent)[9:12] == status


def test_an_address_that_others_reach_answers_to_any_name() -> None:
    assert Served(own_names_only=False).ask(GET.replace(b"localhost", b"platform.example"))[9:12] == b"200"


def test_idle_clients_keep_nobody_out(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each took a thread for ever."""
    monkeypatch.setattr(scrapes, "WITHIN", 120.0)  # none of them ends by itself
    before = threading.active_count()
    idle = [served.connect(sent) for _ in range(100) for sent in (b"", b"GET /metr", b"x" * 10_000)]
    for _ in range(10):
        assert served.ask()[9:12] == b"200"
    assert threading.active_count() <= before + 1  # the reading's
    # A busy server accepts them in another order than they connected.
    wait_until(lambda: sum(map(has_ended, idle)) >= len(idle) - MAX_CONNECTIONS)
    for opened in idle:
        opened.close()


def test_a_request_and_its_answer_have_little_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scrapes, "WITHIN", 0.2)
    served = Served()
    began = time.monotonic()
    with served.connect(b"GET /metrics HTTP/1.1\r\n") as opened:
        assert to_its_end(opened) == b""
    assert time.monotonic() - began >= 0.2


def test_scrapes_are_answered_one_by_one() -> None:
    served = Served()
    opened = [served.connect(GET) for _ in range(MAX_CONNECTIONS)]
    assert all(to_its_end(one)[9:12] == b"200" for one in opened)
    assert served.at_once == 1
    for one in opened:
        one.close()


@pytest.mark.parametrize(("host", "warned"), [("127.0.0.1", False), ("0.0.0.0", True), ("::1", False)])  # noqa: S104
def test_an_address_that_others_reach_is_warned_about(tmp_path: Path, host: str, warned: bool, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        port = serve_metrics(host, 0, tmp_path / "x.db")
    assert (f"everybody who can reach address={host}:{port} may read the metrics" in caplog.text) == warned
