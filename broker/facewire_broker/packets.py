"""MQTT 3.1.1 packets: bytes to fields, and back. Stricter than amqtt. No I/O.

amqtt's classes read CONNECT, and write the answers that a session has once. A CONNECT that amqtt
reads must write back to the same bytes. That refuses everything that amqtt overlooks: truncated and
trailing fields, ill-formed UTF-8, wrong lengths. We read PUBLISH and PUBACK ourselves: they come
thousands of times a second, and amqtt needs 40 µs for one. We read SUBSCRIBE and UNSUBSCRIBE
ourselves too: a packet of 256 KB may have 65,000 filters, and amqtt would need 1.2 s before it
could count them.
"""

import struct
from collections.abc import Coroutine
from dataclasses import dataclass, field
from typing import Any, Final

from amqtt.adapters import BufferReader
from amqtt.errors import AMQTTError, CodecError, MQTTError, NoDataError
from amqtt.mqtt.connack import ConnackPacket
from amqtt.mqtt.connect import ConnectPacket
from amqtt.mqtt.packet import MQTTFixedHeader
from amqtt.mqtt.pingresp import PingRespPacket
from amqtt.mqtt.suback import SubackPacket
from amqtt.mqtt.unsuback import UnsubackPacket

from facewire.errors import ProtocolError
from facewire_broker.publish import Message
from facewire_mqtt.framing import Malformed, fixed_header

#: A CONNECT begins with this protocol name, then the level of 3.1.1.
_PROTOCOL: Final = b"\x00\x04MQTT"
LEVEL_3_1_1: Final = 4

PINGRESP: Final[bytes] = PingRespPacket.build().to_bytes()
#: SUBACK's return code for a refused filter.
REFUSED: Final = 0x80


class UnsupportedLevel(ProtocolError):
    """A CONNECT of another version than 3.1.1. The answer is CONNACK 1 (MQTT-3.1.2-2)."""


@dataclass(frozen=True, slots=True)
class Connect:
    """The fields of a CONNECT."""

    client_id: str
    clean: bool
    #: Seconds; 0 for none.
    keepalive: int
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    will: Message | None = None
    will_retain: bool = False
    #: The address of the client. Not in the packet: the connection adds it.
    address: str = ""


def read_connect(body: bytes) -> Connect:
    """Read a CONNECT. Raises `Malformed` or `UnsupportedLevel`."""
    if body[:6] != _PROTOCOL or len(body) < 10:
        # MQTT 3.1 called itself MQIsdp.
        raise UnsupportedLevel("MQIsdp") if body[:8] == b"\x00\x06MQIsdp" else Malformed("first packet is not an MQTT CONNECT")
    if body[6] != LEVEL_3_1_1:
        raise UnsupportedLevel(f"level {body[6]}")
    flags = body[7]
    if flags & 1 or flags & 0x18 == 0x18 or (flags & 0x38 and not flags & 4) or (flags & 0x40 and not flags & 0x80):
        raise Malformed(f"CONNECT flags 0x{flags:02x}")
    packet = _read(ConnectPacket, 1, 0, body)
    fields, will = packet.payload, None
    required = ((0x80, fields.username), (0x40, fields.password), (4, fields.will_message))
    if any(value is None for flag, value in required if flags & flag):
        # amqtt takes a truncated field for an absent one, and would write it back so.
        raise Malformed("CONNECT is truncated")
    if packet.will_flag:
        will = Message(fields.will_topic, bytes(fields.will_message), packet.will_qos)
        check_topic(will.topic)
    client_id = "" if fields.client_id_is_random else check_text(fields.client_id)
    username = None if fields.username is None else check_text(fields.username)
    return Connect(client_id, packet.clean_session_flag, packet.keep_alive, username, fields.password, will, packet.will_retain_flag)


def read_subscribe(body: bytes, most: int = 65_535) -> tuple[int, list[tuple[str, int]]]:
    """Read a SUBSCRIBE: packet id, and up to `most` filters with their QoS. Raises `Malformed`."""
    packet_id, fields = _read_filters(body, most, 1)
    if any(qos[0] > 2 for _, qos in fields):
        raise Malformed("SUBSCRIBE with QoS 3")
    return packet_id, [(text, qos[0]) for text, qos in fields]


