"""Hostile clients of the page: real processes, real sockets, and what the others notice of it.

`make hostile` runs it with more (FACEWIRE_WEB_EVENTS).
"""

import contextlib
import logging
import os
import socket
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import httpx
import pytest
from facewire_process import Running
from platform_model import batch
from platform_store import event_at
from web_site import Site

from facewire_platform.store.writer import Message, open_store
from facewire_system.clock import now_ms
from facewire_web.turns import MAX_BEGUN_EACH, MAX_WAITING_EACH

log = logging.getLogger(__name__)
pytestmark = [pytest.mark.network, pytest.mark.process]

EVENTS: Final = int(os.environ.get("FACEWIRE_WEB_EVENTS", "20000"))
DAY: Final = 86_400_000
TOKEN: Final = "correct-horse-battery"  # noqa: S105  # of a test
#: What others may notice, even on a busy machine: an answer takes so long at most, s.
WITHIN: Final = 30.0
#: Memory of the web process, MB.
MOST_MB: Final = 512
HOURLY: Final = "api/hourly?since=31d"
#: Behind a proxy on this machine, clients are told apart by this header.
OTHER: Final = {"x-forwarded-for": "10.9.9.9"}


def fill(folder: Path) -> None:
    """A month of events."""
    now = now_ms()
    with open_store(folder / "platform.db") as store:
        for first in range(0, EVENTS, 2_000):
            group = []
            for after in range(first, min(first + 2_000, EVENTS), 100):
                events = [
                    event_at(seq, now - 31 * DAY + seq * 31 * DAY // EVENTS, identity_id=f"p{seq % 500}")
                    for seq in range(after + 1, after + 101)
                ]
                group.append(Message("box-1", batch(after, after + 100, *events), now))
            store.store(group)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("hostile")
    fill(folder)
    with Site(folder) as site:
        yield site


class Crowd:
    """Many sockets of one client."""

    def __init__(self, url: str) -> None:
        self._address = ("127.0.0.1", int(url.rpartition(":")[2].strip("/")))
        self.sockets: list[socket.socket] = []

    def connect(self, sent: bytes, receive_buffer: int = 0) -> None:
        opened = socket.socket()
        if receive_buffer:
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        opened.connect(self._address)
        opened.sendall(sent)
        opened.settimeout(90)
        self.sockets.append(opened)

    def __enter__(self) -> "Crowd":
        return self

    def __exit__(self, *_: object) -> None:
        for opened in self.sockets:
            opened.close()


def get(path: str, *more: bytes) -> bytes:
    return b"\r\n".join([b"GET /%s HTTP/1.1" % path.encode(), b"Host: localhost", *more, b"", b""])


def slowest(site: Site, path: str, times: int = 10) -> float:
    """The slowest of some answers to another client, each over a new connection, s."""
    took = []
    with httpx.Client(headers=OTHER | {"connection": "close"}, timeout=60) as client:
        for _ in range(times):
            began = time.monotonic()
            answer = client.get(site.url + path)
            took.append(time.monotonic() - began)
            assert answer.status_code == 200, answer.text
    return max(took)


def peak_mb(site: Site) -> int:
    """The most memory that the web process had."""
    pid = site.platform.process.pid
    children = [child for task in Path(f"/proc/{pid}/task").iterdir() for child in (task / "children").read_text().split()]
    (web,) = (child for child in children if "spawn_main" in Path(f"/proc/{child}/cmdline").read_text())
    status = Path(f"/proc/{web}/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")) // 1024


def test_idle_sockets_starve_nobody_and_end(site: Site) -> None:
    quiet = slowest(site, "healthz")
    with Crowd(site.url) as crowd:
        for number in range(600):
            crowd.connect(get("healthz")[: 20 * (number % 2)])
        for path in ("healthz", "api/events?limit=10"):
            busy = slowest(site, path)
            log.info("600 idle sockets: %s %.2f s, quiet healthz %.2f s", path, busy, quiet)
            assert busy < WITHIN
        began = time.monotonic()
        for opened in crowd.sockets:
            with contextlib.suppress(ConnectionError):
                assert opened.recv(1) == b""
        assert time.monotonic() - began < 60


def test_abandoned_questions_are_not_answered(site: Site) -> None:
    with Crowd(site.url) as crowd:
        for number in range(400):
            crowd.connect(get(f"{HOURLY}&min_score=0.{number + 1}"))
            crowd.sockets.pop().close()
    began = time.monotonic()
    busy = slowest(site, "api/events?limit=10", 3)
    httpx.get(site.url + HOURLY, headers=OTHER, timeout=60).raise_for_status()
    log.info("after 400 abandoned questions: events %.2f s, a month of hours in %.2f s", busy, time.monotonic() - began)
    assert busy < WITHIN


def test_one_client_cannot_have_all_turns(site: Site) -> None:
    with Crowd(site.url) as crowd:
        for _ in range(400):
            # Not the client of the test before, whose abandoned questions may be ending.
            crowd.connect(get(HOURLY, b"X-Forwarded-For: 10.0.1.1"))
        busy = slowest(site, "api/events?limit=10", 5)
        answers = Counter(opened.recv(12)[9:12] for opened in crowd.sockets)
    log.info("beside 400 questions of one client: events %.2f s; answers %s", busy, answers)
    assert busy < WITHIN
    assert answers.keys() == {b"200", b"429"}
    assert answers[b"200"] >= MAX_BEGUN_EACH + MAX_WAITING_EACH


def test_long_names_and_slow_streams_take_little_memory(site: Site) -> None:
    name = "\U0001f600" * 12_000
    with Crowd(site.url) as crowd:
        for number in range(256):
            crowd.connect(get("api/stream", b"X-Forwarded-For: 10.0.0.%d" % (number % 200 + 1)), 4_096)
        for _ in range(200):
            site.match("loud", identity_name=name, identity_id=name)
        assert slowest(site, "healthz") < WITHIN
        log.info("256 slow streams, names of 48 KB: peak %d MB", peak_mb(site))
    assert peak_mb(site) < MOST_MB


def test_a_hostile_cookie_costs_next_to_nothing(site: Site, tmp_path: Path) -> None:
    (tmp_path / "token").write_text(TOKEN)
    options: Any = ("--database", f"sqlite:///{site.database}", "--listen", "127.0.0.1:0", "--token-file", tmp_path / "token")
    with Running("platform", "web", "-p", str(site.port), *options) as web:
        url = web.find(r"web page at (http://\S+/)")[1]
        with httpx.Client(timeout=60) as client:
            client.get(url + "healthz")
            began = time.monotonic()
            answers = Counter(client.get(url + "api/devices", headers={"cookie": "\\073" * 7_500}).status_code for _ in range(10))
        took = time.monotonic() - began
    log.info("10 cookies of 30 KB: %.2f s", took)
    assert answers == {401: 10}
    assert took < 10.0  # 15 s without the fix
