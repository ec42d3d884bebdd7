"""The reports to systemd: a socket of ours plays systemd, the processes are real."""

import os
import signal
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import psycopg
import pytest
from broker_engines import PARAMETERS, free_port
from facewire_process import Running
from systemd_manager import Manager

from facewire.roles import Role
from facewire_broker import embedded
from facewire_broker.credentials import UsersFile, add
from facewire_cli.systemd import Service
from facewire_device import Agent, Settings
from facewire_device.store import Store

#: Longer than any turn of a worker that lives, s.
SILENCE: Final = 2.0


@pytest.fixture
def manager() -> Iterator[Manager]:
    with Manager.in_a_short_folder() as manager:
        yield manager


def service(manager: Manager, **more: str) -> Service:
    return Service({"NOTIFY_SOCKET": manager.address, **more})


def test_ready_is_sent_once_and_only_when_the_loop_can_work(manager: Manager) -> None:
    one = service(manager)
    one.turn(ready=False)
    assert manager.heard() == []
    one.turn()
    one.turn(ready=False)
    one.turn()
    one.stopping()
    assert manager.heard() == ["READY=1", "STOPPING=1"]


def test_only_turns_feed_the_watchdog(manager: Manager) -> None:
    one = service(manager, WATCHDOG_USEC="1", WATCHDOG_PID=str(os.getpid()))
    for _ in range(3):
        one.turn()
    assert manager.heard() == ["READY=1", *["WATCHDOG=1"] * 3]


def test_many_turns_send_few_signs_of_life(manager: Manager) -> None:
    one = service(manager, WATCHDOG_USEC="3600000000")
    for _ in range(1000):
        one.turn()
    assert manager.heard() == ["READY=1", "WATCHDOG=1"]


def test_the_watchdog_of_another_process_is_ignored(manager: Manager) -> None:
    service(manager, WATCHDOG_USEC="1", WATCHDOG_PID="1").turn()
    assert manager.heard() == ["READY=1"]


def test_an_abstract_address_works() -> None:
    manager = Manager(f"@facewire-test-{os.getpid()}")
    service(manager).turn()
    assert manager.next() == "READY=1"
    manager.socket.close()


def test_without_systemd_nothing_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[object] = []
    monkeypatch.setattr(socket, "socket", opened.append)
    one = Service({"WATCHDOG_USEC": "1"})
    one.turn()
    one.stopping()
    assert opened == []


def test_after_the_end_was_reported_nothing_is_ready_any_more(manager: Manager) -> None:
    one = service(manager)
    one.stopping()
    one.turn()
    assert manager.heard() == ["STOPPING=1"]


def test_a_manager_that_has_gone_is_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    Service({"NOTIFY_SOCKET": str(tmp_path / "gone")}).turn()
    assert "systemd not notified state=READY=1" in caplog.text


def test_children_do_not_inherit_the_variables_of_systemd() -> None:
    environ = {"NOTIFY_SOCKET": "/x", "WATCHDOG_USEC": "1", "WATCHDOG_PID": "1", "HOME": "/"}
    Service(environ)
    assert environ == {"HOME": "/"}


# -- the processes -------------------------------------------------------------------------------


@pytest.fixture
def watched(manager: Manager, monkeypatch: pytest.MonkeyPatch) -> Manager:
    """Processes started in the test are its services."""
    monkeypatch.setenv("NOTIFY_SOCKET", manager.address)
    monkeypatch.setenv("WATCHDOG_USEC", "100000")
    return manager


def lives_and_ends_well(manager: Manager, running: Running) -> None:
    """After READY."""
    manager.wait_for("WATCHDOG=1")
    manager.wait_for("WATCHDOG=1")
    running.process.send_signal(signal.SIGTERM)
    assert set(manager.wait_for("STOPPING=1")) <= {"WATCHDOG=1"}
    assert running.wait() == 0


