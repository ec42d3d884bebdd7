import dataclasses
import json
import shutil
import sqlite3
import subprocess
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from broker_engines import PARAMETERS, anonymous, free_port, with_users
from click.testing import CliRunner, Result
from mqtt_probe import Probe
from platform_model import EPOCH, batch, event
from platform_store import run as run_sql
from platform_store import store_batches

import facewire_platform.health.doctor_broker
import facewire_platform.store.sqlite
from facewire.finding import Finding
from facewire.messages import Batch, Status
from facewire.roles import Role
from facewire.topics import Topics
from facewire_broker import credentials, embedded
from facewire_broker.credentials import UsersFile
from facewire_broker.render import Tls
from facewire_broker.tls import server_context
from facewire_cli.main import cli
from facewire_mqtt.address import Address
from facewire_platform.health.doctor import check_clock, check_database, check_disk
from facewire_platform.health.doctor_bridges import check_bridges
from facewire_platform.health.doctor_broker import PROBE_DEVICE, RoleName, check_broker
from facewire_platform.store.drivers import Location
from facewire_platform.store.writer import Message, Store, open_store
from facewire_system.clock import now_ms


def verdicts(found: Iterator[Finding]) -> dict[str, str]:
    findings = list(found)
    assert all(finding.remedy for finding in findings if finding.verdict != "ok")
    return {finding.check: finding.verdict for finding in findings}


# The broker


class Site(NamedTuple):
    address: Address
    secrets: dict[str, str]

    def as_user(self, name: str) -> Address:
        return dataclasses.replace(self.address, username=name, password=self.secrets[name])


