"""The embedded broker: amqtt's `Broker` runs it, with our hub and connections inside.

It overrides these methods (the numbers are lines of broker.py in amqtt 0.12.1), and `fingerprint`
watches all of them:

    start                    246-275    opens the socket first, so that an address in use is one
                                        clear error
    _create_server_instance  326-354    a protocol for each connection, no tasks; no websockets; our
                                        own TLS
    _broadcast_loop          959-1007   does nothing: the hub routes each message at once, in order
    _broadcast_message       1104-1114  a message that an amqtt plugin broadcasts goes to the hub
    retain_message           834-861    so does a message that a plugin retains
    _session_monitor         356-383    time-outs, keep-alive, expiry, changed users, `$SYS`
    shutdown                 385-419    first stops accepting; cannot hang
"""

import asyncio
import logging
import ssl
import time
from collections.abc import Collection
from typing import Any, Final

from amqtt.broker import Broker as AmqttBroker
from amqtt.contexts import BrokerConfig, ListenerConfig

from facewire.errors import BrokerError
from facewire_broker import fingerprint
from facewire_broker.authentication import AllowAnyone, Authenticator
from facewire_broker.connection import ClientConnection
from facewire_broker.hub import Hub
from facewire_broker.limits import BrokerLimits
from facewire_broker.publish import Message
from facewire_broker.stream import Streams
from facewire_broker.tls import TlsTransport
from facewire_mqtt.address import Address
from facewire_system.failures import reason_of

log = logging.getLogger(__name__)

#: Seconds between two checks of every connection (four times that if there are many), and between
#: two updates of `$SYS`.
TICK: Final = 0.25
MANY_CONNECTIONS: Final = 1_000
SYS_INTERVAL: Final = 10.0
#: Connections checked in one step. To check 10,000 in one step would delay a match by 10 ms.
TICK_BATCH: Final = 500
#: Connections that the kernel keeps for us, and those accepted in one turn of the event loop.
BACKLOG: Final = 1_024
ACCEPTED_AT_ONCE: Final = 64
#: Seconds that clients have to receive their last messages at shutdown.
SHUTDOWN_TIMEOUT: Final = 4.0


class Broker(AmqttBroker):  # type: ignore[misc]  # amqtt has no types
    """A broker on one address, in the running event loop.

    Args:
        listen: the address; port 0 for any free port.
        authenticator: decides who may connect.
        limits: how much clients may use.
        tls: turns TLS on.

    Attributes:
        hub: sessions, routing and counters.
        address: where it listens, with the real port once started.
    """

    def __init__(
        self,
        listen: Address,
        *,
        authenticator: Authenticator | None = None,
        limits: BrokerLimits | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        super().__init__(BrokerConfig(listeners={"default": ListenerConfig(bind=str(listen))}, plugins={}))
        self.hub = Hub(limits or BrokerLimits())
        self.address = listen
        self._listen = listen
        self._authenticator = authenticator or AllowAnyone()
        self._tls = tls
        self._unwelcome: set[str] = set()
        self.streams = Streams(self.hub.limits)

    async def start(self) -> None:
        """Open the socket and serve.

        Raises:
            BrokerError: it cannot listen on the address, or amqtt is not the version that this
                broker was written for.
        """
        fingerprint.check()
        loop = asyncio.get_running_loop()
        try:
            # Before amqtt's start, which would log a traceback if the address is in use.
            self._server = await loop.create_server(
                self._connection,
                self._listen.host,
                self._listen.port,
                backlog=ACCEPTED_AT_ONCE,
                start_serving=False,
            )
        except OSError as exc:
            raise BrokerError(f"cannot listen on {self._listen}: {reason_of(exc)}") from exc
        self.address = Address(*self._server.sockets[0].getsockname()[:2])
        await super().start()

    def _connection(self) -> asyncio.BaseProtocol:
        connection = ClientConnection(self.hub, self._authenticator, self.streams)
        return TlsTransport(connection, self._tls, self.streams) if self._tls else connection

    async def _create_server_instance(self, *_: Any) -> asyncio.Server:
        await self._server.start_serving()
        for listening in self._server.sockets:
            # asyncio would take the same number for the kernel's queue.
            with listening.dup() as same:
                same.listen(BACKLOG)
        return self._server

    async def _broadcast_loop(self) -> None:
        return

    async def _broadcast_message(self, _session: object, topic: str, data: bytes, force_qos: int | None = None) -> None:
        self.hub.publish(Message(topic, bytes(data), min(force_qos or 0, 1)))

    async def retain_message(self, _session: object, topic_name: str, data: bytes, qos: int | None = None) -> None:
        self.hub.retained.put(Message(topic_name, bytes(data), min(qos or 0, 1)))

    async def _session_monitor(self) -> None:
        started = last_counters = last_check = time.monotonic()
        while True:
            await asyncio.sleep(TICK if len(self.streams.all) < MANY_CONNECTIONS else 4 * TICK)
            try:
                await self.tick_connections()
                now = time.monotonic()
                if now - last_check >= 1.0:
                    last_check = now
                    self._every_second(now)
                if now - last_counters >= SYS_INTERVAL:
                    last_counters = now
                    self.hub.publish_counters(now - started)
            except Exception:
                # If the monitor stopped, nobody would notice a client that lost power.
                log.exception("monitor failed, continuing")

    async def tick_connections(self) -> None:
        """Let each connection check its time-outs; route messages between two groups of them."""
        connections = list(self.streams.all)
        for start in range(0, len(connections), TICK_BATCH):
            now = time.monotonic()
            for connection in connections[start : start + TICK_BATCH]:
                connection.tick(now)
            await asyncio.sleep(0)

    def _every_second(self, now: float) -> None:
        self.hub.tick(now)
        # If this fails, it is done again in a second.
        self._unwelcome.update(self._authenticator.changed_users(now))
        if self._unwelcome:
            self.kick(self._unwelcome, "credential changed")
            self._unwelcome.clear()

    def kick(self, users: Collection[str], reason: str = "kicked") -> int:
        """Close users' connections and forget their sessions; return the number of connections."""
        theirs = [c for c in self.streams.all if isinstance(c, ClientConnection) and c.session and c.identity.user in users]
        for connection in theirs:
            connection.close(reason)
        self.hub.forget_users(users)
        return len(theirs)

    async def shutdown(self) -> None:
        """Stop accepting, send pending bytes, close. Cut off a client that stopped reading."""
        self.transitions.shutdown()
        for server in self._servers.values():
            server.instance.close()
        for connection in list(self.streams.all):
            connection.close("shutdown")
        deadline = time.monotonic() + SHUTDOWN_TIMEOUT
        while self.streams.all and time.monotonic() < deadline:
            await asyncio.sleep(0.02)
        for connection in list(self.streams.all):
            connection.abort()
        await asyncio.sleep(0)
        if self._session_monitor_task:
            self._session_monitor_task.cancel()
            await asyncio.gather(self._session_monitor_task, return_exceptions=True)
        await self.plugins_manager.close()
        self.transitions.stopping_success()
        log.info("stopped address=%s", self.address)