@pytest.mark.network
@pytest.mark.process
@pytest.mark.parametrize("engine", PARAMETERS)
def test_a_broker_is_ready_when_it_listens(watched: Manager, tmp_path: Path, engine: str) -> None:
    port = free_port()
    users = UsersFile(tmp_path / "users")
    with users.editing() as edited:
        add(edited, "d", Role.DEVICE, "secret")
    name = "embedded" if engine == "ours" else engine
    with Running("broker", "run", "--listen", f"127.0.0.1:{port}", "--users", users.path, "--engine", name) as running:
        assert watched.wait_for("READY=1") == []
        socket.create_connection(("127.0.0.1", port)).close()
        lives_and_ends_well(watched, running)


@pytest.mark.process
def test_a_device_is_ready_when_its_store_is_open_even_without_a_broker(watched: Manager, tmp_path: Path) -> None:
    store = tmp_path / "d.db"
    with Running("device", "run", "--id", "d", "-p", str(free_port()), "--store", store) as running:
        assert watched.wait_for("READY=1") == []
        assert store.exists()
        lives_and_ends_well(watched, running)


@pytest.mark.process
def test_a_device_that_cannot_open_its_store_is_never_ready(watched: Manager, tmp_path: Path) -> None:
    store = tmp_path / "d.db"
    store.write_bytes(b"no database, " * 1000)
    with Running("device", "run", "--id", "d", "-p", str(free_port()), "--store", store) as running:
        assert running.wait() == 1
    assert watched.heard() == []


@pytest.mark.network
@pytest.mark.process
def test_a_worker_is_ready_when_it_has_subscribed(watched: Manager, tmp_path: Path) -> None:
    port = free_port()
    with Running("platform", "run", "-p", str(port), "--database", f"sqlite:///{tmp_path / 'x.db'}") as running:
        # It turns, so it lives, and is not ready.
        assert [watched.next() for _ in range(3)] == ["WATCHDOG=1"] * 3
        with embedded.running(port=port):
            assert set(watched.wait_for("READY=1")) <= {"WATCHDOG=1"}
            running.wait_for("connected")
            lives_and_ends_well(watched, running)


@pytest.mark.network
@pytest.mark.process
@pytest.mark.postgresql
def test_a_worker_whose_commit_hangs_gives_no_sign_of_life(watched: Manager, postgresql: str, tmp_path: Path) -> None:
    with embedded.running() as address, Running("platform", "run", "-p", str(address.port), "--database", postgresql) as running:
        watched.wait_for("READY=1")
        with psycopg.connect(postgresql) as beside:
            found = beside.execute("SELECT pid FROM pg_stat_activity WHERE application_name = 'facewire' AND datname = current_database()")
            [(backend,)] = found.fetchall()
        os.kill(backend, signal.SIGSTOP)
        try:
            watched.socket.settimeout(SILENCE)
            # The device's status is what it hangs in.
            with Agent(Settings("d", tmp_path / "d.db", address)), pytest.raises(TimeoutError):
                watched.wait_for("STOPPING=1")
        finally:
            os.kill(backend, signal.SIGCONT)
            watched.socket.settimeout(20)
        lives_and_ends_well(watched, running)


@pytest.mark.network
def test_an_agent_that_hangs_gives_no_sign_of_life(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    turned, hang, hung, release = threading.Semaphore(0), threading.Event(), threading.Event(), threading.Event()
    real = Store.version

    def version(store: Store) -> int:
        if threading.current_thread().name == "agent" and hang.is_set():
            hung.set()
            release.wait(20)
        return real(store)

    monkeypatch.setattr(Store, "version", version)
    with embedded.running() as address, Agent(Settings("d", tmp_path / "d.db", address), on_turn=turned.release):
        assert turned.acquire(timeout=10)
        hang.set()
        assert hung.wait(10)
        while turned.acquire(blocking=False):
            pass
        assert not turned.acquire(timeout=0.3)
        release.set()
        assert turned.acquire(timeout=10)
