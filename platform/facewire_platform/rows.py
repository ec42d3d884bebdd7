"""A batch of events in the form that its database takes: few calls do for all what would be done for each.

Rows
├── InsertRows   the values of all rows in one list, for SQLite's INSERT
└── CopyRows     the bytes of each row, for PostgreSQL's COPY

They can be sent to another process (marshal). Of a row the platform reads again what it decides on; the rest it does not need.
"""

import abc
import struct
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, repeat
from typing import Any, Final, Self, TypeAlias, overload
from zlib import crc32

from facewire import codec
from facewire.events import Event, columns_from_maps

#: Columns of a row: the fields of `Event`, with `extra` packed, or None; the keys of its two identities; its stream.
WIDTH: Final = 12

#: For each field of `Event` what the events have there.
Columns: TypeAlias = Sequence[Sequence[Any]]


class Row(Event):
    """One of `Rows`: the first four fields of its event, `seq` to `identity_id`, and after them its form."""

    __slots__ = ()

    @classmethod
    def make(cls, seq: int, timestamp: int, score: float, identity_id: str, form: object) -> "Row":
        return tuple.__new__(cls, (seq, timestamp, score, identity_id, form))

    @property
    def form(self) -> Any:
        return self[4]


def key(text: str) -> int:
    """What an index holds in place of a text of any length: its CRC-32, as a signed integer. Texts may share one."""
    return _keys((text,))[0]


def _keys(texts: Iterable[str]) -> list[int]:
    return [number - 0x8000_0000 for number in map(crc32, map(str.encode, texts))]


def _extras(extras: Sequence[dict[str, Any]]) -> list[bytes | None]:
    return [packed if extra else None for packed, extra in zip(codec.pack_each(extras), extras, strict=True)]


class Rows(Sequence[Row]):
    """Rows of one batch.

    Attributes:
        packed: all that they are; `cls(packed)` is the same again.
    """

    __slots__ = ("packed",)

    def __init__(self, packed: list[Any]) -> None:
        self.packed = packed

    @classmethod
    def of(cls, events: Sequence[Event]) -> Self:
        """Of events, or of some of the rows of others."""
        if isinstance(events, cls):
            return events
        rows = [event for event in events if isinstance(event, Row)]
        return cls(cls.joined([row.form for row in rows]) if rows else cls.pack(list(zip(*events, strict=True))))

    @classmethod
    def from_maps(cls, maps: Sequence[Any]) -> Self:
        """Of events as they came. Raises `EventError`, see `columns_from_maps`."""
        return cls(cls.pack(columns_from_maps(maps)))

    @overload
    def __getitem__(self, place: int) -> Row: ...
    @overload
    def __getitem__(self, place: slice) -> Sequence[Row]: ...
    def __getitem__(self, place: int | slice) -> Row | Sequence[Row]:
        places = range(len(self))[place]
        return self.row(places) if isinstance(places, int) else list(map(self.row, places))

    def __iter__(self) -> Iterator[Row]:
        return map(self.row, range(len(self)))

    @classmethod
    @abc.abstractmethod
    def pack(cls, columns: Columns) -> list[Any]:
        """Rows of what events have; no columns for no events."""

    @classmethod
    @abc.abstractmethod
    def joined(cls, forms: list[Any]) -> list[Any]:
        """Rows of what single ones have for their form."""

    @abc.abstractmethod
    def row(self, place: int) -> Row:
        """One of them, from 0."""

    @abc.abstractmethod
    def add_to(self, group: list[Any], stream: int) -> None:
        """Append them, as rows of a stream, to what `insert_events` is given."""


