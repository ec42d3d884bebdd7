"""Users: the file, the command, and a broker that follows the file."""

import contextlib
import dataclasses
import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from broker_engines import PARAMETERS
from broker_process import FACEWIRE, broker_process
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st
from mqtt_probe import CONNACK, PINGREQ, PINGRESP, SUBACK, Probe, connect, subscribe
from shown_commands import blocks, typed
from waiting import wait_until

from facewire.errors import BrokerError
from facewire.roles import Role
from facewire.topics import Topics
from facewire_broker import credentials, passwords
from facewire_broker.authentication import UsersAuthenticator
from facewire_broker.credentials import PASSWORD_ROUNDS, User, UsersFile
from facewire_broker.embedded import Embedded
from facewire_broker.limits import BrokerLimits
from facewire_broker.passwords import MAX_CHECKS
from facewire_broker_cli.broker import broker

V = "facewire/v1"


@pytest.fixture
def file(tmp_path: Path) -> UsersFile:
    return UsersFile(tmp_path / "users")


def users(file: UsersFile, *arguments: str, stdin: str | None = None) -> Result:
    return CliRunner().invoke(broker, ["users", arguments[0], "--users", str(file.path), *arguments[1:]], input=stdin)


def add(file: UsersFile, name: str, role: str, *arguments: str) -> str:
    """Add a user with the command; return its secret."""
    result = users(file, "add", name, "--role", role, *arguments)
    assert result.exit_code == 0, result.output
    secret: str = json.loads(result.stdout)["secret"]
    return secret


@contextlib.contextmanager
def serving(file: UsersFile) -> Iterator[Embedded]:
    embedded = Embedded(authenticator=UsersAuthenticator(file, Topics()))
    try:
        yield embedded
    finally:
        embedded.close()


# -- the file ------------------------------------------------------------------------------------


@given(secret=st.text(max_size=30), other=st.text(max_size=30))
def test_a_secret_verifies_and_another_does_not(secret: str, other: str) -> None:
    try:
        secret.encode(), other.encode()
    except UnicodeEncodeError:
        return
    user = User("a", Role.DEVICE, credentials.hash_secret(secret, 1))
    assert user.verify(secret)
    assert user.verify(other) == (secret == other)
    assert secret not in repr(user) or len(secret) < 12


def test_a_file_of_mosquitto_passwd_is_read(file: UsersFile) -> None:
    if not shutil.which("mosquitto_passwd"):
        pytest.skip("Mosquitto is not installed")
    subprocess.run(["mosquitto_passwd", "-c", "-b", str(file.path), "dev1", "correct horse"], check=True, capture_output=True)
    file.roles_path.write_text("# roles\n\ndev1 device\n")
    assert file.load()["dev1"].verify("correct horse")


@pytest.mark.parametrize(
    "line",
    [
        "dev1",
        "dev1:",
        "dev1:$6$abc$def",
        "dev1:$7$0$YWJj$YWJj",
        "dev1:$7$101$YWJj$YWJj",
        "dev1:$7$99999999$YWJj$YWJj",
        "a b:$7$1$YQ==$YQ==",
        ":x",
    ],
)
def test_a_wrong_line_is_named_without_showing_it(file: UsersFile, line: str) -> None:
    file.path.write_text(f"# users\n{line}\n")
    with pytest.raises(BrokerError, match="line 2") as caught:
        file.load()
    assert "YWJj" not in str(caught.value)


@pytest.mark.parametrize(
    "line",
    ["dev1", "dev1 boss", "dev1 device extra", "dev1 consumer status more", "g consumer devices=", "g consumer devices=a,,b",
     "g consumer devices=a/b", "g consumer devices=+", "g device devices=a", "g consumer devices=a status"],
)  # fmt: skip
def test_a_wrong_role_is_named(file: UsersFile, line: str) -> None:
    file.path.write_text("")
    file.roles_path.write_text(f"{line}\n")
    with pytest.raises(BrokerError, match="line 1"):
        file.load()


def test_a_user_without_a_role_is_named(file: UsersFile) -> None:
    file.path.write_text(f"dev1:{credentials.hash_secret('x')}\n")
    with pytest.raises(BrokerError, match="'dev1' has no role"):
        file.load()


def test_users_added_by_many_processes_are_all_kept(file: UsersFile) -> None:
    many = [
        subprocess.Popen([FACEWIRE, "broker", "users", "add", f"d{n}", "--role", "device", "--users", str(file.path)], stdout=-3, stderr=-3)
        for n in range(6)
    ]
    assert [process_.wait(30) for process_ in many] == [0] * 6
    assert sorted(file.load()) == [f"d{n}" for n in range(6)]


