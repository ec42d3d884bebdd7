"""Reads the typed fields of a decoded message. Pure.

    m = Fields({"epoch": "9c4f21d07be3a815", "cursor": 10})
    m.identity("epoch")   ->  "9c4f21d07be3a815"
    m.integer("cursor")   ->  10
    m.integer("head")     ->  DecodeError: head is missing

A field that is null counts as missing. A field that nobody asks for is ignored, so a newer sender
may add fields (docs/contract.md, Payloads).
"""

import re
from collections.abc import Mapping
from typing import Any

from facewire.errors import DecodeError
from facewire.events import MAX_INT

_ID = re.compile(r"[0-9A-Fa-f]{16}")


class Fields:
    """The fields of one map. Each method reads one field by its name.

    If the field has a wrong type or value, the method raises `DecodeError`, which names the field
    and the type or limit. If the field is missing, an `optional` method returns None, and any other
    raises `DecodeError`.

    Args:
        wire: the map, as the codec gives it.
    """

    def __init__(self, wire: Mapping[str, Any]) -> None:
        self.map = wire

    def get(self, name: str, kind: type | tuple[type, ...], wanted: str) -> Any:
        """A field of a type, which `wanted` names in the error. A bool is not an integer here."""
        value = self.map.get(name)
        if value is None:
            raise DecodeError(f"{name} is missing")
        wrong_bool = isinstance(value, bool) and kind is not bool
        if wrong_bool or not isinstance(value, kind):
            raise DecodeError(f"{name} is {type(value).__name__}, not {wanted}")
        if isinstance(value, str):
            _check_unicode(name, value)
        return value

    def optional(self, name: str, kind: type | tuple[type, ...], wanted: str) -> Any:
        return None if self.map.get(name) is None else self.get(name, kind, wanted)

    def integer(self, name: str, *, least: int = 0) -> int:
        """An integer from `least` to `MAX_INT`."""
        value: int = self.get(name, int, "an integer")
        if not least <= value <= MAX_INT:
            raise DecodeError(f"{name} {value} is not from {least} to {MAX_INT}")
        return value

    def optional_integer(self, name: str, *, least: int = 0) -> int | None:
        return None if self.map.get(name) is None else self.integer(name, least=least)

    def optional_number(self, name: str) -> float | None:
        """An integer or a finite float, as a float."""
        value: float | None = self.optional(name, (int, float), "a number")
        if value is None:
            return None
        if not -MAX_INT <= value <= MAX_INT:  # nor is NaN
            raise DecodeError(f"{name} {ascii(value)[:40]} is not a finite number")
        return float(value)

    def identity(self, name: str) -> str:
        """The id of an epoch or a boot: 16 hex digits."""
        value: str = self.get(name, str, "text")
        if not _ID.fullmatch(value):
            raise DecodeError(f"{name} {ascii(value)[:40]} is not 16 hex digits")
        return value


def _check_unicode(name: str, text: str) -> None:
    """Raise `DecodeError` for a lone surrogate, which JSON can smuggle into a text."""
    try:
        text.encode()
    except UnicodeEncodeError as exc:
        raise DecodeError(f"{name} is not valid Unicode") from exc
