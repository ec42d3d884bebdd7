"""One client's connection: it reads the client's packets and calls the hub.

accepted ─CONNECT▶ (checking) ─▶ open ─▶ closing ─▶ lost
└─ time-out        └─ refused   └─ malformed, silent, stuck, taken over, DISCONNECT
"""

import asyncio
import dataclasses
import logging
import secrets
from collections.abc import Callable
from typing import Any, Final

from facewire_broker import packets
from facewire_broker.authentication import Authenticator
from facewire_broker.hub import BAD_CLIENT_ID, BAD_LEVEL, NOT_AUTHORIZED, UNAVAILABLE, Hub, Identity
from facewire_broker.packets import Connect
from facewire_broker.publish import Message
from facewire_broker.session import Session
from facewire_broker.stream import Stream, Streams
from facewire_mqtt.framing import Malformed

log = logging.getLogger(__name__)

#: Why a client is refused, by CONNACK's return code.
_REASONS: Final = {BAD_CLIENT_ID: "client_id", NOT_AUTHORIZED: "credentials", UNAVAILABLE: "busy"}


def _ignore(_first: int, _body: bytes) -> None:
    """Handles the packets of a connection that is gone."""


class ClientConnection(Stream):
    """One client's connection.

    Attributes:
        identity: who the client is, once authenticated.
        session: the client's session; None before it begins and after it ends.
        will: published if the connection ends without DISCONNECT.
    """

    def __init__(self, hub: Hub, authenticator: Authenticator, streams: Streams) -> None:
        super().__init__(hub, streams)
        self.identity = Identity()
        self.session: Session | None = None
        self.will: Message | None = None
        self.will_retain = False
        self._authenticator = authenticator
        self._checking: asyncio.Future[Any] | None = None
        self._topics: dict[bytes, str] = {}
        self._pumping = False
        self._handle: Callable[[int, bytes], None] = self._on_connect

    @property
    def name(self) -> str:
        return ascii(self.session.client_id) if self.session else "?"

    def packet_received(self, first: int, body: bytes) -> None:
        self._handle(first, body)

    def on_writable(self) -> None:
        session = self.session
        if session is not None and not session.is_idle:
            session.pump()

    def pump_later(self) -> None:
        if not self._pumping:
            self._pumping = True
            self._streams.next_turn(self._pump)

    def _pump(self) -> None:
        self._pumping = False
        if self.session is not None and not self._closing:
            self.session.pump()

    def lost(self) -> None:
        if self._checking is not None:
            self._checking.cancel()
        self._hub.lost(self, self._loop.time())
        self._handle = _ignore  # it referred to us

    # -- connecting -------------------------------------------------------------------------------

    def _on_connect(self, _first: int, body: bytes) -> None:
        try:
            connect = packets.read_connect(body)
        except packets.UnsupportedLevel as exc:
            self._refuse(BAD_LEVEL, "level", str(exc))
            return
        size = len(connect.client_id)
        if size > self._limits.client_id_chars or (not size and not connect.clean):
            self._refuse(BAD_CLIENT_ID, "client_id", f"{size} characters")
            return
        connect = dataclasses.replace(connect, address=self._address)
        verdict = self._authenticator.authenticate(connect, self._certificate_name())
        if isinstance(verdict, Identity | int):
            self._answer(connect, verdict)
            return
        self.pause_packets()
        self._checking = asyncio.ensure_future(verdict)
        self._checking.add_done_callback(lambda done: self._checked(connect, done))

    def _checked(self, connect: Connect, done: "asyncio.Future[Identity | int]") -> None:
        self._checking = None
        if not done.cancelled() and not self._closing:
            self._answer(connect, done.result())
            self.resume_packets()

    def _answer(self, connect: Connect, verdict: Identity | int) -> None:
        if isinstance(verdict, int):
            self._refuse(verdict, _REASONS[verdict], f"client={connect.client_id!a} user={connect.username!a}")
            return
        self.identity = verdict
        if not connect.client_id:
            connect = dataclasses.replace(connect, client_id=f"auto-{secrets.token_hex(8)}")
        code, present = self._hub.connect(self, connect, self._loop.time())
        if code or self.session is None:
            self._reject(code)
            return
        self.welcome(float(connect.keepalive or self._limits.keepalive))
        self._handle = self._on_packet
        log.info("connected client=%a user=%a peer=%s", connect.client_id, verdict.user, self._peer)
        self.send(packets.connack(0, session_present=present))
        self.session.attach(self)

    def _refuse(self, code: int, reason: str, details: str) -> None:
        self._hub.count_refusal(reason, f"peer={self._peer} {details}")
        self._reject(code)

    def _reject(self, code: int) -> None:
        self.send(packets.connack(code))
        self.close("refused")

    def _certificate_name(self) -> str | None:
        certificate = self._transport.get_extra_info("peercert")
        names = [value for rdn in (certificate or {}).get("subject", ()) for key, value in rdn if key == "commonName"]
        return names[0] if names else None

    # -- connected --------------------------------------------------------------------------------

    def _on_packet(self, first: int, body: bytes) -> None:
        if first >> 4 == 3:
            self._on_publish(first, body)
        elif first == 0x40:
            if len(body) != 2:
                raise Malformed(f"PUBACK of {len(body)} bytes")
            if self.session is not None:
                self.session.pubacked(body[0] << 8 | body[1])
        elif first == 0x82:
            self._on_subscribe(body)
        elif first == 0xA2:
            packet_id, filters = packets.read_unsubscribe(body, self._limits.packet_filters)
            self._hub.unsubscribe(self, filters)
            self.send(packets.unsuback(packet_id))
        elif first in {0xC0, 0xE0} and body:
            raise Malformed(f"packet 0x{first:02x} with a body")
        elif first == 0xC0:
            self.send(packets.PINGRESP)
        elif first == 0xE0:
            self.close("disconnect")
            self._hub.lost(self, self._heard, graceful=True)
        else:
            raise Malformed(f"packet 0x{first:02x} is not one that this broker serves")

    def _on_publish(self, first: int, body: bytes) -> None:
        raw, packet_id, payload = packets.split_publish(first, body)
        if first & 4:
            raise Malformed("PUBLISH at QoS 2, which this broker does not serve")
        topic = self._topics.get(raw) or self._allowed_topic(raw)
        self._hub.counters["messages/received"] += 1
        if topic:
            self._hub.publish(Message(topic, payload, first >> 1 & 1), retain=bool(first & 1))
        if packet_id:
            # Even if the message was refused: 3.1.1 has no other answer (MQTT-3.3.5-2).
            self.send(packets.puback(packet_id))
        if wait := self._spend():
            self._hub.counters["messages/delayed"] += 1
            self.pause_packets()
            self._loop.call_later(wait, self._settle)

    def _spend(self) -> float:
        """Charge the user for a message; if it has none left, how long until it has, s."""
        user, devices = self.identity.user, self.identity.rights.devices
        return self._hub.publishing.spend(user, self._loop.time(), 1 / devices) if user is not None and devices else 0.0

    def _settle(self) -> None:
        """Read on once the message that went beyond is paid for."""
        if self._closing:
            return
        if wait := self._spend():
            self._loop.call_later(wait, self._settle)
        else:
            self.resume_packets()

    def _allowed_topic(self, raw: bytes) -> str | None:
        """Return a topic's text if this client may publish to it, and remember it."""
        topic = packets.read_topic(raw)
        limits = self._limits
        if len(raw) > limits.topic_bytes or topic.count("/") >= limits.topic_levels:
            raise Malformed(f"topic of {len(raw)} bytes or {topic.count('/') + 1} levels is over the limit")
        if not self.identity.rights.may_publish(topic):
            self._hub.count_refusal("publish", f"client={self.name} user={self.identity.user!a} topic={topic!a}")
            return None
        if len(self._topics) >= limits.sessions:
            # A device has three topics. The platform has one for each session, since it acks every
            # device. If they did not all fit, it would check each again and again, and that costs
            # a sixth of a round trip.
            self._topics.clear()
        self._topics[raw] = topic
        return topic

    def _on_subscribe(self, body: bytes) -> None:
        packet_id, pairs = packets.read_subscribe(body, self._limits.packet_filters)
        self.send(packets.suback(packet_id, self._hub.subscribe(self, pairs)))
        if self.session is not None and not self._pumping:
            self.session.pump()