# -- the command ---------------------------------------------------------------------------------


def test_a_generated_secret_is_shown_once_and_stored_as_a_hash(file: UsersFile) -> None:
    secret = add(file, "dev1", "device")
    assert len(secret) >= 32
    assert file.load()["dev1"].verify(secret)
    assert secret not in file.path.read_text() + file.roles_path.read_text()
    assert secret not in users(file, "list").output
    assert {path.stat().st_mode & 0o777 for path in (file.path, file.roles_path)} == {0o600}


def test_a_secret_in_a_file_is_readable_by_its_owner_only_and_not_shown(file: UsersFile, tmp_path: Path) -> None:
    path = tmp_path / "secret"
    for command in (["add", "dev1", "--role", "device"], ["passwd", "dev1"]):
        result = users(file, *command, "--secret-to", str(path))
        secret = path.read_text().strip()
        assert file.load()["dev1"].verify(secret)
        assert secret not in result.output
        assert path.stat().st_mode & 0o777 == 0o600
    taken = users(file, "add", "dev2", "--role", "device", "--secret-to", str(path))
    assert (taken.exit_code, list(file.load()), path.read_text().strip()) == (2, ["dev1"], secret)
    assert "secret: File exists" in taken.stderr
    failed = users(file, "add", "dev2", "--role", "device", "--secret-to", str(tmp_path / "nowhere" / "secret"))
    assert (failed.exit_code, list(file.load())) == (2, ["dev1"])
    assert "nowhere/secret: No such file" in failed.stderr


def test_a_password_from_stdin_is_hashed_with_many_rounds_and_not_shown(file: UsersFile) -> None:
    result = users(file, "add", "boss", "--role", "operator", "--password-file", "-", stdin="correct horse battery\n")
    assert result.exit_code == 0
    assert "horse" not in result.output
    assert file.load()["boss"].rounds == PASSWORD_ROUNDS
    assert file.load()["boss"].verify("correct horse battery")


def test_a_consumer_is_narrowed_to_devices_and_widened_again(file: UsersFile) -> None:
    secret = add(file, "gate-1", "consumer", "--status", "--devices", "lobby-1,lobby-2")
    add(file, "dev1", "device")
    assert file.roles_path.read_text() == "gate-1 consumer status devices=lobby-1,lobby-2\ndev1 device\n"
    assert [json.loads(line) for line in users(file, "list").stdout.splitlines()] == [
        {"user": "gate-1", "role": "consumer", "status": True, "devices": "lobby-1,lobby-2"},
        {"user": "dev1", "role": "device", "status": False},
    ]
    assert users(file, "narrow", "gate-1", "--devices", "lobby-3").exit_code == 0
    assert file.load()["gate-1"].devices == ("lobby-3",)
    assert file.load()["gate-1"].verify(secret)
    assert users(file, "narrow", "gate-1", "--devices", "").exit_code == 0
    assert file.load()["gate-1"].devices == ()


def test_users_are_listed_changed_and_removed(file: UsersFile) -> None:
    old = add(file, "dev1", "device")
    add(file, "gate", "consumer", "--status")
    assert [json.loads(line) for line in users(file, "list").stdout.splitlines()] == [
        {"user": "dev1", "role": "device", "status": False},
        {"user": "gate", "role": "consumer", "status": True},
    ]
    new = json.loads(users(file, "passwd", "dev1").stdout)["secret"]
    assert file.load()["dev1"].verify(new)
    assert not file.load()["dev1"].verify(old)
    assert users(file, "remove", "dev1").exit_code == 0
    assert list(file.load()) == ["gate"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["add", "dev1", "--role", "device"], "already exists"),
        (["add", "a/b", "--role", "device"], "'a/b'"),
        (["add", "x", "--role", "device", "--status"], "consumer"),
        (["add", "x", "--role", "king"], "king"),
        (["add", "x", "--role", "operator", "--devices", "dev1"], "only a consumer or a bridge can be narrowed"),
        (["add", "x", "--role", "consumer", "--devices", "+"], "'+'"),
        (["add", "x", "--role", "consumer", "--devices", "a,"], "''"),
        (["narrow", "dev1", "--devices", "dev2"], "only a consumer or a bridge can be narrowed"),
        (["narrow", "x", "--devices", "dev2"], "does not exist"),
        (["passwd", "x"], "does not exist"),
        (["remove", "x"], "does not exist"),
        (["add", "x", "--role", "device", "--password-file", "-"], "shorter than"),
    ],
)
def test_a_mistake_is_reported_and_changes_nothing(file: UsersFile, arguments: list[str], message: str) -> None:
    add(file, "dev1", "device")
    before = file.path.read_text(), file.roles_path.read_text()
    result = users(file, *arguments, stdin="short\n")
    assert result.exit_code == 2
    assert message in result.stderr
    assert (file.path.read_text(), file.roles_path.read_text()) == before


