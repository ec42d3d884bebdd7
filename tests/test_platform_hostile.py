"""One hostile device against a broker and a platform: others notice little, and nothing grows.

All of them are processes.

The floods are short here. `make hostile` makes them long (FACEWIRE_FLOOD_SECONDS).
"""

import logging
import os
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import hostile_device
import pytest
from broker_engines import free_port
from facewire_process import Running
from hostile_device import KINDS
from mqtt_probe import Probe
from platform_model import batch
from platform_store import rows
from processes import children

from facewire.messages import decode_ack, encode
from facewire.roles import Role
from facewire.topics import Topics
from facewire_broker import credentials
from facewire_broker.credentials import UsersFile
from facewire_mqtt import Address

pytestmark = [pytest.mark.network, pytest.mark.process]

log = logging.getLogger(__name__)

FLOOD_SECONDS = float(os.environ.get("FACEWIRE_FLOOD_SECONDS", "3"))
MB = 1024 * 1024
SECRET = "correct-horse-battery-staple"  # noqa: S105  # of a test


class Site:
    """A broker, a platform, and an honest device."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self.database = folder / "x.db"
        self.port = free_port()
        with UsersFile(folder / "users").editing() as users:
            for name, role in (("honest", Role.DEVICE), ("hostile", Role.DEVICE), ("platform", Role.PLATFORM)):
                credentials.add(users, name, role, SECRET)
        (folder / "secret").write_text(SECRET)
        at = ("-h", "127.0.0.1", "-p", str(self.port), "-u", "platform", "--password-file", folder / "secret")
        self.broker = stack.enter_context(Running("broker", "run", "--listen", f"127.0.0.1:{self.port}", "--users", folder / "users"))
        self.broker.wait_for("listening")
        self.platform = stack.enter_context(Running("platform", "run", *at, "--database", f"sqlite:///{self.database}"))
        self.platform.wait_for("connected broker")
        self.address = Address(port=self.port)
        self._head = 0

    def ack_times(self, honest: Probe, seconds: float) -> list[float]:
        """Send one batch after the other for so long; how long each waited for its ack, s."""
        times, end = [], time.monotonic() + seconds
        while time.monotonic() < end:
            sent = batch(self._head, self._head + 10, *range(self._head + 1, self._head + 11))
            started = time.perf_counter()
            honest.publish(Topics().of("honest", "history"), encode(sent))
            while (ack := decode_ack(honest.message(timeout=30).payload)).key != sent.cursor:
                pass
            times.append(time.perf_counter() - started)
            assert ack.cursor == sent.cursor
            self._head = sent.cursor
        return times

    @property
    def peak_mb(self) -> float:
        """The most memory that the worker or its receiver had."""
        family = [self.platform.process.pid, *children(self.platform.process.pid)]
        found = [re.search(r"VmHWM:\s+(\d+)", Path(f"/proc/{pid}/status").read_text()) for pid in family]
        return max(int(match[1]) for match in found if match) / 1024  # one that has ended has none


def p99(values: list[float]) -> float:
    return statistics.quantiles(values, n=100)[98]


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with ExitStack() as stack:
        yield Site(tmp_path, stack)


@pytest.mark.parametrize("kind", KINDS)
def test_a_flood_of_one_device_delays_no_ack_of_another_and_fills_nothing(site: Site, kind: str) -> None:
    with Probe(site.address, "honest", timeout=30, user="honest", password=SECRET) as honest:
        honest.subscribe((Topics().of("honest", "ack"), 1))
        quiet = p99(site.ack_times(honest, FLOOD_SECONDS))
        environment = os.environ | {"PYTHONPATH": str(Path(hostile_device.__file__).parent)}
        with subprocess.Popen([sys.executable, hostile_device.__file__, str(site.address.port), kind, SECRET], env=environment) as hostile:
            try:
                during = p99(site.ack_times(honest, FLOOD_SECONDS))
                assert hostile.poll() is None
            finally:
                hostile.kill()
        logged = sum(len(line) for line in site.platform.log)
        [(epochs,)] = rows(site.database, "SELECT count(*) FROM stream")
        [(quarantined,)] = rows(site.database, "SELECT coalesce(sum(length(payload)), 0) FROM quarantine")
    figures = f"quiet_ms={quiet * 1000:.1f} peak_mb={site.peak_mb:.0f} logged_kb={logged / 1024:.0f} epochs={epochs}"
    log.info("%s p99_ms=%.1f %s quarantined_mb=%.1f", kind, during * 1000, figures, quarantined / MB)
    assert during < max(2 * quiet, 3.0), figures  # 40 s without turns and rates; the floor is for a shared machine
    assert site.peak_mb < 512
    assert logged < 2 * MB
    assert epochs <= 21
    assert quarantined < 5 * MB
