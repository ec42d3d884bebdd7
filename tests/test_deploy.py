"""docs/operating.md and docs/deploy: we do here what they show, as far as this machine can."""

import getpass
import gzip
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

import click
import jsonschema
import pytest
import yaml
from broker_engines import MOSQUITTO, free_port, wait_for_port
from facewire_process import Running, ask
from shown_commands import operating_commands, typed
from systemd_manager import Manager

from facewire_broker import embedded
from facewire_cli.main import cli
from facewire_system.clock import now_ms

ROOT: Final = Path(__file__).parent.parent
FACEWIRE: Final = Path(sys.executable).with_name("facewire")
PIPELINE: Final = ("facewire-broker.service", "facewire-platform@1.service", "facewire-device.service")
#: A bridge has a settings file of its own for each site (docs/bridges.md).
UNITS: Final = (*PIPELINE, "facewire-bridge@mqtt-face.service")
#: What `systemd-analyze security` may find, of 10; the same scale as in docs/operating.md.
MOST_EXPOSED: Final = 1.3


@pytest.mark.process
@pytest.mark.network
def test_the_documented_commands_upgrade_check_and_delete(tmp_path: Path) -> None:
    (tmp_path / "events.jsonl").write_text(
        '{"timestamp": 1764054000000, "score": 0.93, "identity_id": "666666", "identity_name": "Ada", "person_type": 1}\n'
        f'{{"timestamp": {now_ms()}, "score": 0.93, "identity_id": "7", "identity_name": "Alan", "person_type": 1}}\n'
    )
    database = f"sqlite:///{tmp_path}/platform.db"
    with embedded.running() as broker:
        worker = Running("platform", "run", "-p", str(broker.port), "--database", database)
        with worker:
            worker.wait_for("connected")
            typed(f"facewire device run --id d -p {broker.port} --store d.db --source events.jsonl --exit-when-acked", tmp_path)
            assert worker.end() == 0
    typed(operating_commands("Upgrade") + operating_commands("Alarms"), tmp_path)
    assert len(ask("events", "--database", database)) == 2
    typed(operating_commands("Privacy"), tmp_path)
    assert [row["identity_id"] for row in ask("events", "--database", database)] == ["7"]


def test_every_command_and_option_in_operating_exists() -> None:
    text = (ROOT / "docs" / "operating.md").read_text(encoding="utf-8")
    named = re.findall(
        r"(?:^|`|sudo -u \S+ /opt/facewire/bin/)facewire((?: [a-z][a-z-]*)+)((?: [^`\n|&]*)?)", re.sub(r"\\\n +", "", text), re.MULTILINE
    )
    assert len(named) > 20
    for words, rest in named:
        command: click.Command = cli
        with click.Context(cli) as ctx:
            for word in words.split():
                found = command.get_command(ctx, word) if isinstance(command, click.Group) else None
                if isinstance(command, click.Group):
                    assert found is not None, f"facewire{words}"
                    command = found
        options = {option for param in command.params for option in param.opts}
        assert set(re.findall(r"(?<= )--?[a-z][a-z-]*", rest)) <= options, f"facewire{words}{rest}"