def test_a_folder_that_is_missing_is_named_and_not_made(tmp_path: Path) -> None:
    done = users(UsersFile(tmp_path / "none" / "users"), "add", "gate", "--role", "consumer")
    assert str(done.exception) == f"{tmp_path}/none/users: there is no folder {tmp_path}/none"
    assert list(tmp_path.iterdir()) == []


# -- the broker ----------------------------------------------------------------------------------


@pytest.mark.network
def test_a_client_id_belongs_to_its_credential(file: UsersFile) -> None:
    dev, gate = add(file, "dev1", "device"), add(file, "gate", "consumer")
    add(file, "dev2", "device")
    with serving(file) as it:
        for user, secret, client_id, code in (
            ("dev1", dev, "dev1", 0),
            ("dev1", dev, "dev2", 2),
            ("dev1", dev, "dev1-x", 2),
            ("dev1", dev, "", 2),
            ("gate", gate, "", 2),
            ("gate", gate, "dev1", 2),
            ("gate", gate, "gate", 0),
            ("gate", gate, "facewire-tail-1f", 0),
        ):
            with Probe(it.address, client_id, user=user, password=secret) as one:
                assert (client_id, one.code) == (client_id, code)


@pytest.mark.network
def test_the_same_client_id_of_two_users_is_two_sessions(file: UsersFile) -> None:
    gate, ops = add(file, "gate", "consumer"), add(file, "ops", "operator")
    with (
        serving(file) as it,
        Probe(it.address, "tail", user="gate", password=gate) as one,
        Probe(it.address, "tail", user="ops", password=ops) as two,
    ):
        one.ping()
        two.ping()


@pytest.mark.network
def test_a_user_cannot_take_messages_by_joining_another_users_group(file: UsersFile) -> None:
    dev, ops = add(file, "dev1", "device"), add(file, "ops", "operator")
    one_worker, other_worker = add(file, "w1", "platform"), add(file, "w2", "platform")
    with (
        serving(file) as it,
        Probe(it.address, "w1", user="w1", password=one_worker) as w1,
        Probe(it.address, "w2", user="w2", password=other_worker) as w2,
        Probe(it.address, "ops", user="ops", password=ops) as thief,
        Probe(it.address, "dev1", user="dev1", password=dev) as device,
    ):
        for probe in (w1, w2, thief):
            assert probe.subscribe((f"$share/g/{V}/+/history", 1)) == [1]
        for n in range(10):
            device.publish(f"{V}/dev1/history", b"%d" % n)
        for worker in (w1, w2):
            worker.ping()
        assert sorted(int(got.payload) for got in w1.inbox + w2.inbox) == list(range(10))
        assert len(w1.inbox) == 5


@pytest.mark.network
@pytest.mark.parametrize("role", ["operator", "consumer"])
def test_a_user_named_like_a_role_joins_no_group_of_that_role(file: UsersFile, role: str) -> None:
    dev, worker, thief = add(file, "dev1", "device"), add(file, "w1", "platform"), add(file, "platform", role)
    with (
        serving(file) as it,
        Probe(it.address, "w1", user="w1", password=worker) as w1,
        Probe(it.address, "platform", user="platform", password=thief) as other,
        Probe(it.address, "dev1", user="dev1", password=dev) as device,
    ):
        for probe in (w1, other):
            assert probe.subscribe((f"$share/g/{V}/+/match", 1)) == [1]
        for n in range(20):
            device.publish(f"{V}/dev1/match", b"%d" % n)
        w1.ping()
        assert [int(got.payload) for got in w1.inbox] == list(range(20))


@pytest.mark.network
def test_changes_take_effect_without_a_restart(file: UsersFile) -> None:
    secret = add(file, "dev1", "device")
    stays = add(file, "dev2", "device")
    with (
        serving(file) as it,
        Probe(it.address, "dev1", user="dev1", password=secret) as one,
        Probe(it.address, "dev2", user="dev2", password=stays) as two,
    ):
        changed = json.loads(users(file, "passwd", "dev1").stdout)["secret"]
        assert one.is_closed()
        with Probe(it.address, "dev1", user="dev1", password=secret) as late:
            assert late.code == 5
        with Probe(it.address, "dev1", user="dev1", password=changed) as again:
            assert again.code == 0
            users(file, "remove", "dev1")
            assert again.is_closed()
        added = add(file, "dev3", "device")

        def connects() -> bool:
            with Probe(it.address, "dev3", user="dev3", password=added) as new:
                return new.code == 0

        wait_until(connects)
        two.ping()


