"""Many at a time: sessions of one user, devices that one platform answers, connections to check."""

import asyncio
import contextlib
import logging
from collections import Counter
from pathlib import Path

import pytest
from broker_engines import counted, limited
from mqtt_probe import Probe, publish
from waiting import wait_until

from facewire.roles import Role
from facewire.topics import Topics
from facewire_broker import credentials
from facewire_broker.access import Rights
from facewire_broker.authentication import AllowAnyone, UsersAuthenticator
from facewire_broker.broker import Broker
from facewire_broker.connection import ClientConnection
from facewire_broker.credentials import UsersFile
from facewire_broker.embedded import Embedded
from facewire_broker.hub import Identity
from facewire_broker.limits import BrokerLimits
from facewire_broker.packets import Connect
from facewire_mqtt.address import Address

pytestmark = pytest.mark.network


def test_the_sessions_of_each_user_are_limited_apart(caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    caplog.set_level(logging.WARNING)
    file = UsersFile(tmp_path / "users")
    with file.editing() as users:
        for name in ("gate", "hall"):
            credentials.add(users, name, Role.CONSUMER, "s3cret")
    embedded = Embedded(limits=BrokerLimits(user_sessions=2), authenticator=UsersAuthenticator(file, Topics()))

    def connected(client_id: str, user: str) -> Probe:
        return Probe(embedded.address, client_id, user=user, password="s3cret")  # noqa: S106

    with contextlib.closing(embedded), connected("a", "gate") as first, connected("b", "gate"):
        with connected("c", "gate") as third, connected("a", "hall") as other, connected("b", "gate") as again:
            assert (third.code, other.code, again.code) == (3, 0, 0)
        assert "reason=user_sessions" in caplog.text
        assert "client='c' user='gate' limit=2" in caplog.text
        assert counted(embedded, "refused/user_sessions") == 1
        first.disconnect()
        # Each session that ends makes room for another.
        for _ in range(3):
            wait_until(lambda: embedded.call(lambda broker: len(broker.hub.sessions)) == 0)
            with connected("c", "gate") as third, connected("d", "gate") as fourth:
                assert (third.code, fourth.code) == (0, 0)


def test_anonymous_clients_share_only_the_limit_of_all_sessions() -> None:
    with limited(user_sessions=1) as it, Probe(it.address, "a") as one, Probe(it.address, "b") as two:
        assert (one.code, two.code) == (0, 0)


def counting_rights() -> tuple[Counter[str], AllowAnyone]:
    """An authenticator that allows everything, and counts how often each topic was checked."""
    checks = Counter[str]()

    class CountingRights(Rights):
        def may_publish(self, topic: str) -> bool:
            checks[topic] += 1
            return True

    class Counting(AllowAnyone):
        def authenticate(self, connect: Connect, certificate_name: str | None) -> Identity:
            return Identity(rights=CountingRights((), ()))

    return checks, Counting()


def test_the_platforms_rights_to_a_topic_are_checked_once() -> None:
    checks, authenticator = counting_rights()
    embedded = Embedded(authenticator=authenticator)
    with contextlib.closing(embedded), Probe(embedded.address, "platform") as one:
        for _ in range(3):
            one.send(b"".join(publish(f"facewire/v1/d{n}/ack") for n in range(3_000)))
        one.ping()
    assert len(checks) == 3_000
    assert set(checks.values()) == {1}


def test_a_connection_remembers_a_bounded_number_of_topics() -> None:
    checks, authenticator = counting_rights()
    embedded = Embedded(limits=BrokerLimits(sessions=10), authenticator=authenticator)
    with contextlib.closing(embedded), Probe(embedded.address, "a") as one:
        for _ in range(2):
            one.send(b"".join(publish(f"t/{n}") for n in range(100)))
        one.ping()
    # It checks every topic again that it does not remember.
    assert checks.total() >= 200 - 10


def test_messages_are_routed_between_checks_of_many_connections() -> None:
    """If all were checked at once, that would be one step of the event loop."""
    ticks, steps = [], []

    class Ticked(ClientConnection):
        def tick(self, now: float) -> None:
            ticks.append(now)

    async def tick_all() -> None:
        broker = Broker(Address(port=0))
        broker.streams.all = {Ticked(broker.hub, AllowAnyone(), broker.streams) for _ in range(1_200)}
        ticking = asyncio.ensure_future(broker.tick_connections())
        while not ticking.done():
            await asyncio.sleep(0)
            steps.append(len(ticks))

    asyncio.run(tick_all())
    assert steps[:3] == [500, 1000, 1200]
