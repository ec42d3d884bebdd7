"""Rights that are taken away stay away: the file is read until it can be, or nobody is served."""

import contextlib
import shutil
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from broker_engines import PARAMETERS
from broker_process import broker_process
from mqtt_probe import Probe
from waiting import wait_until

from facewire.errors import BrokerError
from facewire.roles import Role
from facewire.topics import Topics
from facewire_broker import credentials
from facewire_broker.authentication import UsersAuthenticator
from facewire_broker.credentials import UsersFile
from facewire_broker.embedded import Embedded
from facewire_broker.following import Follower
from facewire_broker.limits import BrokerLimits


class Source:
    """A file that may change, and may be unreadable."""

    def __init__(self) -> None:
        self.value, self.version, self.error, self.reads = "one", 1, "", 0

    def read(self) -> str:
        self.reads += 1
        if self.error:
            raise BrokerError(self.error)
        return self.value


@pytest.fixture
def source() -> Source:
    return Source()


@pytest.fixture
def follower(source: Source) -> Follower[str]:
    return Follower(lambda: source.version, source.read, patience=60.0)


def test_a_file_that_does_not_change_is_read_once(source: Source, follower: Follower[str]) -> None:
    assert follower.first == "one"
    assert [follower.poll(float(now)) for now in range(100)] == [None] * 100
    assert source.reads == 1


def test_a_change_is_read_even_if_the_file_was_unreadable_when_it_changed(source: Source, follower: Follower[str]) -> None:
    source.value, source.version, source.error = "two", 2, "Permission denied"
    assert [follower.poll(float(now)) for now in range(30)] == [None] * 30
    source.error = ""
    assert follower.poll(30.0) == "two"
    assert follower.poll(31.0) is None
    assert not follower.is_blind


def test_a_file_that_stays_unreadable_ends_all_service_and_service_begins_again_with_it(
    source: Source, follower: Follower[str], caplog: pytest.LogCaptureFixture
) -> None:
    source.version, source.error = 2, "Permission denied"
    blind = {now: follower.is_blind for now in range(100) if follower.poll(float(now)) is None}
    assert blind[59] is False
    assert blind[60] is True
    # Said at once, and then every ten seconds.
    assert len(caplog.records) == 10
    assert all("Permission denied" in record.message for record in caplog.records)
    source.error = ""
    assert follower.poll(100.0) == "one"
    assert not follower.is_blind


def test_a_new_failure_has_the_whole_patience_again(source: Source, follower: Follower[str]) -> None:
    for start in (0.0, 1000.0):
        source.version, source.error = source.version + 1, "Permission denied"
        follower.poll(start)
        follower.poll(start + 59)
        assert not follower.is_blind
        source.error = ""
        assert follower.poll(start + 59.5) == "one"


# -- the broker ----------------------------------------------------------------------------------


@pytest.fixture
def file(tmp_path: Path) -> UsersFile:
    return UsersFile(tmp_path / "users")


def add(file: UsersFile, *names: str) -> dict[str, str]:
    secrets = {name: credentials.generate_secret() for name in names}
    with file.editing() as users:
        for name, secret in secrets.items():
            credentials.add(users, name, Role.DEVICE, secret)
    return secrets


def remove_unreadably(file: UsersFile, name: str) -> Path:
    """Remove a user while the file cannot be read, as if another system user edited it.

    Returns the hidden file.
    """
    with file.editing() as users:
        del users[name]
    aside = file.path.rename(file.path.with_name("aside"))
    file.path.mkdir()
    return aside


Serve = Callable[[float], tuple[Embedded, dict[str, str]]]


@pytest.fixture
def serve(file: UsersFile) -> Iterator[Serve]:
    """Serve two devices for so long after the file could last be read, s."""
    with contextlib.ExitStack() as stack:

        def made(users_timeout: float) -> tuple[Embedded, dict[str, str]]:
            secrets = add(file, "dev1", "dev2")
            limits = BrokerLimits(users_timeout=users_timeout)
            return stack.enter_context(closing(Embedded(authenticator=UsersAuthenticator(file, Topics(), limits)))), secrets

        yield made