@pytest.mark.network
def test_a_changed_role_closes_the_connection_and_forgets_the_session(file: UsersFile) -> None:
    secret = add(file, "ops", "operator")
    with serving(file) as it, Probe(it.address, "x", user="ops", password=secret, clean=False) as one:
        one.subscribe(("#", 1))
        file.roles_path.write_text("ops consumer\n")
        assert one.is_closed()
        with Probe(it.address, "x", user="ops", password=secret, clean=False) as again:
            assert not again.session_present
            assert again.subscribe(("#", 1)) == [0x80]


@pytest.mark.network
def test_a_users_file_that_becomes_invalid_changes_nothing(file: UsersFile, caplog: pytest.LogCaptureFixture) -> None:
    secret = add(file, "dev1", "device")
    with serving(file) as it, Probe(it.address, "dev1", user="dev1", password=secret) as one:
        file.path.write_text("nonsense\n")
        wait_until(lambda: "users not reloaded" in caplog.text)
        one.ping()


@pytest.mark.network
def test_checking_passwords_delays_nobody(file: UsersFile, monkeypatch: pytest.MonkeyPatch) -> None:
    """A human's password takes 0.1 s of a thread; meanwhile the event loop runs."""
    checked: list[str] = []
    check = passwords.check

    def counting(user: User | None, secret: str, rounds: int) -> bool:
        checked.append(secret)
        return check(user, secret, rounds)

    monkeypatch.setattr(passwords, "check", counting)
    users(file, "add", "boss", "--role", "operator", "--password-file", "-", stdin="correct horse battery\n")
    secret = add(file, "dev1", "device")
    with contextlib.ExitStack() as stack, serving(file) as it, Probe(it.address, "dev1", user="dev1", password=secret) as one:
        guesses = [stack.enter_context(Probe(it.address)) for _ in range(MAX_CHECKS + 20)]
        for n, guess in enumerate(guesses):
            guess.send(connect(f"x{n}", user=f"name {n}", password=f"guess {n}"))
        wait_until(lambda: it.call(lambda server: server.hub.counters["refused/busy"]) > 0)
        before = len(checked)
        for _ in range(20):
            one.ping()
        assert len(checked) - before < 20, "pings wait for the checks"
        for guess in guesses:
            guess.drop()
        before = len(checked)
        with Probe(it.address, "boss", user="boss", password="correct horse battery") as boss:  # noqa: S106
            assert boss.code == 0
            assert boss.subscribe(("#", 1)) == [1]
        assert len(checked) - before < 10, "passwords of clients that left are checked"


@pytest.mark.network
def test_packets_sent_during_the_password_check_are_handled_after_it(file: UsersFile) -> None:
    users(file, "add", "boss", "--role", "operator", "--password-file", "-", stdin="correct horse battery\n")
    with serving(file) as it, Probe(it.address, timeout=20) as boss:
        boss.send(connect("boss", user="boss", password="correct horse battery"), subscribe(("#", 1)))  # noqa: S106
        boss.send(PINGREQ * 20_000)
        assert boss.wait(CONNACK).body == b"\0\0"
        assert boss.wait(SUBACK).body[2:] == b"\1"
        for _ in range(20_000):
            boss.wait(PINGRESP)


@pytest.mark.network
@pytest.mark.process
@pytest.mark.parametrize("engine", PARAMETERS)
def test_the_command_serves_users_and_follows_the_file_on_both_engines(file: UsersFile, engine: str) -> None:
    secret, other = add(file, "dev1", "device"), add(file, "plat", "platform")
    name = "embedded" if engine == "ours" else engine
    with (
        broker_process("--listen", "127.0.0.1:0", "--users", str(file.path), "--engine", name) as (running, where),
        Probe(where, "dev1", user="dev1", password=secret) as one,
        Probe(where, "plat", user="plat", password=other) as platform,
    ):
        platform.subscribe((f"{V}/+/history", 1))
        one.publish(f"{V}/dev1/history", b"batch")
        assert platform.message().payload == b"batch"
        users(file, "remove", "dev1")
        assert one.is_closed()
        platform.ping()
        running.terminate()
        assert running.wait(20) == 0


