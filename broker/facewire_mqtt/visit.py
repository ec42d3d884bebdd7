"""One short session with a broker, to ask something of it: connect, publish, see what comes back. Blocking.

MQTT 3.1.1 has no answer that says a publication was refused, and Mosquitto grants every subscription: what a broker
really does is only to be seen by what arrives.
"""

import queue
import secrets
import time
from collections.abc import Sequence
from typing import Final

from facewire.errors import BrokerError, CredentialsRefused, SubscriptionRefused
from facewire_mqtt.address import Address
from facewire_mqtt.connection import Connection
from facewire_mqtt.happenings import Connected, Disconnected, Happening, Publication, Received, Refused

#: A broker that takes longer than this to answer is as good as none, s.
PATIENCE: Final = 10.0


class Visit:
    """A session that is up, to be used in a `with`.

    Args:
        address: the broker.
        name: what the client id begins with, at most 14 characters.
        subscriptions: (filter, QoS) pairs.

    Raises:
        CredentialsRefused: the broker does not know us.
        SubscriptionRefused: it refuses one of these.
        BrokerError: it cannot be reached.
    """

    def __init__(self, address: Address, name: str, subscriptions: Sequence[tuple[str, int]]) -> None:
        self._address = address
        self._told: queue.SimpleQueue[Happening] = queue.SimpleQueue()
        # 23 characters at most: a broker may refuse more (MQTT 3.1.1 section 3.1.3.1).
        self._connection = Connection(address, f"{name}-{secrets.token_hex(4)}", subscriptions, self._told.put)
        self._connection.start()
        try:
            self._wait_until_up()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        self._connection.close(timeout=1.0)

    def __enter__(self) -> "Visit":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def publish(self, topic: str, payload: bytes) -> None:
        """At QoS 1, not retained. Raises `BrokerError` where the session has ended."""
        if not self._connection.publish(Publication(topic, payload)):
            raise BrokerError(f"{self._address} ended the session")

    def message(self, deadline: float) -> Received | None:
        """The next message; None where none comes until a moment of `time.monotonic`. Raises as `publish` does."""
        while True:
            match self._next(deadline):
                case Received() as message:
                    return message
                case None:
                    return None
                case Disconnected(reason):
                    raise BrokerError(f"{self._address} ended the session: {reason}")

    def _next(self, deadline: float) -> Happening | None:
        try:
            return self._told.get(timeout=max(0.0, deadline - time.monotonic()))
        except queue.Empty:
            return None

    def _wait_until_up(self) -> None:
        match self._next(time.monotonic() + PATIENCE):
            case Connected():
                return
            case Refused(reason, credentials=True):
                raise CredentialsRefused(f"{self._address} refuses who we are: {reason}")
            case Refused(reason):
                raise SubscriptionRefused(f"{self._address}: {reason}")
            case Disconnected(reason):
                raise BrokerError(f"{self._address}: {reason}")
            case _:
                raise BrokerError(f"{self._address}: no answer within {PATIENCE:g} s")
