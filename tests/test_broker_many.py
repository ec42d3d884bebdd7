"""Many at a time: the sessions of one user, the devices that one platform answers, the connections to look after."""

import asyncio
import contextlib
import logging
from collections import Counter
from pathlib import Path

import pytest
from broker_engines import counted, limited
from mqtt_probe import Probe, publish
from waiting import wait_until

from facewire.topics import Topics
from facewire_broker import credentials
from facewire_broker.access import Rights, Role
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


def test_a_user_has_so_many_sessions_and_another_is_not_touched(caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    caplog.set_level(logging.WARNING)
    file = UsersFile(tmp_path / "users")
    with file.editing() as users:
        for name in ("gate", "hall"):
            credentials.add(users, name, Role.CONSUMER, "s3cret")
    embedded = Embedded(limits=BrokerLimits(user_sessions=2), authenticator=UsersAuthenticator(file, Topics()))

    def come(client_id: str, user: str) -> Probe:
        return Probe(embedded.address, client_id, user=user, password="s3cret")  # noqa: S106

    with contextlib.closing(embedded), come("a", "gate") as first, come("b", "gate"):
        with come("c", "gate") as third, come("a", "hall") as other, come("b", "gate") as again:
            assert (third.code, other.code, again.code) == (3, 0, 0)
        assert "reason=user_sessions" in caplog.text
        assert "client='c' user='gate' limit=2" in caplog.text
        assert counted(embedded, "refused/user_sessions") == 1
        first.disconnect()
        # The slot comes back, as often as somebody leaves.
        for _ in range(3):
            wait_until(lambda: embedded.call(lambda broker: len(broker.hub.sessions)) == 0)
            with come("c", "gate") as third, come("d", "gate") as fourth:
                assert (third.code, fourth.code) == (0, 0)


def test_who_has_no_credentials_has_as_many_sessions_as_there_may_be() -> None:
    with limited(user_sessions=1) as it, Probe(it.address, "a") as one, Probe(it.address, "b") as two:
        assert (one.code, two.code) == (0, 0)


def test_a_topic_is_learnt_once_however_many_devices_the_platform_answers() -> None:
    checked = Counter[str]()

    class Counted(Rights):
        def may_publish(self, topic: str) -> bool:
            checked[topic] += 1
            return True

    class Somebody(AllowAnyone):
        def authenticate(self, connect: Connect, certificate_name: str | None) -> Identity:
            return Identity(rights=Counted((), ()))

    embedded = Embedded(authenticator=Somebody())
    with contextlib.closing(embedded), Probe(embedded.address, "platform") as one:
        for _ in range(3):
            one.send(b"".join(publish(f"facewire/v1/d{n}/ack") for n in range(3_000)))
        one.ping()
    assert len(checked) == 3_000
    assert set(checked.values()) == {1}


def test_what_a_connection_remembers_of_topics_has_an_end() -> None:
    with limited(sessions=10) as it, Probe(it.address, "a") as one:
        for n in range(100):
            one.publish(f"t/{n}")
        (connection,) = it.call(lambda broker: list(broker.streams.all))
        assert isinstance(connection, ClientConnection)
        assert len(connection._topics) <= 10


def test_messages_pass_while_many_connections_are_looked_at() -> None:
    """A tick of all at once would be one step of the event loop."""
    looked, steps = [], []

    class Looked(ClientConnection):
        def tick(self, now: float) -> None:
            looked.append(now)

    async def look() -> None:
        broker = Broker(Address(port=0))
        broker.streams.all = {Looked(broker.hub, AllowAnyone(), broker.streams) for _ in range(1_200)}
        looking = asyncio.ensure_future(broker._tick_connections())
        while not looking.done():
            await asyncio.sleep(0)
            steps.append(len(looked))

    asyncio.run(look())
    assert steps[:3] == [500, 1000, 1200]
