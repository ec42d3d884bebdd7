"""Tests shared subscriptions: RabbitMQ 3.10 and NATS 2.9 grant them and deliver nothing."""

import secrets
import time
from typing import Final

from facewire.errors import BrokerError
from facewire.messages import Ack, encode
from facewire.topics import QOS, Topics
from facewire_mqtt.address import Address
from facewire_mqtt.visit import PATIENCE, Visit

#: If the second of the two probes arrives before the first, wait this long for the first, s.
GRACE: Final = 1.0


def shared_subscriptions_deliver(address: Address, topics: Topics) -> bool:
    """Whether a shared subscription delivers an ack once; its device does not exist.

    It needs a platform's permissions and a session. Call it before the worker's session starts,
    because a broker may bind client ids to credentials (docs/broker.md).

    Raises:
        CredentialsRefused: the broker refuses our credentials.
        BrokerError: it cannot be reached, or even a plain subscription delivers nothing.
    """
    name = f"facewire-probe-{secrets.token_hex(4)}"
    shared, plain = topics.of(f"{name}.shared", "ack"), topics.of(f"{name}.plain", "ack")
    probe = encode(Ack(secrets.token_hex(8), secrets.token_hex(8), 0, 0, "probe"))
    with Visit(address, "facewire-probe", [(f"$share/{name}/{shared}", QOS["ack"]), (plain, QOS["ack"])]) as visit:
        visit.publish(shared, probe)
        visit.publish(plain, probe)
        arrived = _until(visit, plain, time.monotonic() + PATIENCE)
        if arrived[-1:] != [plain]:
            raise BrokerError(
                f"{address}: an ack that we published did not come back within {PATIENCE:g} s; are we allowed to publish acks?"
            )
        if shared not in arrived:
            arrived += _until(visit, shared, time.monotonic() + GRACE)
    return arrived.count(shared) == 1


def _until(visit: Visit, topic: str, deadline: float) -> list[str]:
    """The topics of the messages that arrive, until one arrives on `topic`."""
    topics: list[str] = []
    while topic not in topics and (message := visit.message(deadline)) is not None:
        topics.append(message.topic)
    return topics