class InsertRows(Rows):
    """The values of all rows, one after the other, each with a place for its stream."""

    __slots__ = ()

    def __len__(self) -> int:
        return len(self.packed) // WIDTH

    @classmethod
    def pack(cls, columns: Columns) -> list[Any]:
        if not columns:
            return []
        *fields, extras = columns
        _, _, _, ids, names, *_ = fields
        flat: list[Any] = [None] * WIDTH * len(extras)
        for place, column in enumerate((*fields, _extras(extras), _keys(ids), _keys(names))):
            flat[place::WIDTH] = column
        return flat

    @classmethod
    def joined(cls, forms: list[Any]) -> list[Any]:
        return list(chain.from_iterable(forms))

    def row(self, place: int) -> Row:
        values = self.packed[place * WIDTH : (place + 1) * WIDTH]
        seq, timestamp, score, identity_id, *_ = values
        return Row.make(seq, timestamp, score, identity_id, values)

    def add_to(self, group: list[Any], stream: int) -> None:
        start = len(group)
        group += self.packed
        group[start + WIDTH - 1 :: WIDTH] = [stream] * len(self)


#: How many fields a row has; then each field after its size, -1 for NULL: what comes before the bytes of `identity_id`, before
#: those of `group_name`, before those of a text; and what comes last of a row, before its stream and with it.
_TO_ID: Final = struct.Struct(">hiqiqidi")
_TO_GROUP: Final = struct.Struct(">iqi")
_SIZE: Final = struct.Struct(">i")
_KEYS: Final = struct.Struct(">iiii")
_STREAM: Final = struct.Struct(">ii")


class CopyRows(Rows):
    """The bytes of each row but for its stream, as COPY takes them (https://www.postgresql.org/docs/current/sql-copy.html, Binary Format)."""

    __slots__ = ()

    def __len__(self) -> int:
        return len(self.packed)

    @classmethod
    def pack(cls, columns: Columns) -> list[Any]:
        if not columns:
            return []
        seqs, timestamps, scores, ids, names, person_types, groups, endpoints, extras = columns
        (id_sizes, id_texts), (name_sizes, name_texts) = _sized(_encoded(ids)), _sized(_encoded(names))
        (group_sizes, group_texts), (ep_sizes, ep_texts) = _sized(_encoded(groups)), _sized(_encoded(endpoints))
        extra_sizes, extra_maps = _sized(_extras(extras))
        four, eight = repeat(4), repeat(8)
        parts = zip(
            map(_TO_ID.pack, repeat(WIDTH), eight, seqs, eight, timestamps, eight, scores, id_sizes),
            id_texts,
            map(_SIZE.pack, name_sizes),
            name_texts,
            map(_TO_GROUP.pack, eight, person_types, group_sizes),
            group_texts,
            map(_SIZE.pack, ep_sizes),
            ep_texts,
            map(_SIZE.pack, extra_sizes),
            extra_maps,
            map(_KEYS.pack, four, _keys(ids), four, _keys(names)),
            strict=True,
        )
        return list(map(b"".join, parts))

    @classmethod
    def joined(cls, forms: list[Any]) -> list[Any]:
        return forms

    def row(self, place: int) -> Row:
        form = self.packed[place]
        _, _, seq, _, timestamp, _, score, size = _TO_ID.unpack_from(form)
        return Row.make(seq, timestamp, score, unescape(form[_TO_ID.size : _TO_ID.size + size].decode()), form)

    def add_to(self, group: list[Any], stream: int) -> None:
        group.append(_STREAM.pack(4, stream).join((*self.packed, b"")))  # after each row


def _sized(values: list[bytes | None]) -> tuple[list[int], list[bytes]]:
    return [-1 if value is None else len(value) for value in values], [value or b"" for value in values]


def _encoded(texts: Sequence[str | None]) -> list[bytes | None]:
    kept = texts if _is_plain(texts) else map(escape, texts)
    return [None if text is None else text.encode() for text in kept]


# PostgreSQL's text has no NUL, which JSON and msgpack have: \0 and the \x01 that stands for it are written as two characters.


def _is_plain(texts: Sequence[str | None]) -> bool:
    joined = "".join(filter(None, texts))
    return "\x00" not in joined and "\x01" not in joined


def escape(value: Any) -> Any:
    """A text as PostgreSQL can keep it; anything else as it is."""
    return value.replace("\x01", "\x011").replace("\x00", "\x010") if isinstance(value, str) else value


def unescape(value: Any) -> Any:
    """The text that `escape` was given."""
    return value.replace("\x010", "\x00").replace("\x011", "\x01") if isinstance(value, str) else value
