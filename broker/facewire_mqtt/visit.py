"""One short session with a broker, to examine it: connect, publish, see what comes back. Blocking.

MQTT 3.1.1 has no answer for a refused publication, and Mosquitto grants every subscription. Only
delivery shows what a broker really allows.
"""

import queue
import secrets
import time
from collections.abc import Sequence
from typing import Final

from facewire.errors import BrokerError, CredentialsRefused, NotMqtt, SubscriptionRefused, Unreachable
from facewire_mqtt.address import Address
from facewire_mqtt.connection import Connection
from facewire_mqtt.happenings import Connected, Disconnected, Happening, Publication, Reached, Received, Refused
from facewire_mqtt.session import CONNECT_TIMEOUT

#: A session that needs longer than this is given up, s. It gives up by itself a little earlier,
#: and then knows how far it got.
PATIENCE: Final = CONNECT_TIMEOUT + 2.0
_ERRORS: Final[dict[Reached, type[BrokerError]]] = {"nothing": Unreachable, "port": NotMqtt, "broker": BrokerError}


def remedy_of(exc: BrokerError) -> str:
    """What to look at if a visit failed, though the broker refused neither secret nor topics."""
    match exc:
        case Unreachable():
            return "does it run at this host and port, and does a firewall let us through?"
        case NotMqtt():
            return "something answers there: is it the broker's port, and do both sides use TLS, or neither?"
        case _:
            return "see the broker's log"


class Visit:
    """A session that is up, for a `with`.

    Args:
        address: the broker.
        name: the beginning of the client id, at most 14 characters.
        subscriptions: (filter, QoS) pairs.

    Raises:
        CredentialsRefused: the broker refused our credentials.
        SubscriptionRefused: it refused one of the subscriptions.
        Unreachable, NotMqtt: there is no broker.
        BrokerError: it refused us for another reason.
    """

    def __init__(self, address: Address, name: str, subscriptions: Sequence[tuple[str, int]]) -> None:
        self._address = address
        self._happenings: queue.SimpleQueue[Happening] = queue.SimpleQueue()
        # 23 characters at most: a broker may refuse more (MQTT 3.1.1 section 3.1.3.1).
        self._connection = Connection(address, f"{name}-{secrets.token_hex(4)}", subscriptions, self._happenings.put, quiet=True)
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
        """Publish at QoS 1, not retained. Raises `BrokerError` if the session has ended."""
        if not self._connection.publish(Publication(topic, payload)):
            raise BrokerError(f"{self._address} ended the session")

    def message(self, deadline: float) -> Received | None:
        """The next message; None if none arrives by `deadline` (monotonic). Raises as `publish`."""
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
            return self._happenings.get(timeout=max(0.0, deadline - time.monotonic()))
        except queue.Empty:
            return None

    def _wait_until_up(self) -> None:
        match self._next(time.monotonic() + PATIENCE):
            case Connected():
                return
            case Refused(reason, credentials=True):
                raise CredentialsRefused(f"{self._address} refused our credentials: {reason}")
            case Refused(reason):
                raise SubscriptionRefused(f"{self._address}: {reason}")
            case Disconnected(reason, reached):
                raise _ERRORS[reached](f"{self._address}: {reason}")
            case _:
                raise BrokerError(f"{self._address}: no answer within {PATIENCE:g} s")
