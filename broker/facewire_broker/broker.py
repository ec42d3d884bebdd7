"""The embedded broker: amqtt's `Broker` for its life cycle and listeners, our hub and connections inside.

What is overridden, and which lines of amqtt 0.12.1's broker.py (B) that replaces; `fingerprint` watches them all:

    start                    B:246-275    extended: the socket is opened first, so that a taken address is one clear error
    _create_server_instance  B:326-354    a protocol per connection in place of tasks; no websockets; TLS of our own making
    _broadcast_loop          B:959-1007   nothing: the hub routes at once, in order, and has nothing to lose at the end
    _broadcast_message       B:1104-1114  what amqtt's plugins broadcast goes to the hub
    retain_message           B:834-861    and what they retain
    _session_monitor         B:356-383    time-outs, keep-alive, expiry, changed users, counters on `$SYS`
    shutdown                 B:385-419    stops accepting first, and cannot hang
"""

import asyncio
import logging
import ssl
import time
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
from facewire_mqtt.address import Address

log = logging.getLogger(__name__)

#: Seconds between looks at every connection, four times that where they are many; and between new figures on `$SYS`.
TICK: Final = 0.25
MANY_CONNECTIONS: Final = 1_000
SYS_INTERVAL: Final = 10.0
#: Connections looked at before messages have their turn: all of 10,000 at once would hold up a match for 10 ms.
TICK_BATCH: Final = 500
#: Seconds that the end may take.
SHUTDOWN_TIMEOUT: Final = 4.0


class Broker(AmqttBroker):  # type: ignore[misc]  # amqtt has no types
    """A broker on one address, in the running event loop.

    Args:
        listen: the address; port 0 for any free port.
        authenticator: who may come in.
        limits: how much they may take.
        tls: for TLS.

    Attributes:
        hub: sessions, routing and counters.
        address: where it listens, once started.
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
        self.streams = Streams()

    async def start(self) -> None:
        """Open the socket and serve.

        Raises:
            BrokerError: the address cannot be had, or amqtt is not the one that this was written for.
        """
        fingerprint.check()
        loop = asyncio.get_running_loop()
        try:
            # Before amqtt's start, which would log a traceback where the address is taken.
            self._server = await loop.create_server(
                lambda: ClientConnection(self.hub, self._authenticator, self.streams),
                self._listen.host,
                self._listen.port,
                ssl=self._tls,
                backlog=1024,
                ssl_handshake_timeout=self.hub.limits.connect_timeout if self._tls else None,
                start_serving=False,
            )
        except OSError as exc:
            raise BrokerError(f"cannot listen on {self._listen}: {exc.strerror or exc}") from exc
        self.address = Address(*self._server.sockets[0].getsockname()[:2])
        await super().start()

    async def _create_server_instance(self, *_: Any) -> asyncio.Server:
        await self._server.start_serving()
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
                await self._tick_connections()
                now = time.monotonic()
                if now - last_check >= 1.0:
                    last_check = now
                    self._every_second(now)
                if now - last_counters >= SYS_INTERVAL:
                    last_counters = now
                    self.hub.publish_counters(now - started)
            except Exception:
                # Without it nobody would see power losses any more.
                log.exception("monitor failed, and goes on")

    async def _tick_connections(self) -> None:
        """Have each look at its clock, and let messages pass between one group of them and the next."""
        connections = list(self.streams.all)
        for start in range(0, len(connections), TICK_BATCH):
            now = time.monotonic()
            for connection in connections[start : start + TICK_BATCH]:
                connection.tick(now)
            await asyncio.sleep(0)

    def _every_second(self, now: float) -> None:
        self.hub.tick(now)
        for user in self._authenticator.changed_users():
            self.kick(user, "credential changed")

    def kick(self, user: str, reason: str = "kicked") -> int:
        """Close a user's connections, and forget its sessions; returns how many connections."""
        theirs = [c for c in self.streams.all if isinstance(c, ClientConnection) and c.session and c.identity.user == user]
        for connection in theirs:
            connection.close(reason)
        self.hub.forget_user(user)
        return len(theirs)

    async def shutdown(self) -> None:
        """Stop accepting, send what is there, close; a client that takes nothing is cut off."""
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
