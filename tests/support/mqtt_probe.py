"""A client that sends exactly the given bytes, even if no proper client would.

Its calls block, with deadlines.
"""

import contextlib
import socket
import time
from typing import Any, NamedTuple

CONNACK, PUBLISH, PUBACK, SUBACK, UNSUBACK, PINGRESP = 2, 3, 4, 9, 11, 13


class Packet(NamedTuple):
    kind: int
    flags: int
    body: bytes


class Received(NamedTuple):
    """A received PUBLISH."""

    topic: str
    payload: bytes
    qos: int
    retain: bool
    dup: bool
    packet_id: int


def length(size: int) -> bytes:
    out = bytearray()
    while True:
        size, low = divmod(size, 128)
        out.append(low | (0x80 if size else 0))
        if not size:
            return bytes(out)


def packet(first: int, body: bytes = b"") -> bytes:
    return bytes([first]) + length(len(body)) + body


def text(value: str | bytes) -> bytes:
    raw = value.encode() if isinstance(value, str) else value
    return len(raw).to_bytes(2, "big") + raw


def connect(
    client_id: str,
    *,
    clean: bool = True,
    keepalive: int = 60,
    user: str | None = None,
    password: str | None = None,
    will: tuple[str, bytes, int, bool] | None = None,
    level: int = 4,
) -> bytes:
    flags = 2 if clean else 0
    body = text(client_id)
    if will:
        topic, payload, qos, retain = will
        flags |= 4 | qos << 3 | (32 if retain else 0)
        body += text(topic) + text(payload)
    if user is not None:
        flags |= 0x80
        body += text(user)
    if password is not None:
        flags |= 0x40
        body += text(password)
    return packet(0x10, text("MQTT") + bytes([level, flags]) + keepalive.to_bytes(2, "big") + (b"\0" if level == 5 else b"") + body)


def publish(
    topic: str | bytes, payload: bytes = b"x", qos: int = 0, *, retain: bool = False, packet_id: int = 1, dup: bool = False
) -> bytes:
    first = 0x30 | (8 if dup else 0) | qos << 1 | retain
    return packet(first, text(topic) + (packet_id.to_bytes(2, "big") if qos else b"") + payload)


def subscribe(*pairs: tuple[str, int], packet_id: int = 1) -> bytes:
    return packet(0x82, packet_id.to_bytes(2, "big") + b"".join(text(name) + bytes([qos]) for name, qos in pairs))


DISCONNECT, PINGREQ = packet(0xE0), packet(0xC0)


class Probe:
    """One connection. Every wait ends: with the expected packet, or with an AssertionError."""

    def __init__(self, address: Any, client_id: str = "", *, timeout: float = 15.0, puback: bool = True, **options: Any) -> None:
        self.timeout, self.auto_puback = timeout, puback
        sock = socket.create_connection((address.host, address.port), timeout)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sock = sock
        self.buffer = b""
        self.inbox: list[Received] = []
        self.code: int | None = None
        self.session_present = False
        try:
            self.sock = self.wrap(sock)
            if client_id or options:
                self.send(connect(client_id, **options))
                answer = self.wait(CONNACK)
                self.code, self.session_present = answer.body[1], bool(answer.body[0])
        except BaseException:
            self.sock.close()
            raise

    def __enter__(self) -> "Probe":
        return self

    def __exit__(self, *_: object) -> None:
        self.drop()

    def wrap(self, sock: socket.socket) -> socket.socket:
        """Return the socket to use. A subclass may add TLS."""
        return sock

    def send(self, *packets: bytes) -> None:
        self.sock.sendall(b"".join(packets))

    def drop(self) -> None:
        """Close without DISCONNECT."""
        self.sock.close()

    def reset(self) -> None:
        """Close with RST, as a crash does."""
        with contextlib.suppress(OSError):
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        self.sock.close()

    def disconnect(self) -> None:
        self.send(DISCONNECT)
        self.drop()

    def next(self, timeout: float | None = None) -> Packet | None:
        """The next packet; None if the broker closed the connection. Raises TimeoutError."""
        deadline = time.monotonic() + (self.timeout if timeout is None else timeout)
        while True:
            if packet := self._buffered_packet():
                return packet
            self.sock.settimeout(max(deadline - time.monotonic(), 0.001))
            try:
                data = self.sock.recv(1 << 20)
            except ConnectionError:
                return None
            if not data:
                return None
            self.buffer += data

    def _buffered_packet(self) -> Packet | None:
        size, shift, at = 0, 0, 1
        while True:
            if at >= len(self.buffer):
                return None
            byte = self.buffer[at]
            size |= (byte & 127) << shift
            at, shift = at + 1, shift + 7
            if byte < 128:
                break
        if len(self.buffer) < at + size:
            return None
        packet = Packet(self.buffer[0] >> 4, self.buffer[0] & 15, self.buffer[at : at + size])
        self.buffer = self.buffer[at + size :]
        return packet

    def wait(self, kind: int, timeout: float | None = None) -> Packet:
        """The next packet of a kind. Messages that arrive before it go to `inbox`."""
        while True:
            packet = self.next(timeout)
            assert packet is not None, f"closed while waiting for packet type {kind}"
            if packet.kind == kind:
                return packet
            assert packet.kind in {PUBLISH, PUBACK, PINGRESP}, f"got {packet} while waiting for packet type {kind}"
            if packet.kind == PUBLISH:
                self.inbox.append(self._read_publish(packet))

    def _read_publish(self, publish: Packet) -> Received:
        end = 2 + int.from_bytes(publish.body[:2], "big")
        qos, packet_id = publish.flags >> 1 & 3, 0
        topic = publish.body[2:end].decode()
        if qos:
            packet_id = int.from_bytes(publish.body[end : end + 2], "big")
            end += 2
            if self.auto_puback:
                self.send(packet(0x40, packet_id.to_bytes(2, "big")))
        return Received(topic, publish.body[end:], qos, bool(publish.flags & 1), bool(publish.flags & 8), packet_id)

    def message(self, timeout: float | None = None) -> Received:
        """The next message."""
        return self.inbox.pop(0) if self.inbox else self._read_publish(self.wait(PUBLISH, timeout))

    def messages(self, count: int, timeout: float | None = None) -> list[Received]:
        return [self.message(timeout) for _ in range(count)]

    def is_closed(self, timeout: float | None = None) -> bool:
        """Whether the broker closes the connection within the time."""
        try:
            while (packet := self.next(timeout)) is not None:
                if packet.kind == PUBLISH:
                    self.inbox.append(self._read_publish(packet))
        except TimeoutError:
            return False
        return True

    def subscribe(self, *pairs: tuple[str, int]) -> list[int]:
        self.send(subscribe(*pairs))
        return list(self.wait(SUBACK).body[2:])

    def unsubscribe(self, name: str) -> None:
        self.send(packet(0xA2, b"\0\1" + text(name)))
        self.wait(UNSUBACK)

    def publish(self, topic: str, payload: bytes = b"x", qos: int = 1, *, retain: bool = False) -> None:
        """Publish; at QoS 1, wait for the PUBACK."""
        self.send(publish(topic, payload, qos, retain=retain))
        if qos:
            self.wait(PUBACK)

    def ping(self) -> None:
        """Return when the broker has handled everything sent before."""
        self.send(PINGREQ)
        self.wait(PINGRESP)

    def has_no_message(self) -> bool:
        """Whether the broker sent no message before it answered this ping."""
        self.ping()
        return not self.inbox