class Machine:
    """A root folder after docs/operating.md.

    Its units are run as systemd would run them, but without systemd's protections.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.root = folder, folder / "root"
        (folder / "docs").symlink_to(ROOT / "docs")
        typed(
            operating_commands("Certificates") + operating_commands("Users") + operating_commands("With systemd"),
            folder,
            ROOT=str(self.root),
        )
        self.units = self.root / "etc/systemd/system"
        (self.root / "opt/facewire/bin").mkdir(parents=True)
        (self.root / "opt/facewire/bin/facewire").symlink_to(FACEWIRE)
        self.port = str(free_port())
        for file in (self.root / "etc/facewire").glob("*.toml"):
            file.write_text(self.at_home(file.read_text()).replace("8883", self.port).replace("0.0.0.0", "127.0.0.1"))  # noqa: S104  # is taken out

    def at_home(self, text: str) -> str:
        """Paths of a machine as paths below our root."""
        return re.sub(r"(?<=[ \"/:=])/(etc|var|opt)/", rf"{self.root}/\1/", text)

    def settings(self, unit: str, name: str) -> list[str]:
        template = re.sub(r"@.*\.", "@.", unit)
        return re.findall(rf"^{name}=(.*)$", self.at_home((self.units / template).read_text()), re.MULTILINE)

    def command(self, unit: str) -> list[str]:
        """ExecStart, with what it is promised: the state directory, the credentials."""
        instance = unit.partition("@")[2].removesuffix(".service")
        credentials = self.folder / f"credentials-{unit}"
        credentials.mkdir()
        for line in self.settings(unit, "LoadCredential"):
            name, _, source = line.replace("%i", instance).partition(":")
            shutil.copy(source, credentials / name)
        for state in self.settings(unit, "StateDirectory"):
            (self.root / "var/lib" / state).mkdir(parents=True, exist_ok=True)
        (line,) = self.settings(unit, "ExecStart")
        return line.replace("%i", instance).replace("%d", str(credentials)).split()[1:]


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Machine:
    if not shutil.which("openssl"):
        pytest.skip("openssl is not installed")
    return Machine(tmp_path_factory.mktemp("machine"))


@pytest.fixture
def analyze() -> str:
    found = shutil.which("systemd-analyze")
    if found is None:
        pytest.skip("systemd is not installed")
    return found


@pytest.mark.process
def test_systemd_finds_no_fault_with_the_units(machine: Machine, analyze: str) -> None:
    for unit in machine.units.glob("*.service"):  # the program must be where they say
        unit.write_text(unit.read_text().replace("/opt/facewire/bin/facewire", str(FACEWIRE)))
    environment = {**os.environ, "SYSTEMD_UNIT_PATH": f"{machine.units}:"}
    done = subprocess.run(
        [analyze, "verify", "--man=no", "--recursive-errors=no", *UNITS], env=environment, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.process
@pytest.mark.parametrize("unit", UNITS)
def test_a_unit_may_do_little_more_than_use_the_network(machine: Machine, analyze: str, unit: str) -> None:
    threshold = f"--threshold={MOST_EXPOSED * 10:.0f}"
    options = ["--offline=true", "--no-pager", threshold, f"--root={machine.root}"]
    done = subprocess.run([analyze, "security", *options, unit], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


@pytest.fixture
def manager(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Manager]:
    with Manager.in_a_short_folder() as manager:
        monkeypatch.setenv("NOTIFY_SOCKET", manager.address)
        yield manager


@pytest.mark.network
@pytest.mark.process
def test_the_commands_of_the_units_make_a_pipeline(machine: Machine, manager: Manager) -> None:
    with ExitStack() as running:
        for unit in PIPELINE:
            started = running.enter_context(Running(*machine.command(unit)))
            try:
                manager.wait_for("READY=1")
            except TimeoutError:
                pytest.fail(f"{unit} is not ready: {started.text}")
        record = ["device", "record", "--store", str(machine.root / "var/lib/facewire-device/store.db")]
        event = '{"timestamp": 1764054000000, "score": 0.93, "identity_id": "7", "identity_name": "Ada", "person_type": 1}'
        subprocess.run([FACEWIRE, *record, event], check=True, capture_output=True)
        started.wait_for("connected")
        database = f"sqlite:///{machine.root}/var/lib/facewire-platform/platform.db"
        while not (stored := ask("events", "--database", database)):
            pass
        assert [(row["device"], row["identity_id"]) for row in stored] == [("lobby-1", "7")]


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A folder after docs/operating.md, With containers."""
    if not shutil.which("openssl"):
        pytest.skip("openssl is not installed")
    (tmp_path / "docs").symlink_to(ROOT / "docs")
    typed(operating_commands("Certificates") + operating_commands("Users") + operating_commands("With containers"), tmp_path)
    return tmp_path


