"""Whether a broker's shared subscriptions deliver: RabbitMQ 3.10 and NATS 2.9 grant them, and deliver nothing."""

import secrets
import time
from typing import Final

from facewire.errors import BrokerError
from facewire.messages import Ack, encode
from facewire.topics import QOS, Topics
from facewire_mqtt.address import Address
from facewire_mqtt.visit import PATIENCE, Visit

#: The two probes go one after the other; where only the second came, the first is given this much longer, s.
GRACE: Final = 1.0


def shared_subscriptions_deliver(address: Address, topics: Topics) -> bool:
    """Subscribe an ack of a device that there is not, shared; publish one there; see whether it comes, once.

    Needs what a platform's credential may do, and a session of its own: where the broker binds client ids to credentials
    (docs/broker.md), call it before the worker's own session.

    Raises:
        CredentialsRefused: the broker does not know us.
        BrokerError: it cannot be reached, or not even a plain subscription delivers.
    """
    name = f"facewire-probe-{secrets.token_hex(4)}"
    shared, plain = topics.of(f"{name}.shared", "ack"), topics.of(f"{name}.plain", "ack")
    probe = encode(Ack(secrets.token_hex(8), secrets.token_hex(8), 0, 0, "probe"))
    with Visit(address, "facewire-probe", [(f"$share/{name}/{shared}", QOS["ack"]), (plain, QOS["ack"])]) as visit:
        visit.publish(shared, probe)
        visit.publish(plain, probe)
        came = _until(visit, plain, time.monotonic() + PATIENCE)
        if came[-1:] != [plain]:
            raise BrokerError(f"{address}: an ack that we published did not come back within {PATIENCE:g} s; may we publish acks?")
        if shared not in came:
            came += _until(visit, shared, time.monotonic() + GRACE)
    return came.count(shared) == 1


def _until(visit: Visit, topic: str, deadline: float) -> list[str]:
    """The topics of the messages that come, up to one on `topic`."""
    came: list[str] = []
    while topic not in came and (message := visit.message(deadline)) is not None:
        came.append(message.topic)
    return came
