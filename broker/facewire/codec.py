"""Bytes and maps: msgpack, or JSON for a device that cannot do msgpack. The only door to msgpack.

    first byte '{' (0x7B, which begins no msgpack map)  ->  JSON, answered in JSON
    anything else                                       ->  msgpack

Limits bound what a hostile payload can make us allocate: `MAX_PAYLOAD_BYTES` in all, `MAX_MAP` keys
(which also makes chosen hash collisions harmless), `MAX_DEPTH` levels inside an event.
"""

import enum
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple

import msgpack

from facewire.errors import DecodeError

MAX_PAYLOAD_BYTES: Final = 4 * 1024 * 1024
MAX_MAP: Final = 1024
MAX_ARRAY: Final = 65_536
MAX_DEPTH: Final = 16

#: The types that hold other values, as `decode` returns them.
CONTAINERS: Final = frozenset((dict, list))


class Format(enum.Enum):
    """How a payload is written."""

    MSGPACK = "msgpack"
    JSON = "json"


class Decoded(NamedTuple):
    """A payload's map.

    If `clean` is true, every text in the map is valid Unicode and every number fits 64 bits. If
    not, a caller that keeps a part of the map must first try to `pack` it.
    """

    map: dict[str, Any]
    format: Format
    clean: bool


def decode(payload: bytes) -> Decoded:
    """Read one map.

    Raises:
        DecodeError: it is empty, too large, malformed, not a map, or has a key that is not text.
    """
    if len(payload) > MAX_PAYLOAD_BYTES:
        raise DecodeError(f"payload of {len(payload)} bytes is over the limit of {MAX_PAYLOAD_BYTES}")
    fmt = format_of(payload)
    value, clean = (_decode_json(payload), False) if fmt is Format.JSON else _decode_msgpack(payload)
    if not isinstance(value, dict):
        raise DecodeError(f"payload is {type(value).__name__}, not a map")
    if not all(type(key) is str for key in value):
        raise DecodeError("payload has a key that is not text")
    return Decoded(value, fmt, clean)


def format_of(payload: bytes) -> Format:
    """The format in which a payload is read. No msgpack map begins with `{`."""
    return Format.JSON if payload[:1] == b"{" else Format.MSGPACK


def encode(value: Mapping[str, Any], fmt: Format = Format.MSGPACK) -> bytes:
    """Write one map.

    Raises:
        ValueError: it holds a value that the format cannot carry.
    """
    if fmt is Format.MSGPACK:
        return pack(value)
    try:
        return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode()
    except TypeError as exc:
        raise ValueError(str(exc)) from exc


def pack(value: object) -> bytes:
    """Write any value as msgpack.

    Raises:
        ValueError: msgpack cannot carry it: over 64 bits, lone surrogates, other types.
    """
    try:
        return msgpack.packb(value)  # type: ignore[no-any-return]  # msgpack has no types
    except (TypeError, OverflowError) as exc:
        raise ValueError(str(exc)) from exc


def pack_each(values: Iterable[object]) -> list[bytes]:
    """`pack` many values from the wire, in half the time because it checks nothing."""
    return list(map(msgpack.Packer().pack, values))


def unpack(packed: bytes) -> Any:
    """Read the bytes of `pack`. Only for our own stores: it has no limits."""
    return msgpack.unpackb(packed, strict_map_key=False)


def splice(head: Mapping[str, Any], key: str, packed: bytes | Sequence[bytes]) -> bytes:
    """Write `{**head, key: packed}`, where `packed` is one packed value or a list of packed values.

    A device keeps its events packed, so it builds a batch without reading them:

        map header | head's keys and values | key | (array header) | packed | packed | ...
    """
    packer = msgpack.Packer(autoreset=False)
    packer.pack_map_header(len(head) + 1)
    for name, value in head.items():
        packer.pack(name)
        packer.pack(value)
    packer.pack(key)
    if isinstance(packed, bytes):
        return b"".join((packer.bytes(), packed))
    packer.pack_array_header(len(packed))
    return b"".join((packer.bytes(), *packed))


def is_deeper(value: object, levels: int) -> bool:
    """Whether maps and lists nest more than `levels` deep; `value` itself is the first level."""
    layer: list[Any] = [value] if type(value) in CONTAINERS else []
    for _ in range(levels):
        layer = [child for item in layer for child in (item.values() if type(item) is dict else item) if type(child) in CONTAINERS]
        if not layer:
            return False
    return bool(layer)


def _decode_msgpack(payload: bytes) -> tuple[Any, bool]:
    limits = {
        "strict_map_key": False,  # foreign keys deep in an event are kept; MAX_MAP bounds the collisions
        "max_map_len": MAX_MAP,
        # msgpack allocates what a header declares; an array has at most one item per byte.
        "max_array_len": min(MAX_ARRAY, len(payload)),
        "max_ext_len": MAX_MAP,
    }
    try:
        try:
            return msgpack.unpackb(payload, **limits), True
        except UnicodeDecodeError:
            # One bad text must not spoil its batch: it becomes surrogates, which `pack` refuses.
            return msgpack.unpackb(payload, unicode_errors="surrogateescape", **limits), False
    except (ValueError, TypeError, msgpack.UnpackException) as exc:
        raise DecodeError(f"not msgpack: {str(exc) or type(exc).__name__}") from exc


def _decode_json(payload: bytes) -> Any:
    try:
        # Given bytes, json would guess UTF-16 and UTF-32. Bad text becomes lone surrogates, as in
        # `_decode_msgpack`. NaN and Infinity are not JSON, but Python writes them: we read them, so
        # that one bad score does not spoil its batch.
        return json.loads(payload.decode(errors="surrogateescape"))
    except (ValueError, RecursionError) as exc:
        raise DecodeError(f"not JSON: {exc}") from exc