def read_unsubscribe(body: bytes, most: int = 65_535) -> tuple[int, list[str]]:
    """Read an UNSUBSCRIBE: packet id, and at most so many filters. Raises `Malformed`."""
    packet_id, fields = _read_filters(body, most, 0)
    return packet_id, [text for text, _ in fields]


def _read_filters(body: bytes, most: int, options: int) -> tuple[int, list[tuple[str, bytes]]]:
    """Read a packet id, and filters with so many bytes of options after each (3.8.3, 3.10.3)."""
    fields: list[tuple[str, bytes]] = []
    packet_id, at = int.from_bytes(body[:2], "big"), 2
    while at < len(body):
        if len(fields) == most:
            raise Malformed(f"more than {most} filters in one packet")
        end = at + 2 + int.from_bytes(body[at : at + 2], "big")
        if end + options > len(body) or end < at + 3:
            raise Malformed("filter is empty or truncated")
        try:
            fields.append((body[at + 2 : end].decode(), body[end : end + options]))
        except UnicodeDecodeError as exc:
            raise Malformed("filter is not UTF-8") from exc
        at = end + options
    if not fields or not packet_id:
        raise Malformed("no filters or no packet id")
    return packet_id, fields


def split_publish(first: int, body: bytes) -> tuple[bytes, int, bytes]:
    """Split a PUBLISH into topic, packet id (0 at QoS 0) and payload. Raises `Malformed`."""
    size = len(body)
    end = 2 + (body[0] << 8 | body[1]) if size > 1 else 3
    if not first & 6:
        if end > size or first & 8:
            raise Malformed("PUBLISH is shorter than its topic, or has DUP at QoS 0")
        return body[2:end], 0, body[end:]
    if end + 2 > size or first & 6 == 6:
        raise Malformed("PUBLISH is shorter than its topic, or has QoS 3")
    packet_id = body[end] << 8 | body[end + 1]
    if not packet_id:
        raise Malformed("PUBLISH with packet id 0")
    return body[2:end], packet_id, body[end + 2 :]


def read_topic(raw: bytes) -> str:
    """Decode a topic. Raises `Malformed`."""
    try:
        return check_topic(raw.decode())
    except UnicodeDecodeError as exc:
        raise Malformed("topic is not UTF-8") from exc


def check_topic(topic: str) -> str:
    """Return a topic that a client can publish to, or raise `Malformed` (MQTT-3.3.2-2, 4.7.3-1)."""
    if not topic or "+" in topic or "#" in topic:
        raise Malformed("topic is empty or has a wildcard")
    return check_text(topic)


def check_text(text: str) -> str:
    """Return text without U+0000 (MQTT-1.5.3-2), or raise `Malformed`."""
    if "\0" in text:
        raise Malformed("text contains U+0000")
    return text


def connack(code: int, *, session_present: bool = False) -> bytes:
    """A CONNACK."""
    return bytes(ConnackPacket.build(int(session_present), code).to_bytes())


def suback(packet_id: int, codes: list[int]) -> bytes:
    """A SUBACK."""
    return bytes(SubackPacket.build(packet_id, codes).to_bytes())


def unsuback(packet_id: int) -> bytes:
    """An UNSUBACK."""
    return bytes(UnsubackPacket.build(packet_id).to_bytes())


def puback(packet_id: int) -> bytes:
    """A PUBACK."""
    return b"\x40\x02" + packet_id.to_bytes(2, "big")


def _read(kind: Any, packet_type: int, flags: int, body: bytes) -> Any:
    """Read a packet with amqtt's class, and check that it accounts for every byte."""
    try:
        packet = _finish(kind.from_stream(BufferReader(body), MQTTFixedHeader(packet_type, flags, len(body))))
        if kind is ConnectPacket and packet.payload.client_id_is_random:
            packet.payload.client_id = ""
        same = packet.to_bytes() == fixed_header(packet_type << 4 | flags, len(body)) + body
    except (AMQTTError, MQTTError, CodecError, NoDataError, ValueError, TypeError, struct.error) as exc:
        raise Malformed(f"{kind.__name__}: {exc}") from exc
    if not same:
        raise Malformed(f"{kind.__name__} does not write back to the same bytes")
    return packet


def _finish(reading: Coroutine[Any, Any, Any]) -> Any:
    """Run one of amqtt's readers. It never waits, because a `BufferReader` has all the bytes."""
    try:
        reading.send(None)
    except StopIteration as done:
        return done.value
    reading.close()
    raise Malformed("packet is not complete")
