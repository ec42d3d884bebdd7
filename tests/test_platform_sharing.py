import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest
from broker_engines import PARAMETERS, anonymous, free_port, with_users

import facewire_platform.intake.sharing
from facewire.errors import BrokerError, CredentialsRefused
from facewire.roles import Role
from facewire.topics import Topics
from facewire_broker import credentials
from facewire_broker.credentials import UsersFile
from facewire_mqtt import Connection
from facewire_mqtt.address import Address
from facewire_platform.intake.sharing import shared_subscriptions_deliver

pytestmark = pytest.mark.network


@pytest.mark.parametrize("engine", PARAMETERS)
def test_a_broker_that_shares_is_recognized(engine: str, tmp_path: Path) -> None:
    with anonymous(engine, tmp_path) as address:
        assert shared_subscriptions_deliver(address, Topics("a/site"))


def known(folder: Path) -> tuple[UsersFile, str]:
    """A users file with a platform, and its secret."""
    file, secret = UsersFile(folder / "users"), credentials.generate_secret()
    with file.editing() as users:
        credentials.add(users, "worker", Role.PLATFORM, secret)
    return file, secret


@pytest.mark.parametrize("engine", PARAMETERS)
def test_a_platform_credential_is_enough(engine: str, tmp_path: Path) -> None:
    users, secret = known(tmp_path)
    with with_users(engine, tmp_path, users) as address:
        assert shared_subscriptions_deliver(dataclasses.replace(address, username="worker", password=secret), Topics())


@pytest.fixture
def publish_times(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[str], int]], None]:
    """Publishes each message `times(topic)` times, like a broker that loses or repeats."""
    monkeypatch.setattr(facewire_platform.intake.sharing, "GRACE", 0.1)
    monkeypatch.setattr(facewire_platform.intake.sharing, "PATIENCE", 0.5)
    real = Connection.publish

    def make(times: Callable[[str], int]) -> None:
        monkeypatch.setattr(Connection, "publish", lambda self, message: all(real(self, message) for _ in range(times(message.topic))))

    return make


@pytest.mark.parametrize(("shared", "plain", "deliver"), [(1, 1, True), (0, 1, False), (2, 1, False)])
def test_the_arrived_messages_decide(
    publish_times: Callable[[Callable[[str], int]], None], tmp_path: Path, shared: int, plain: int, deliver: bool
) -> None:
    publish_times(lambda topic: shared if "shared" in topic else plain)
    with anonymous("ours", tmp_path) as address:
        assert shared_subscriptions_deliver(address, Topics()) is deliver


def test_a_broker_that_delivers_nothing_at_all_is_an_error(publish_times: Callable[[Callable[[str], int]], None], tmp_path: Path) -> None:
    publish_times(lambda _: 0)
    with anonymous("ours", tmp_path) as address, pytest.raises(BrokerError, match="did not come back within"):
        shared_subscriptions_deliver(address, Topics())


def test_refused_credentials_and_a_missing_broker_are_different_errors(tmp_path: Path) -> None:
    users, _ = known(tmp_path)
    with with_users("ours", tmp_path, users) as address, pytest.raises(CredentialsRefused, match="refused our credentials"):
        shared_subscriptions_deliver(dataclasses.replace(address, username="worker", password=credentials.generate_secret()), Topics())
    with pytest.raises(BrokerError, match="refused"):
        shared_subscriptions_deliver(Address(port=free_port()), Topics())