@pytest.mark.network
def test_a_user_removed_while_the_file_is_unreadable_is_out_once_it_is_readable(
    file: UsersFile, serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    it, secrets = serve(60.0)
    with Probe(it.address, "dev1", user="dev1", password=secrets["dev1"]) as removed, Probe(it.address, "dev2", user="dev2", password=secrets["dev2"]) as stays:  # fmt: skip
        aside = remove_unreadably(file, "dev1")
        wait_until(lambda: "users not reloaded" in caplog.text)
        removed.ping()
        file.path.rmdir()
        aside.rename(file.path)
        assert removed.is_closed()
        stays.ping()
        with Probe(it.address, "dev1", user="dev1", password=secrets["dev1"]) as again:
            assert again.code == 5


@pytest.mark.network
def test_nobody_is_served_if_the_file_stays_unreadable_and_all_are_when_it_is_read(
    file: UsersFile, serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    it, secrets = serve(3.0)
    with Probe(it.address, "dev1", user="dev1", password=secrets["dev1"]) as removed, Probe(it.address, "dev2", user="dev2", password=secrets["dev2"]) as stays:  # fmt: skip
        aside = remove_unreadably(file, "dev1")
        assert removed.is_closed()
        assert stays.is_closed()
    assert "serving nobody" in caplog.text
    # Code 3, unavailable: an honest device tries again. Code 5 would tell it to give up.
    with Probe(it.address, "dev2", user="dev2", password=secrets["dev2"]) as late:
        assert late.code == 3
    file.path.rmdir()
    aside.rename(file.path)

    def code(name: str) -> int | None:
        with Probe(it.address, name, user=name, password=secrets[name]) as probe:
            return probe.code

    wait_until(lambda: code("dev2") == 0)
    assert code("dev1") == 5


@pytest.mark.network
@pytest.mark.process
@pytest.mark.parametrize("engine", PARAMETERS)
def test_both_engines_take_a_right_away_after_an_unreadable_file(file: UsersFile, engine: str) -> None:
    secrets = add(file, "dev1", "dev2")
    name = "embedded" if engine == "ours" else engine
    with (
        broker_process("--listen", "127.0.0.1:0", "--users", str(file.path), "--engine", name) as (running, where),
        Probe(where, "dev1", user="dev1", password=secrets["dev1"]) as removed,
        Probe(where, "dev2", user="dev2", password=secrets["dev2"]) as stays,
    ):
        aside = remove_unreadably(file, "dev1")
        assert running.stderr is not None
        assert any("users not reloaded" in line for line in running.stderr)
        removed.ping()
        file.path.rmdir()
        aside.rename(file.path)
        assert removed.is_closed()
        stays.ping()


@pytest.mark.network
@pytest.mark.process
@pytest.mark.parametrize("engine", PARAMETERS)
def test_both_engines_serve_nobody_if_the_file_stays_unreadable(file: UsersFile, engine: str) -> None:
    secrets = add(file, "dev1")
    name = "embedded" if engine == "ours" else engine
    options = ["--listen", "127.0.0.1:0", "--users", str(file.path), "--engine", name, "--limit", "users_timeout=2"]
    with broker_process(*options) as (_, where), Probe(where, "dev1", user="dev1", password=secrets["dev1"]) as one:
        remove_unreadably(file, "dev1")
        assert one.is_closed()


@pytest.mark.network
@pytest.mark.process
@pytest.mark.skipif(not shutil.which("prlimit"), reason="prlimit is not installed")
def test_an_outsider_who_opens_all_the_files_that_there_are_delays_no_revocation(file: UsersFile) -> None:
    """200 of 400 descriptors stay free: enough to read the users at any load."""
    secrets = add(file, "dev1", "dev2")
    with (
        broker_process("--listen", "127.0.0.1:0", "--users", str(file.path), command=("prlimit", "--nofile=400:400")) as (_, where),
        Probe(where, "dev1", user="dev1", password=secrets["dev1"]) as removed,
        Probe(where, "dev2", user="dev2", password=secrets["dev2"]) as stays,
        contextlib.ExitStack() as stack,
    ):
        assert any("INFO" in line and "connections limited to 200" in line for line in where.lines), "nobody asked for more"
        for _ in range(600):
            stack.enter_context(Probe(where))
        with file.editing() as users:
            del users["dev1"]
        assert removed.is_closed()
        stays.ping()


def test_a_version_changes_with_the_owner_of_the_file(file: UsersFile) -> None:
    add(file, "dev1")
    before = file.version()
    file.path.chmod(0o640)
    assert file.version() != before