def test_mosquitto_needs_users() -> None:
    result = CliRunner().invoke(broker, ["run", "--engine", "mosquitto", "--listen", "127.0.0.1:0"])
    assert result.exit_code == 2
    assert "--users" in result.stderr


# -- other brokers -------------------------------------------------------------------------------


def test_the_emqx_files_are_as_its_documentation_says(file: UsersFile, tmp_path: Path) -> None:
    for name, role in (("dev1", "device"), ("plat", "platform"), ("gate", "consumer"), ("ops", "operator")):
        add(file, name, role)
    users(file, "add", "boss", "--role", "operator", "--password-file", "-", stdin="correct horse battery\n")
    result = CliRunner().invoke(broker, ["render", "emqx", "--to", str(tmp_path / "e"), "--users", str(file.path)])
    assert result.exit_code == 0
    assert "boss is left out" in result.stderr
    acl = (tmp_path / "e/acl.conf").read_text().splitlines()
    assert acl[1:] == [
        '{allow, {username, "plat"}, publish, ["facewire/v1/+/ack"]}.',
        '{allow, {username, "plat"}, subscribe, ["facewire/v1/#"]}.',
        '{deny, {username, "plat"}, all, ["#", "$SYS/#"]}.',
        '{allow, {username, "gate"}, subscribe, ["facewire/v1/+/match"]}.',
        '{deny, {username, "gate"}, all, ["#", "$SYS/#"]}.',
        '{allow, {username, "ops"}, subscribe, ["#", "$SYS/#"]}.',
        '{deny, {username, "ops"}, all, ["#", "$SYS/#"]}.',
        '{allow, {username, "boss"}, subscribe, ["#", "$SYS/#"]}.',
        '{deny, {username, "boss"}, all, ["#", "$SYS/#"]}.',
        '{allow, all, publish, ["facewire/v1/${username}/match", "facewire/v1/${username}/history", "facewire/v1/${username}/status"]}.',
        '{allow, all, subscribe, ["facewire/v1/${username}/ack"]}.',
        "{deny, all}.",
    ]
    rows = (tmp_path / "e/users.csv").read_text().splitlines()
    assert rows[0] == "user_id,password_hash,salt,is_superuser"
    assert [row.split(",")[0] for row in rows[1:]] == ["dev1", "plat", "gate", "ops"]
    assert (tmp_path / "e/users.csv").stat().st_mode & 0o777 == 0o600
    text = (tmp_path / "e/facewire.conf").read_text()
    for setting in (
        "bootstrap_type = hash",
        "iterations = 101",
        "no_match = deny",
        "use_username_as_clientid = true",
        f"{tmp_path}/e/acl.conf",
    ):
        assert setting in text
    assert text.count("{") == text.count("}")


def test_rendered_rules_use_the_root(file: UsersFile, tmp_path: Path) -> None:
    add(file, "dev1", "device")
    result = CliRunner().invoke(broker, ["render", "mosquitto", "--to", str(tmp_path / "m"), "--users", str(file.path), "--root", "site/a"])
    assert result.exit_code == 0
    assert "topic write site/a/v1/dev1/match\n" in (tmp_path / "m/acl").read_text()


@pytest.mark.process
def test_the_commands_in_the_documentation_work(tmp_path: Path) -> None:
    text = (Path(__file__).parent.parent / "docs" / "broker.md").read_text()
    typed("".join(blocks(text)), tmp_path)
    assert [line.split()[0] for line in (tmp_path / "site.users.roles").read_text().splitlines()] == [
        "lobby-1",
        "worker",
        "bridge-1",
        "ada",
    ]
    assert sorted(file.name for folder in ("mosquitto", "emqx") for file in (tmp_path / folder).iterdir()) == [
        "acl", "acl.conf", "facewire.conf", "mosquitto.conf", "passwd", "users.csv",
    ]  # fmt: skip


def test_the_limits_in_the_documentation_are_the_limits() -> None:
    text = (Path(__file__).parent.parent / "docs" / "broker.md").read_text()
    table = text.partition("## Limits")[2].partition("Every 10 s")[0]
    assert set(re.findall(r"`([a-z_]+)`", table)) == {field.name for field in dataclasses.fields(BrokerLimits)}


@pytest.mark.parametrize(
    ("pair", "message"),
    [("conections=5", "'connections'"), ("connections=x", "not of type int"), ("inflight=0", "above 0"), ("x", "there is no limit 'x'")],
)
def test_a_wrong_limit_is_a_usage_error(pair: str, message: str) -> None:
    result = CliRunner().invoke(broker, ["run", "--listen", "127.0.0.1:0", "--limit", pair])
    assert result.exit_code == 2
    assert message in result.stderr
