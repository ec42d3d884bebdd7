"""How MQTT 3.1.1 wraps bytes: packets, their lengths, strings (sections 1.5.3 and 2.2). Pure.

byte 0            1 to 4 bytes         the rest, `length` bytes
+------+-------+  +-----------------+  +----------------------------------+
| type | flags |  | length, base 128|  | variable header and payload      |
+------+-------+  +-----------------+  +----------------------------------+
"""

from facewire.errors import ProtocolError


class Malformed(ProtocolError):
    """Bytes that are not MQTT 3.1.1. The receiver closes the connection (MQTT-4.8.0-1)."""


def fixed_header(first: int, length: int) -> bytes:
    """A packet's first byte and its length: seven bits in each byte, the lowest first."""
    if length < 128:
        return bytes((first, length))
    if length < 16384:
        return bytes((first, length & 127 | 128, length >> 7))
    if length < 2097152:
        return bytes((first, length & 127 | 128, length >> 7 & 127 | 128, length >> 14))
    return bytes((first, length & 127 | 128, length >> 7 & 127 | 128, length >> 14 & 127 | 128, length >> 21))


def packet(first: int, body: bytes) -> bytes:
    """A whole packet."""
    return fixed_header(first, len(body)) + body


def length_prefixed(value: str | bytes) -> bytes:
    """Text or binary data with its length before it, two bytes."""
    raw = value.encode() if isinstance(value, str) else value
    return len(raw).to_bytes(2, "big") + raw


def body_bounds(data: bytes, at: int, limit: int) -> tuple[int, int] | None:
    """Where the body of the packet at `at` begins and ends; the end may lie beyond `data`.

    Args:
        data: bytes of a stream.
        at: where the packet begins.
        limit: the longest body allowed, bytes.

    Returns:
        None if `data` ends before the length does.

    Raises:
        Malformed: the length is over the limit, or has more than four bytes.
    """
    length, start, end = 0, at + 1, len(data)
    for shift in (0, 7, 14, 21):
        if start >= end:
            return None
        byte = data[start]
        start += 1
        length |= (byte & 127) << shift
        if byte < 128:
            if length > limit:
                raise Malformed(f"packet of {length} bytes is over the limit of {limit}")
            return start, start + length
    raise Malformed("length of more than four bytes")
