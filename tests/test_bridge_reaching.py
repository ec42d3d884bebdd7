"""`facewire bridge check --connect` tries each connection that a bridge needs."""

import contextlib
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from box_sophon import Server
from bridge_scene import http_bridge
from broker_engines import free_port, with_users
from facewire_process import FACEWIRE

from facewire.finding import Finding
from facewire.roles import Role
from facewire_bridge.reaching import check_connections
from facewire_bridge.settings import read_settings
from facewire_broker import credentials
from facewire_broker.credentials import UsersFile
from facewire_mqtt.address import Address

pytestmark = pytest.mark.network

SECRET, WRONG = credentials.generate_secret(), credentials.generate_secret()


class Site(NamedTuple):
    folder: Path
    broker: Address

    def check(self, tables: str, *, secret: str = SECRET, port: int = 0) -> dict[str, Finding]:
        return {found.check: found for found in check_connections(read_settings(self.write(tables, secret=secret, port=port)))}

    def write(self, tables: str, *, secret: str = SECRET, port: int = 0) -> Path:
        path = self.folder / "bridge.toml"
        broker = f'host = "{self.broker.host}"\nport = {port or self.broker.port}\nusername = "bridge-1"\npassword = "{secret}"\n'
        path.write_text(f'stores = "stores"\n[broker]\n{broker}{tables}')
        return path


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    file = UsersFile(tmp_path / "users")
    with file.editing() as users:
        credentials.add(users, "bridge-1", Role.BRIDGE, SECRET, devices=["gate-1", "hall-1"])
    with with_users("ours", tmp_path, file) as address:
        yield Site(tmp_path, address)


def gate(name: str = "gate-1") -> str:
    return f'[mqtt-face.device.{name}]\nid = "7"\nzone = "UTC"\n'


def verdicts(found: dict[str, Finding]) -> dict[str, str]:
    return {check: finding.verdict for check, finding in found.items()}


def test_a_broker_that_accepts_the_credential_is_fine(site: Site) -> None:
    assert verdicts(site.check(gate())) == {"broker": "ok", "terminals' broker": "ok"}


def test_a_wrong_secret_a_missing_device_and_no_broker_are_told_apart(site: Site) -> None:
    wrong = site.check(gate(), secret=WRONG)["broker"]
    assert (wrong.verdict, "bridge-1" in wrong.message, "users list" in wrong.remedy) == ("FAIL", True, True)
    foreign = site.check(gate("gate-9"))["broker"]
    assert (foreign.verdict, "gate-9" in foreign.message, "--devices" in foreign.remedy) == ("FAIL", True, True)
    nobody = site.check(gate(), port=free_port())["broker"]
    assert (nobody.verdict, "firewall" in nobody.remedy) == ("FAIL", True)


def test_a_port_of_another_program_is_no_missing_broker(site: Site) -> None:
    def hang_up() -> None:
        with contextlib.suppress(OSError):
            while True:
                other.accept()[0].close()

    with socket.create_server(("127.0.0.1", 0)) as other:
        threading.Thread(target=hang_up, daemon=True).start()
        found = site.check(gate(), port=other.getsockname()[1])["broker"]
        other.shutdown(socket.SHUT_RDWR)
    assert (found.verdict, "TLS" in found.remedy, "firewall" in found.remedy) == ("FAIL", True, False)


def test_an_address_to_listen_on_is_free_taken_or_a_bridges(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        tables = f'[sophon]\nlisten = "127.0.0.1:{port}"\n[sophon.device.hall-1]\n'
        taken = site.check(tables)["sophon listen"]
        assert (taken.verdict, taken.message) == ("FAIL", f"cannot listen on 127.0.0.1:{port}: Address already in use")
    assert site.check(tables)["sophon listen"].message.endswith("is free")
    with http_bridge(site.write(tables)):
        assert site.check(tables)["sophon listen"].message.startswith("a bridge listens")
    assert [record.name for record in caplog.records if record.name.startswith("uvicorn")] == []


@pytest.mark.parametrize("version", [5, 6])
def test_a_box_answers_at_its_addresses_or_does_not(site: Site, version: int) -> None:
    with Server(version) as box:
        urls = f'api = "http://user:of-the-url@127.0.0.1:{box.api_port}"\nwebsocket = "ws://127.0.0.1:{box.ws_port}"\n'
        tables = f'[sophon]\nlisten = "127.0.0.1:{free_port()}"\n[sophon.device.hall-1]\nversion = {version}\n{urls}'
        found = site.check(tables)
        assert verdicts(found) == {"broker": "ok", "sophon listen": "ok", "hall-1 api": "ok", "hall-1 websocket": "ok"}
        assert found["hall-1 api"].message == f"127.0.0.1:{box.api_port} answers, cameras: 1"
        wrong = site.check(tables.replace(f"version = {version}", f"version = {11 - version}"))["hall-1 api"]
        assert (wrong.verdict, "404" in wrong.message, "version" in wrong.remedy) == ("FAIL", True, True)
    away = site.check(tables)
    assert (away["hall-1 api"].verdict, away["hall-1 websocket"].verdict) == ("FAIL", "FAIL")
    assert "of-the-url" not in str(away) + str(found)


@pytest.mark.process
def test_the_command_says_what_to_do_exits_with_3_and_shows_no_secret(site: Site) -> None:
    def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
        return subprocess.run([*FACEWIRE, "bridge", "check", *arguments], capture_output=True, text=True, timeout=60, check=False)

    fine = run("--connect", site.write(gate()))
    assert fine.returncode == 0, fine.stderr
    assert f"ok    broker                {site.broker} accepts bridge-1" in fine.stdout
    file = site.write(gate(), secret=WRONG)
    failed = run("--connect", file)
    assert (failed.returncode, "FAIL  broker" in failed.stdout, "is fine" in failed.stderr) == (3, True, False)
    assert WRONG not in failed.stdout + failed.stderr
    assert run(file).returncode == 0, "without the option nothing is tried"