def composed(site: Path) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((site / "compose.yaml").read_text())
    return found


@pytest.mark.process
def test_the_compose_file_is_valid_and_the_commands_make_every_file_it_mounts(site: Path) -> None:
    schema = json.loads(gzip.decompress((ROOT / "tests" / "data" / "compose.schema.json.gz").read_bytes()))
    compose = composed(site)
    assert [f"{error.json_path}: {error.message}" for error in jsonschema.Draft7Validator(schema).iter_errors(compose)] == []
    services = compose["services"].values()
    assert {secret for service in services for secret in service.get("secrets", ())} == set(compose["secrets"])
    assert {network for service in services for network in service["networks"]} == set(compose["networks"])
    files = {secret["file"] for secret in compose["secrets"].values()} | {"./mosquitto/mosquitto.conf", "./mosquitto/passwd"}
    assert {file for file in files if not (site / file).is_file()} == set()
    assert {path.stat().st_mode & 0o777 for path in (site / "secrets").iterdir()} == {0o600}
    password = (site / "secrets/postgresql.password").read_text().strip()
    assert (site / "secrets/pgpass").read_text().split(":") == ["postgresql", "5432", "facewire", "facewire", f"{password}\n"]


@pytest.mark.network
@pytest.mark.process
@pytest.mark.mosquitto
@pytest.mark.postgresql
def test_the_services_of_the_compose_file_make_a_pipeline(site: Path, postgresql: str) -> None:
    if MOSQUITTO is None:
        pytest.skip("Mosquitto is not installed")
    compose, port = composed(site), free_port()
    config = (site / "mosquitto/mosquitto.conf").read_text()
    assert "listener 8883 0.0.0.0\n" in config
    for file in (site / "mosquitto").iterdir():  # as the container sees them, and as we do
        file.write_text(file.read_text().replace("/mosquitto/config", str(site / "mosquitto")))
    config = (site / "mosquitto/mosquitto.conf").read_text().replace("listener 8883 0.0.0.0", f"listener {port} 127.0.0.1")
    # Started by root it would become a user who may not read our files.
    (site / "mosquitto/mosquitto.conf").write_text(f"{config}user {getpass.getuser()}\n")
    with ExitStack() as running:
        mosquitto = subprocess.Popen([MOSQUITTO, "-c", site / "mosquitto/mosquitto.conf"], stderr=subprocess.DEVNULL)
        running.callback(mosquitto.wait)
        running.callback(mosquitto.kill)
        wait_for_port(port)
        for name in ("worker-1", "worker-2"):
            worker = running.enter_context(Running(*worker_command(compose, name, site, port, postgresql)))
            worker.wait_for("connected")
        event = '{"timestamp": 1764054000000, "score": 0.93, "identity_id": "7", "identity_name": "Ada", "person_type": 1}\n'
        (site / "events.jsonl").write_text(event * 3)
        where = f"-h localhost -p {port} --cafile ca.pem -u lobby-1 --password-file device.password"
        typed(f"facewire device run --id lobby-1 --store d.db {where} --source events.jsonl --exit-when-acked", site)
        assert [row["seq"] for row in ask("events", "--database", postgresql)] == [1, 2, 3]


def worker_command(compose: dict[str, Any], name: str, site: Path, port: int, database: str) -> list[str]:
    """A worker's command, with what a container would find under these names."""
    service = compose["services"][name]
    found = []
    for argument in service["command"]:
        option, _, value = argument.partition("=")
        if value.startswith("/run/secrets/"):
            secret = value.removeprefix("/run/secrets/")
            assert secret in service["secrets"]
            value = str(site / compose["secrets"][secret]["file"])
        if option == "--database":
            assert value == "postgresql://facewire@postgresql/facewire"
            value = database
        found.append(f"{option}={'localhost' if option == '--host' else value}" if value else option)
    return [*found, f"--port={port}"]
