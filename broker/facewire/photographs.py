"""Photographs leave an event before it is kept: the event names each by its hash. Pure.

    "spot_pic": "data:image/jpeg;base64,/9j/4AAQ…"
    "spot_pic": {"sha256": "9f86d081…", "bytes": 287340, "kind": "image/jpeg"}

Bytes and base64 text are photographs if they begin like one, if their field is known to hold one,
or if they are so large that nothing else can be meant. So a photograph never makes an event too
large.
"""

import base64
import binascii
import hashlib
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

#: How the formats begin.
_KINDS: Final = (
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"BM", "image/bmp"),
    (b"GIF8", "image/gif"),
)
_WEBP: Final = (b"RIFF", b"WEBP")
_UNKNOWN: Final = "application/octet-stream"
#: The fields in which boxes send photographs.
_FIELDS: Final = frozenset({
    "reg_pic", "spot_pic", "recognize_face", "reg_image", "register_image", "spot_image", "ir_image", "recognize_face_image",
    "pic", "scene", "photo", "SanpPic", "ScenePic", "imgBase64",
})  # fmt: skip
#: Base64 shorter than this is too short to hold an image.
_LEAST_TEXT: Final = 32
#: No other field is as long, bytes or characters.
_LARGE: Final = 16 * 1024
#: As deep as an event may nest (`codec.MAX_DEPTH`).
_DEPTH: Final = 16


class Photograph(NamedTuple):
    """A photograph, by its hash."""

    sha256: str
    kind: str
    data: bytes

    def named(self) -> dict[str, Any]:
        """The photograph as its event names it."""
        return {"sha256": self.sha256, "bytes": len(self.data), "kind": self.kind}


def take_out(fields: Mapping[str, Any]) -> tuple[dict[str, Any], list[Photograph]]:
    """Name each photograph of an event in its place, however deep; give them beside it."""
    found: list[Photograph] = []
    return {name: _without(name, value, found, _DEPTH) for name, value in fields.items()}, found


def _without(name: object, value: Any, found: list[Photograph], depth: int) -> Any:
    if isinstance(value, bytes | bytearray | str):
        photograph = _photograph(name, value)
        if photograph is None:
            return value
        found.append(photograph)
        return photograph.named()
    if depth and isinstance(value, dict):
        return {key: _without(key, inner, found, depth - 1) for key, inner in value.items()}
    if depth and isinstance(value, list):
        return [_without(name, inner, found, depth - 1) for inner in value]
    return value


def _photograph(name: object, value: bytes | bytearray | str) -> Photograph | None:
    if len(value) < _LEAST_TEXT:
        return None
    is_meant = name in _FIELDS or len(value) > _LARGE
    if isinstance(value, str):
        prefix, comma, rest = value.partition(",") if value.startswith("data:") else ("", "", value)
        if not (is_meant or comma or _may_begin(rest)):
            return None
        data = _from_base64(rest)
        is_meant = is_meant or prefix.startswith("data:image/")
    else:
        data = bytes(value)
    if not data:
        return None
    kind = _kind(data)
    if kind == _UNKNOWN and not is_meant:
        return None
    return Photograph(hashlib.sha256(data).hexdigest(), kind, data)


def _may_begin(text: str) -> bool:
    """Whether base64 begins as an image does: decoding all of each text costs too much."""
    return _kind(_from_base64(text[:24])) != _UNKNOWN


def _from_base64(text: str) -> bytes:
    """The bytes; none if it is not base64 throughout, with or without line ends and padding."""
    compact = "".join(text.split()) if any(end in text for end in "\r\n ") else text
    try:
        return base64.b64decode(compact + "=" * (-len(compact) % 4), validate=True)
    except (ValueError, binascii.Error):
        return b""


def _kind(data: bytes) -> str:
    if data[:4] == _WEBP[0] and data[8:12] == _WEBP[1]:
        return "image/webp"
    return next((kind for begin, kind in _KINDS if data.startswith(begin)), _UNKNOWN)
