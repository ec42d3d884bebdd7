"""A small MQTT 3.1.1 client over asyncio, for thousands of devices in one event loop.

Why not paho with an external loop? Its `connect` looks up the name, waits for TCP and does the TLS
handshake on the calling thread. So a device that reconnects to a busy listener would stop the whole
fleet, and that would show as latency of the platform. It also reads each packet in three or four
system calls of a byte or two. (Its memory is no problem: 5 KB a client. A QoS 0 publish takes 18 µs
in paho, 7 µs here.)

This module has only what our devices need of MQTT: a clean session, a will, one subscription,
PUBLISH both ways, PINGREQ. It waits for no PUBACK, because a device does not rely on it
(docs/contract.md).
"""

import asyncio
from dataclasses import dataclass
from typing import Final, Protocol, cast

from facewire_mqtt.address import Address
from facewire_mqtt.framing import Malformed, body_bounds, fixed_header, length_prefixed, packet

#: Packet types (MQTT 3.1.1 section 2.2.1), in the high half of the first byte.
_CONNACK, _PUBLISH, _SUBACK = 0x20, 0x30, 0x90
_PUBACK, _PINGREQ, _DISCONNECT = b"\x40\x02", b"\xc0\x00", b"\xe0\x00"
_REFUSED_CREDENTIALS: Final = (4, 5)
#: An ack has about a hundred bytes. A larger packet than this cannot be one.
_MAX_PACKET_BYTES: Final = 1024 * 1024


class Owner(Protocol):
    """Gets the happenings of a session. `ended` is called once, and last."""

    def connected(self) -> None: ...

    def received(self, topic: str, payload: bytes) -> None: ...

    def refused(self, reason: str, *, credentials: bool) -> None: ...

    def ended(self, reason: str) -> None: ...


@dataclass(frozen=True, slots=True)
class Hello:
    """The packets that begin a session: CONNECT, then SUBSCRIBE to one filter at QoS 1."""

    connect: bytes
    subscribe: bytes


def hello(address: Address, client_id: str, keepalive: int, *, will: tuple[str, bytes], subscription: str) -> Hello:
    """Make the packets of a clean session with a retained QoS 1 will (MQTT 3.1.1 section 3.1)."""
    flags = 0x02 | 0x04 | 0x08 | 0x20
    payload = length_prefixed(client_id) + length_prefixed(will[0]) + length_prefixed(will[1])
    if address.username is not None:
        flags |= 0x80
        payload += length_prefixed(address.username)
        if address.password is not None:
            flags |= 0x40
            payload += length_prefixed(address.password)
    connect = packet(0x10, length_prefixed("MQTT") + bytes((4, flags)) + keepalive.to_bytes(2, "big") + payload)
    return Hello(connect, packet(0x82, b"\x00\x01" + length_prefixed(subscription) + b"\x01"))


class Session(asyncio.Protocol):
    """One connection from its CONNECT to its end."""

    __slots__ = ("_hello", "_owner", "_packet_id", "_paused", "_sent", "_transport", "_unread", "up")

    def __init__(self, hello: Hello, owner: Owner) -> None:
        self._hello = hello
        self._owner = owner
        self._transport: asyncio.Transport | None = None
        self._unread = b""
        self._packet_id = 1
        self._paused = False
        #: Whether a packet was sent since the last `ping`.
        self._sent = True
        self.up = False

    def publish(self, topic: bytes, payload: bytes, qos: int, *, retain: bool = False) -> bool:
        """Send a message now.

        Returns False if there is no session. A QoS 0 message is also refused while the socket does
        not keep up, because it would arrive late.
        """
        if not self.up or self._transport is None or self._transport.is_closing() or (self._paused and not qos):
            return False
        body = len(topic).to_bytes(2, "big") + topic
        if qos:
            self._packet_id = self._packet_id % 65_535 + 1
            body += self._packet_id.to_bytes(2, "big")
        first = 0x30 | qos << 1 | retain
        self._transport.write(b"".join((fixed_header(first, len(body) + len(payload)), body, payload)))
        self._sent = True
        return True

    def ping(self) -> None:
        """Send PINGREQ if no packet was sent since the last call. Call it twice per keep-alive."""
        if self.up and not self._sent and self._transport is not None:
            self._transport.write(_PINGREQ)
        self._sent = False

    def close(self) -> None:
        """Send what is buffered and DISCONNECT, so that the broker publishes no will."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(_DISCONNECT)
            self._transport.close()

    def abort(self) -> None:
        """End as in a power cut: send nothing more, and the broker publishes the will."""
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # asyncio sets TCP_NODELAY itself.
        self._transport = cast(asyncio.Transport, transport)
        self._transport.write(self._hello.connect)

    def connection_lost(self, exc: Exception | None) -> None:
        self.up = False
        self._owner.ended(str(exc) if exc else "closed by the broker")

    def pause_writing(self) -> None:
        self._paused = True

    def resume_writing(self) -> None:
        self._paused = False

    def data_received(self, data: bytes) -> None:
        data = self._unread + data if self._unread else data
        at = 0
        try:
            while (bounds := body_bounds(data, at, _MAX_PACKET_BYTES)) is not None and bounds[1] <= len(data):
                start, end = bounds
                self._handle_packet(data[at], data[start:end])
                at = end
        except Malformed:
            self.abort()
            return
        self._unread = data[at:]

    def _handle_packet(self, first: int, body: bytes) -> None:
        kind = first & 0xF0
        if kind == _PUBLISH:
            self._handle_publish(first, body)
        elif kind == _CONNACK and self._transport is not None:
            if body[1]:
                self._refuse(f"connection refused, code {body[1]}", credentials=body[1] in _REFUSED_CREDENTIALS)
            else:
                self._transport.write(self._hello.subscribe)
        elif kind == _SUBACK:
            if body[2] & 0x80:
                self._refuse("subscription refused", credentials=False)
            else:
                self.up = True
                self._owner.connected()

    def _handle_publish(self, first: int, body: bytes) -> None:
        end = 2 + int.from_bytes(body[:2], "big")
        payload_at = end
        if first & 0x06 and self._transport is not None:
            payload_at = end + 2
            self._transport.write(_PUBACK + body[end:payload_at])
        self._owner.received(body[2:end].decode(errors="replace"), body[payload_at:])

    def _refuse(self, reason: str, *, credentials: bool) -> None:
        self._owner.refused(reason, credentials=credentials)
        self.abort()
