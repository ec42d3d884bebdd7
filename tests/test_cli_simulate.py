"""`facewire simulate` against our broker and a real worker: its verdict is right.

It is right about a platform that loses events too.
"""

import asyncio
import json
import os
import socket
import sqlite3
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from facewire_process import FACEWIRE, Running
from mosquitto_server import Mosquitto

from facewire.errors import BrokerError
from facewire.topics import Topics
from facewire_broker import embedded
from facewire_device_cli.simulate import is_healthy
from facewire_fleet import net
from facewire_fleet.fleet import Plan, Rhythm
from facewire_fleet.net import Fleet
from facewire_mqtt.address import Address

RUN = ("--devices", "50", "--rate", "2", "--for", "4s", "--outage", "1s", "--seed", "7")


class Ended(NamedTuple):
    code: int
    verdict: dict[str, Any]
    notices: str


def platform(stack: ExitStack, address: Address, database: Path) -> None:
    worker = stack.enter_context(Running("platform", "run", "-p", str(address.port), "--database", f"sqlite:///{database}"))
    worker.wait_for("connected")


def fleet(stack: ExitStack, address: Address, *arguments: str) -> "subprocess.Popen[str]":
    command = [*FACEWIRE, "simulate", "-p", str(address.port), *RUN, *arguments]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ})
    stack.callback(process.kill)
    return process


def ended(process: "subprocess.Popen[str]") -> Ended:
    out, notices = process.communicate(timeout=120)
    (line,) = out.splitlines()
    return Ended(process.returncode, json.loads(line), notices)


@contextmanager
def losing_third_events(database: Path) -> Iterator[None]:
    """Meanwhile the database does not keep what the worker has stored and acked."""
    stopped = threading.Event()

    def lose() -> None:
        with closing(sqlite3.connect(database, timeout=10.0)) as opened:
            while not stopped.wait(0.05):
                opened.execute("DELETE FROM event WHERE seq = 3")
                opened.commit()

    thread = threading.Thread(target=lose)
    thread.start()
    try:
        yield
    finally:
        stopped.set()
        thread.join()


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Ended]]:
    """Two fleets: one with a sound platform, one with a database that loses rows.

    They run at the same time, because each takes a period.
    """
    folder = tmp_path_factory.mktemp("fleets")
    with ExitStack() as stack:
        processes = {}
        for name in ("sound", "losing"):
            address = stack.enter_context(embedded.running())
            platform(stack, address, folder / f"{name}.db")
            if name == "losing":
                stack.enter_context(losing_third_events(folder / "losing.db"))
            processes[name] = fleet(stack, address, "--database", f"sqlite:///{folder / name}.db")
        yield {name: ended(process) for name, process in processes.items()}


@pytest.mark.network
@pytest.mark.process
def test_a_fleet_loses_nothing_through_an_outage(runs: dict[str, Ended]) -> None:
    code, verdict, notices = runs["sound"]
    assert code == 0, notices
    assert verdict["healthy"]
    assert verdict["devices"] == verdict["connected"] == 50
    assert 300 < verdict["recorded"] < 500
    assert verdict["acked"] == verdict["stored"] == verdict["recorded"]
    assert [verdict[name] for name in ("lost", "not_acked", "doubled", "missing", "forks", "quarantined")] == [0] * 6
    assert verdict["sessions"] == 100
    assert verdict["matches"] > 0 < verdict["matches_missed"]
    assert 0 < verdict["ack_p50_ms"] <= verdict["ack_p99_ms"] <= verdict["ack_p999_ms"]
    assert "recorded" in notices


@pytest.mark.network
@pytest.mark.process
def test_acked_rows_missing_on_the_platform_are_found(runs: dict[str, Ended]) -> None:
    code, verdict, notices = runs["losing"]
    assert code == 3, notices
    assert not verdict["healthy"]
    assert verdict["acked"] == verdict["recorded"]
    assert verdict["stored"] + verdict["missing"] == verdict["recorded"]
    assert 40 < verdict["missing"] <= 50


SOUND = dict.fromkeys(("lost", "not_acked", "devices_not_acked", "refused", "quarantined", "forks", "doubled", "missing"), 0)


@pytest.mark.parametrize("wrong", SOUND)
def test_any_single_fault_is_not_healthy(wrong: str) -> None:
    assert is_healthy(SOUND)
    assert not is_healthy({**SOUND, wrong: 1})


def run(*arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([*FACEWIRE, "simulate", *arguments], capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--for", "10s", "--outage", "10s"), "--outage of 10 s is not below the run's 10 s"),
        (("--for", "0s"), "--for must be above 0 s"),
        (("--period", "5s"), "--period of 5 s is below the limit of 20 s"),
        (("--prefix", "/x"), "cannot name|is not 1 to 64"),
        (("--database", "mysql://x"), "is neither sqlite:///FILE nor postgresql://"),
        (("--rate", "0"), "rate"),
    ],
)
def test_impossible_settings_are_refused_before_the_run(arguments: tuple[str, ...], said: str) -> None:
    done = run(*arguments)
    assert done.returncode == 2
    assert any(part in done.stderr for part in said.split("|")), done.stderr


@pytest.mark.network
@pytest.mark.process
def test_an_absent_broker_is_an_error_at_once() -> None:
    with embedded.running() as address:
        pass
    done = run("-p", str(address.port), "--for", "1s")
    assert done.returncode == 1
    assert done.stderr == f"Error: 127.0.0.1:{address.port}: Connection refused\n"


@pytest.mark.network
def test_a_broker_that_accepts_and_then_is_silent_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(net, "CONNECT_TIMEOUT", 0.2)
    plan = Plan(rate=1.0, duration=30.0, people=(), rhythm=Rhythm())
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        fleet = Fleet(Address(port=port), Topics(), ["sim-1", "sim-2"], plan, seed=1, outage=0.0)
        with pytest.raises(BrokerError, match="no device has a session"):
            asyncio.run(fleet.run(lambda _: None, 1.0))


@pytest.mark.network
@pytest.mark.process
@pytest.mark.mosquitto
def test_refused_credentials_end_it(new_mosquitto: Callable[..., Mosquitto]) -> None:
    done = run("-p", str(new_mosquitto("allow_anonymous false").address.port), "--for", "1s", "--devices", "3")
    assert done.returncode == 5
    assert "refused" in done.stderr
