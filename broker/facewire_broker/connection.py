"""One client's TCP or TLS connection: bytes to packets to the hub, and packets to bytes, bounded both ways.

    accepted ─CONNECT▶ checking ─▶ open ─▶ closing ─▶ lost
       └─ time-out       └─ refused  └─ malformed, silent, stuck, taken over, DISCONNECT

An asyncio protocol, so that a session costs no task and a packet no wake-up. What is sent in one turn of the event
loop is written once, at its end. amqtt's `ProtocolHandler` is not used: it takes a task per packet and per message.
"""

import asyncio
import logging
import secrets
import socket
from collections.abc import Awaitable, Callable
from typing import Any, Final, Protocol

from facewire_broker import packets
from facewire_broker.hub import BAD_CLIENT_ID, BAD_LEVEL, NOT_AUTHORIZED, UNAVAILABLE, Hub, Identity
from facewire_broker.limits import Limits
from facewire_broker.message import Message
from facewire_broker.packets import Connect, Framer, Malformed
from facewire_broker.session import Session

log = logging.getLogger(__name__)

#: Topics that a connection remembers the rights to. A device has three.
_KNOWN_TOPICS: Final = 1000
#: Why a door sends somebody away, by CONNACK's code.
_REASONS: Final = {BAD_CLIENT_ID: "client_id", NOT_AUTHORIZED: "credentials", UNAVAILABLE: "busy"}
#: First byte of a CONNECT.
_CONNECT: Final = 0x10


class Door(Protocol):
    """Knows who comes."""

    def check(self, connect: Connect, certificate_name: str | None) -> "Identity | int | Awaitable[Identity | int]":
        """Who it is, or CONNACK's return code; awaitable where finding out takes long."""

    def poll(self) -> list[str]:
        """The users who are no longer what they were; called now and then."""