@pytest.fixture(params=PARAMETERS)
def site(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    """A broker with one user of each role, named after it."""
    monkeypatch.setattr(facewire_platform.health.doctor_broker, "GRACE", 0.3)
    file, secrets = UsersFile(tmp_path / "users"), {role.value: credentials.generate_secret() for role in Role}
    with file.editing() as users:
        for role in Role:
            named = ["gate-1"] if role is Role.BRIDGE else []
            credentials.add(users, role.value, role, secrets[role.value], devices=named)
    with with_users(request.param, tmp_path, file) as address:
        yield Site(address, secrets)


@pytest.mark.network
@pytest.mark.parametrize(
    ("role", "checks"),
    [
        ("platform", {"broker", "credential", "shared subscriptions"}),
        ("consumer", {"broker", "credential", "privacy"}),
        ("operator", {"broker", "credential"}),
    ],
)
def test_the_credential_of_the_right_role_passes(site: Site, role: RoleName, checks: set[str]) -> None:
    assert verdicts(check_broker(site.as_user(role), Topics(), role, 0.3)) == dict.fromkeys(checks, "ok")


@pytest.mark.network
@pytest.mark.parametrize(
    ("user", "role"), [("device", "platform"), ("consumer", "platform"), ("operator", "platform"), ("platform", "operator")]
)
def test_the_credential_of_another_role_is_detected(site: Site, user: str, role: RoleName) -> None:
    assert verdicts(check_broker(site.as_user(user), Topics(), role, 0.3))["credential"] == "FAIL"


@pytest.mark.network
def test_a_consumer_that_receives_acks_is_detected_without_any_device(site: Site) -> None:
    assert verdicts(check_broker(site.as_user("platform"), Topics(), "consumer", 1.0))["privacy"] == "FAIL"


@pytest.mark.network
def test_a_wrong_secret_fails_the_credential_and_not_the_broker(site: Site) -> None:
    wrong = dataclasses.replace(site.as_user("platform"), password=site.secrets["device"])
    assert verdicts(check_broker(wrong, Topics(), "platform", 0.3)) == {"broker": "ok", "credential": "FAIL"}


@pytest.mark.network
@pytest.mark.parametrize("engine", PARAMETERS)
@pytest.mark.parametrize("role", ["platform", "consumer", "operator"])
def test_a_credential_with_all_rights_is_detected_and_no_probe_is_retained(
    engine: str, role: RoleName, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(facewire_platform.health.doctor_broker, "GRACE", 0.3)
    with anonymous(engine, tmp_path) as address:
        known = dataclasses.replace(address, username="x", password="x")  # noqa: S106
        findings = {finding.check: finding for finding in check_broker(known, Topics(), role, 1.0)}
        assert findings["credential"].verdict == "FAIL"
        assert "may publish" in findings["credential"].message
        assert "match" in findings["credential"].message
        assert role != "consumer" or findings["privacy"].verdict == "FAIL"
        with Probe(address, "late") as late:
            late.subscribe((f"facewire/v1/{PROBE_DEVICE}/#", 1))
            assert late.has_no_message()


@pytest.mark.network
def test_an_open_broker_is_a_warning_and_a_missing_one_a_failure(tmp_path: Path) -> None:
    with anonymous("ours", tmp_path) as address:
        found = verdicts(check_broker(address, Topics(), "platform", 0.3))
    assert found == {"broker": "ok", "credential": "warn", "shared subscriptions": "ok"}
    assert verdicts(check_broker(Address(port=free_port()), Topics(), "platform", 0.3)) == {"broker": "FAIL"}


@pytest.mark.network
@pytest.mark.parametrize(("delivers", "verdict"), [(True, "ok"), (False, "warn")])
def test_shared_subscriptions_that_do_not_deliver_are_a_warning(
    delivers: bool, verdict: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(facewire_platform.health.doctor_broker, "shared_subscriptions_deliver", lambda *_: delivers)
    with anonymous("ours", tmp_path) as address:
        assert verdicts(check_broker(address, Topics(), "platform", 0.3))["shared subscriptions"] == verdict


@pytest.fixture
def certificate(tmp_path: Path) -> Callable[[int], Path]:
    """Makes a certificate for localhost, with its key beside it, that holds for so many days."""
    if not shutil.which("openssl"):
        pytest.skip("openssl is not installed")

    def make(days: int) -> Path:
        path = tmp_path / f"{days}.pem"
        usage = "keyUsage=critical,digitalSignature,keyCertSign,cRLSign"
        extensions = ["-addext", usage, "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
        key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", f"{path}.key"]
        command = ["openssl", "req", "-x509", *key, "-subj", "/CN=localhost", *extensions, "-days", str(days), "-out", str(path)]
        subprocess.run(command, check=True, capture_output=True)
        return path

    return make


@pytest.mark.network
@pytest.mark.parametrize(("days", "verdict"), [(90, "ok"), (20, "warn"), (3, "FAIL")])
def test_the_remaining_days_of_a_certificate_are_reported(days: int, verdict: str, certificate: Callable[[int], Path]) -> None:
    path = certificate(days)
    with embedded.running(tls=server_context(Tls(str(path), f"{path}.key"))) as address:
        findings = {found.check: found for found in check_broker(dataclasses.replace(address, cafile=str(path)), Topics(), "platform", 0.3)}
        assert (findings["tls"].verdict, findings["broker"].verdict) == (verdict, "ok")
        assert f"for {days} more days" in findings["tls"].message
        other = str(certificate(days + 1))
        assert verdicts(check_broker(dataclasses.replace(address, cafile=other), Topics(), "platform", 0.3)) == {
            "tls": "FAIL",
            "broker": "FAIL",
        }
        plain = {found.check: found for found in check_broker(address, Topics(), "platform", 0.3)}["broker"]
        assert ("another port, or TLS" in plain.message, "TLS" in plain.remedy, "firewall" in plain.remedy) == (True, True, False)


@pytest.mark.network
def test_a_broker_without_tls_is_named_as_one(tmp_path: Path, certificate: Callable[[int], Path]) -> None:
    with anonymous("ours", tmp_path) as address:
        found = list(check_broker(dataclasses.replace(address, cafile=str(certificate(90))), Topics(), "platform", 0.3))
    assert [(finding.check, finding.message) for finding in found] == [
        (check, f"{address}: it does not speak TLS") for check in ("tls", "broker")
    ]


def test_an_address_beyond_loopback_without_tls_is_a_warning() -> None:
    found = next(check_broker(Address("broker.lan"), Topics(), "platform", 0.3))
    assert (found.check, found.verdict) == ("tls", "warn")


# The database and the machine


@pytest.fixture
def worker(location: Location) -> Iterator[Store]:
    with open_store(location) as store:
        store_batches(store, batch(0, 3, 1, 3))
        yield store


def tell(store: Store, device: str, offset: float) -> None:
    now = now_ms()
    store.store([Message(device, Status("00000000000000b1", True, now + round(offset * 1000), EPOCH, period=20.0), now)])


def test_the_database_of_a_running_worker_passes_and_stays_unchanged(location: Location, worker: Store) -> None:
    tell(worker, "d", 1.0)
    assert verdicts(check_database(location)) == {"database": "ok", "conservation": "ok", "device clocks": "ok"}
    store_batches(worker, batch(3, 4, 4))


def test_events_that_vanished_are_a_failure_that_names_their_stream(location: Location, worker: Store) -> None:
    run_sql(location, "UPDATE stream SET stored = stored - 1")
    findings = {found.check: found for found in check_database(location)}
    assert findings["conservation"].verdict == "FAIL"
    assert f"d {EPOCH} (1)" in findings["conservation"].message


@pytest.mark.parametrize(
    ("offsets", "verdict", "said"),
    [
        ({"a": 1.0, "b": -4.0}, "ok", "2 devices"),
        ({"a": 1.0, "b": 1.0, "c": -90.0}, "warn", "1 of 3 are over 5 s off: c (-90 s)"),
        ({"a": 61.0, "b": 60.0, "c": 0.0}, "warn", "ours may be wrong"),
        ({"a": 61.0, "b": 60.0}, "warn", "2 of 2 are over"),
    ],
)
def test_wrong_device_clocks_are_named_and_ours_is_suspected_if_most_agree(
    offsets: dict[str, float], verdict: str, said: str, tmp_path: Path
) -> None:
    with open_store(tmp_path / "x.db") as store:
        for device, offset in offsets.items():
            tell(store, device, offset)
        findings = {found.check: found for found in check_database(tmp_path / "x.db")}
    assert findings["device clocks"].verdict == verdict
    assert said in findings["device clocks"].message


def test_the_doctor_does_not_create_a_missing_database(tmp_path: Path) -> None:
    assert verdicts(check_database(tmp_path / "x.db")) == {"database": "warn"}
    assert list(tmp_path.iterdir()) == []


def test_a_database_that_cannot_be_written_or_is_not_ours_is_a_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    open_store(tmp_path / "x.db").close()
    monkeypatch.setattr(facewire_platform.store.sqlite, "BUSY_TIMEOUT", 0.01)
    with closing(sqlite3.connect(tmp_path / "x.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        assert verdicts(check_database(tmp_path / "x.db")) == {"database": "FAIL"}
        other.execute("ROLLBACK")
        other.execute("PRAGMA user_version = 1")
    (found,) = check_database(tmp_path / "x.db")
    assert (found.verdict, found.remedy) == ("FAIL", f"facewire platform migrate --database sqlite:///{tmp_path}/x.db")
    (tmp_path / "y.db").write_bytes(b"no database" * 1000)
    assert verdicts(check_database(tmp_path / "y.db")) == {"database": "FAIL"}


def test_an_unreachable_server_is_a_failure_that_shows_no_password() -> None:
    (found,) = check_database(f"postgresql://me:hush@127.0.0.1:{free_port()}/x")
    assert found.verdict == "FAIL"
    assert "hush" not in str(found)


@pytest.mark.parametrize(("free", "verdict"), [(60, "ok"), (4, "warn"), (0.4, "FAIL")])
def test_a_disk_is_reported_before_it_is_full(free: float, verdict: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gib = 2**30
    monkeypatch.setattr(shutil, "disk_usage", lambda _: (100 * gib, 0, round(free * gib)))
    assert verdicts(check_disk(tmp_path / "x.db")) == {"disk": verdict}
    monkeypatch.undo()
    assert verdicts(check_disk(tmp_path / "nowhere" / "x.db")) == {"disk": "FAIL"}
    assert verdicts(check_disk("postgresql:///x")) == {}


@pytest.mark.parametrize(("clock_state", "verdict"), [(0, "ok"), (5, "warn"), (-1, "warn")])
def test_an_unsynchronized_clock_is_a_warning(clock_state: int, verdict: str, monkeypatch: pytest.MonkeyPatch) -> None:
    class Kernel:
        def adjtimex(self, _: object) -> int:
            return clock_state

    monkeypatch.setattr("ctypes.CDLL", lambda _: Kernel())
    assert check_clock().verdict == verdict


# The command


def run(*words: str | Path, **environment: str) -> Result:
    return CliRunner(env=environment).invoke(cli, [*map(str, words)], auto_envvar_prefix="FACEWIRE")


def rows(result: Result) -> dict[str, dict[str, Any]]:
    return {row["check"]: row for row in map(json.loads, result.stdout.splitlines())}


@pytest.mark.network
def test_the_doctor_has_the_settings_of_the_worker(tmp_path: Path) -> None:
    open_store(tmp_path / "x.db").close()
    with anonymous("ours", tmp_path) as address:
        file = tmp_path / "site.toml"
        file.write_text(f'[platform.run]\nport = {address.port}\nshare = "group"\n[doctor]\noutput = "json"\n')
        done = run("--config", file, "doctor", FACEWIRE_PLATFORM_RUN_DATABASE=f"sqlite:///{tmp_path}/x.db")
    assert done.exit_code == 0, done.output
    assert str(file) in rows(done)["settings"]["message"]
    assert rows(done)["database"]["verdict"] == "ok"


@pytest.mark.network
def test_a_failed_check_exits_3_and_says_what_to_do(tmp_path: Path) -> None:
    arguments = ["doctor", "-p", str(free_port()), "--database", f"sqlite:///{tmp_path}/x.db"]
    done = run(*arguments, "-o", "pretty", FACEWIRE_TAIL_HOTS="x")
    assert done.exit_code == 3
    assert "FAIL  settings              FACEWIRE_TAIL_HOTS: no command has such a setting. Did you mean" in done.stdout
    assert "FAIL  broker" in done.stdout
    assert "does it run" in done.stdout
    assert len(run(*arguments, "-o", "csv").stdout.splitlines()) == 1 + len(rows(run(*arguments, "-o", "json")))


@pytest.mark.network
def test_another_roles_machine_needs_no_database(tmp_path: Path) -> None:
    with anonymous("ours", tmp_path) as address:
        done = run("doctor", "-p", str(address.port), "--role", "consumer", "-o", "json")
    assert done.exit_code == 0, done.output
    assert rows(done).keys() == {"settings", "broker", "credential", "clock"}
    assert rows(done)["settings"]["message"] == "no settings file; every FACEWIRE_ variable is known"


def tell_of_box(store: Store, device: str, epoch: str = EPOCH, **about: Any) -> None:
    now = now_ms()
    store.store([Message(device, Status("00000000000000b1", True, now, epoch, period=20.0, **about), now)])


def test_bridged_devices_are_checked_if_there_are_any(tmp_path: Path) -> None:
    location = tmp_path / "x.db"
    with open_store(location) as store:
        tell(store, "plain", 0.0)
        assert list(check_bridges(location)) == []
        tell_of_box(store, "gate-1", proof="proven", unexplained=0, source_offset=-1000)
        assert verdicts(check_bridges(location)) == {"bridged boxes": "ok"}
        tell_of_box(store, "gate-2", proof="proven", unexplained=3, source_offset=14_400_000)
        tell_of_box(store, "hall-1", proof="reconciled")
        found = {finding.check: finding for finding in check_bridges(location)}
    assert "2 of 3 bridged devices" in found["bridged boxes"].message
    assert "gate-2 (proven, 3 unexplained), hall-1 (not reconciled yet)" in found["bridged boxes"].message
    assert "gate-2 (+14400 s)" in found["box clocks"].message
    assert list(check_bridges(tmp_path / "none.db")) == []


def test_records_of_a_box_that_are_here_twice_are_found(tmp_path: Path) -> None:
    location, other = tmp_path / "x.db", "00000000000000e2"
    with open_store(location) as store:
        for epoch in (EPOCH, other):
            made = [event(seq)._replace(extra={"source_id": f"rec:1/{seq}"}) for seq in (1, 2)]
            store_batches(store, Batch(epoch, "00000000000000b1", 0, 2, 2, 1, made))
        tell_of_box(store, "d", other, proof="proven")
        found = {finding.check: finding for finding in check_bridges(location)}
    assert found["doubles"].verdict == "warn"
    assert "2 events of boxes stored twice: d (2)" in found["doubles"].message