class Connection(asyncio.Protocol):
    """A client, from accept to close.

    Attributes:
        identity: who it is, once `open`.
        session: its session, None before and after.
        will: published when it ends ungracefully.
    """

    def __init__(self, hub: Hub, door: Door, connections: "set[Connection]", loop: asyncio.AbstractEventLoop) -> None:
        self.identity = Identity()
        self.session: Session | None = None
        self.will: Message | None = None
        self.will_retain = False
        self._hub, self._door, self._connections, self._loop = hub, door, connections, loop
        self._limits: Limits = hub.limits
        self._framer = Framer(self._limits.connect_bytes)
        self._handle: Callable[[int, bytes], None] = self._on_first
        self._out: list[bytes] = []
        self._out_bytes = 0
        self._paused = False
        self._closing = False
        self._is_new = True
        self._checking: asyncio.Future[Any] | None = None
        self._keepalive = 0.0
        self._topics: dict[bytes, str | None] = {}
        #: When it came, last said something, began a packet, stopped taking bytes, began to close; monotonic s.
        self._since = self._heard = self._partial_since = self._stuck_since = self._closing_since = loop.time()

    # -- asyncio ------------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)  # noqa: S101  # asyncio's promise, for mypy
        self._transport = transport
        peer = transport.get_extra_info("peername")
        self._peer = f"{peer[0]}:{peer[1]}" if peer else "?"
        if len(self._connections) >= self._limits.connections:
            self._hub.refuse("connections", f"peer={self._peer} limit={self._limits.connections}")
            transport.abort()
            return
        self._connections.add(self)
        sock = transport.get_extra_info("socket")
        if sock is not None and sock.family in {socket.AF_INET, socket.AF_INET6}:
            # Without it one message in a thousand takes 30 ms (Nagle's algorithm and delayed acks).
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def data_received(self, data: bytes) -> None:
        self._heard = self._loop.time()
        if self._closing:
            return
        if self._is_new:
            # Not even the length of what is no MQTT is read.
            self._is_new = False
            if data[0] != _CONNECT:
                self._expel("malformed", f"first byte is 0x{data[0]:02x}, not CONNECT")
                return
        self._framer.push(data)
        self._read()

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self._connections.discard(self)
        if self._checking is not None:
            self._checking.cancel()
        self._closing = True
        self._hub.lost(self, self._loop.time())

    def pause_writing(self) -> None:
        self._paused = True
        self._stuck_since = self._loop.time()

    def resume_writing(self) -> None:
        self._paused = False
        self._transport.resume_reading()
        self._flush()

    # -- the hub's and the session's side ----------------------------------------------------------------------

    @property
    def is_writable(self) -> bool:
        return not self._paused and self._out_bytes < self._limits.unsent_bytes

    def send(self, packet: bytes) -> None:
        if not self._out:
            self._loop.call_soon(self._flush)
        self._out.append(packet)
        self._out_bytes += len(packet)

    def close(self, reason: str) -> None:
        """Stop reading, send what is there, and close."""
        if self._closing:
            return
        self._closing = True
        self._closing_since = self._loop.time()
        log.info("closing client=%a peer=%s reason=%s", self.session.client_id if self.session else None, self._peer, reason)
        self._write()
        self._transport.close()

    def abort(self) -> None:
        """Close at once."""
        self._closing = True
        self._transport.abort()

    def tick(self, now: float) -> None:
        """Called now and then: closes what is silent, slow or stuck."""
        limits = self._limits
        if self._closing:
            if now - self._closing_since > limits.close_timeout:
                self._transport.abort()
        elif self.session is None:
            if now - self._since > limits.connect_timeout:
                self._expel("timeout", f"no CONNECT within {limits.connect_timeout:g} s")
        elif now - self._heard > self._keepalive * 1.5:
            self._expel("keepalive", f"silent for {now - self._heard:.1f} s, keep-alive is {self._keepalive:g} s")
        elif self._framer.is_partial and now - self._partial_since > limits.packet_timeout:
            self._expel("timeout", f"packet not complete within {limits.packet_timeout:g} s")
        elif self._paused and now - self._stuck_since > limits.write_timeout:
            self._expel("stuck", f"takes nothing since {limits.write_timeout:g} s")

    # -- packets -----------------------------------------------------------------------------------------------

    def _read(self) -> None:
        framer = self._framer
        was_partial = framer.is_partial
        try:
            while not self._closing and self._checking is None and (packet := framer.pull()) is not None:
                self._handle(*packet)
                was_partial = False
        except Malformed as exc:
            self._expel("malformed", str(exc))
        if framer.is_partial and not was_partial:
            self._partial_since = self._heard

    def _expel(self, reason: str, details: str) -> None:
        session = self.session
        self._hub.refuse(reason, f"client={session and session.client_id!a} peer={self._peer} {details}")
        self.close(reason)

    def _on_first(self, _first: int, body: bytes) -> None:
        try:
            connect = packets.read_connect(body)
        except packets.UnsupportedLevel as exc:
            self._refuse(BAD_LEVEL, "level", str(exc))
            return
        size = len(connect.client_id)
        if size > self._limits.client_id_chars or (not size and not connect.clean):
            self._refuse(BAD_CLIENT_ID, "client_id", f"{size} characters")
            return
        verdict = self._door.check(connect, self._certificate_name())
        if isinstance(verdict, Identity | int):
            self._answer(connect, verdict)
        else:
            self._checking = asyncio.ensure_future(verdict)
            self._checking.add_done_callback(lambda done: self._checked(connect, done))
            self._transport.pause_reading()

    def _checked(self, connect: Connect, done: "asyncio.Future[Identity | int]") -> None:
        self._checking = None
        if done.cancelled() or self._closing:
            return
        self._answer(connect, done.result())
        if not self._closing:
            self._transport.resume_reading()
            self._read()

    def _answer(self, connect: Connect, verdict: Identity | int) -> None:
        if isinstance(verdict, int):
            self._refuse(verdict, _REASONS[verdict], f"client={connect.client_id!a} user={connect.username!a}")
            return
        self.identity = verdict
        if not connect.client_id:
            connect = Connect(
                f"auto-{secrets.token_hex(8)}", connect.clean, connect.keepalive, will=connect.will, will_retain=connect.will_retain
            )
        code, present = self._hub.connect(self, connect, self._loop.time())
        if code:
            self._refuse(code, "", "")
            return
        self._keepalive = float(connect.keepalive or self._limits.keepalive)
        self._framer.limit = self._limits.packet_bytes
        self._handle = self._on_packet
        log.info("connected client=%a user=%a peer=%s", connect.client_id, verdict.user, self._peer)
        self.send(packets.connack(0, session_present=present))
        if self.session is not None:
            self.session.attach(self)

    def _refuse(self, code: int, reason: str, details: str) -> None:
        if reason:
            self._hub.refuse(reason, f"peer={self._peer} {details}")
        self.send(packets.connack(code))
        self.close("refused")

    def _certificate_name(self) -> str | None:
        certificate = self._transport.get_extra_info("peercert")
        names = [value for rdn in (certificate or {}).get("subject", ()) for key, value in rdn if key == "commonName"]
        return names[0] if names else None

    def _on_packet(self, first: int, body: bytes) -> None:
        kind = first >> 4
        if kind == 3:
            self._on_publish(first, body)
        elif first == 0x40:
            if len(body) != 2:
                raise Malformed(f"PUBACK of {len(body)} bytes")
            if self.session is not None:
                self.session.acked(body[0] << 8 | body[1])
        elif first == 0x82:
            self._on_subscribe(body)
        elif first == 0xA2:
            packet_id, filters = packets.read_unsubscribe(body)
            self._hub.unsubscribe(self, filters)
            self.send(packets.unsuback(packet_id))
        elif first in {0xC0, 0xE0} and body:
            raise Malformed(f"packet of type {kind} with a body")
        elif first == 0xC0:
            self.send(packets.PINGRESP)
        elif first == 0xE0:
            self._hub.lost(self, self._heard, graceful=True)
            self.close("disconnect")
        else:
            raise Malformed(f"packet 0x{first:02x} is not for a broker without QoS 2")
        if self._paused and self._out_bytes > self._limits.unsent_bytes:
            # It asks and does not take the answers.
            self._transport.pause_reading()

    def _on_publish(self, first: int, body: bytes) -> None:
        raw, packet_id, payload = packets.split_publish(first, body)
        if first & 4:
            raise Malformed("PUBLISH at QoS 2, which is not served")
        topic = self._topics.get(raw) or self._learn(raw)
        self._hub.counters["messages/received"] += 1
        if topic:
            self._hub.publish(Message(topic, payload, first >> 1 & 1), retain=bool(first & 1))
        if packet_id:
            # Refused messages too: 3.1.1 knows no other answer (MQTT-3.3.5-2).
            self.send(packets.puback(packet_id))

    def _learn(self, raw: bytes) -> str | None:
        """A topic's text if this client may publish to it. Only those that it may are remembered."""
        topic = packets.read_topic(raw)
        limits = self._limits
        if len(raw) > limits.topic_bytes or topic.count("/") >= limits.topic_levels:
            raise Malformed(f"topic of {len(raw)} bytes or {topic.count('/') + 1} levels is over the limit")
        if not self.identity.rights.may_publish(topic):
            client_id = self.session.client_id if self.session else None
            self._hub.refuse("publish", f"client={client_id!a} user={self.identity.user!a} topic={topic!a}")
            return None
        if len(self._topics) >= _KNOWN_TOPICS:
            self._topics.clear()
        self._topics[raw] = topic
        return topic

    def _on_subscribe(self, body: bytes) -> None:
        packet_id, pairs = packets.read_subscribe(body)
        self.send(packets.suback(packet_id, self._hub.subscribe(self, pairs)))
        if self.session is not None:
            self.session.pump()

    def _flush(self) -> None:
        self._write()
        session = self.session
        if session is not None and not self._paused and not session.is_idle:
            session.pump()

    def _write(self) -> None:
        if self._out and not self._transport.is_closing() and not self._paused:
            out, self._out, self._out_bytes = self._out, [], 0
            self._transport.write(out[0] if len(out) == 1 else b"".join(out))
