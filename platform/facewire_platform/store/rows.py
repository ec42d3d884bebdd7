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
from typing import Any, Final, NamedTuple, Self, TypeAlias, overload
from zlib import crc32

from facewire import codec
from facewire.events import Event, columns_from_maps

#: Columns of a row: the fields of `Event`, with `extra` packed, or None; the keys of its two identities; its stream.
WIDTH: Final = 12
#: The place of `extra`.
EXTRA: Final = 8

#: For each field of `Event` what the events have there.
Columns: TypeAlias = Sequence[Sequence[Any]]


class Row(NamedTuple):
    """One of `Rows`: the four fields of its event that the platform decides on, and its form."""

    seq: int
    timestamp: int
    score: float
    identity_id: str
    #: The whole event, as its kind of `Rows` holds it.
    form: Any


def key(text: str) -> int:
    """What an index holds in place of a text of any length: its CRC-32, as a signed integer. Texts may share one."""
    return _keys((text.encode(),))[0]


def _keys(texts: Iterable[bytes]) -> list[int]:
    return [number - 0x8000_0000 for number in map(crc32, texts)]


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
    def of(cls, events: Sequence[Event | Row]) -> Self:
        """Rows of events, or of some of the rows of another batch."""
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
        for place, column in enumerate((*fields, _extras(extras), _keys(map(str.encode, ids)), _keys(map(str.encode, names)))):
            flat[place::WIDTH] = column
        return flat

    @classmethod
    def joined(cls, forms: list[Any]) -> list[Any]:
        return list(chain.from_iterable(forms))

    def row(self, place: int) -> Row:
        values = self.packed[place * WIDTH : (place + 1) * WIDTH]
        seq, timestamp, score, identity_id, *_ = values
        return Row(seq, timestamp, score, identity_id, values)

    def add_to(self, group: list[Any], stream: int) -> None:
        start = len(group)
        group += self.packed
        # sqlite3 asks of `bytes` what they adapt to, which takes longer than to make of them what it does not ask of.
        group[start + EXTRA :: WIDTH] = [None if extra is None else bytearray(extra) for extra in self.packed[EXTRA::WIDTH]]
        group[start + WIDTH - 1 :: WIDTH] = [stream] * len(self)


#: How many fields a row has, then each after its size: all that are of one size, and what comes before the bytes of `identity_id`.
_TO_ID: Final = struct.Struct(">hiqiqidiqiiiii")
_SIZE: Final = struct.Struct(">i")
_STREAM: Final = struct.Struct(">ii")
_NULL: Final = _SIZE.pack(-1)


class CopyRows(Rows):
    """The bytes of each row but for its stream, as COPY takes them (https://www.postgresql.org/docs/current/sql-copy.html, Binary Format).

    Attributes:
        order: of the columns.
    """

    __slots__ = ()

    order: Final = (
        *("seq", "timestamp", "score", "person_type", "id_key", "name_key"),
        *("identity_id", "identity_name", "group_name", "ep_id", "extra", "stream"),
    )

    def __len__(self) -> int:
        return len(self.packed)

    @classmethod
    def pack(cls, columns: Columns) -> list[Any]:
        if not columns:
            return []
        seqs, timestamps, scores, ids, names, person_types, groups, endpoints, extras = columns
        id_texts, name_texts = list(map(str.encode, ids)), list(map(str.encode, names))
        sizes = (repeat(size) for size in (8, 8, 8, 8, 4, 4))
        fixed = (seqs, timestamps, scores, person_types, _keys(id_texts), _keys(name_texts))
        id_texts, name_texts = _escaped(id_texts), _escaped(name_texts)
        parts = zip(
            map(_TO_ID.pack, repeat(WIDTH), *chain.from_iterable(zip(sizes, fixed, strict=True)), map(len, id_texts)),
            id_texts,
            map(_SIZE.pack, map(len, name_texts)),
            name_texts,
            _few(groups),
            _few(endpoints),
            map(_sized, _extras(extras)),
            strict=True,
        )
        return list(map(b"".join, parts))

    @classmethod
    def joined(cls, forms: list[Any]) -> list[Any]:
        return forms

    def row(self, place: int) -> Row:
        form = self.packed[place]
        _, _, seq, _, timestamp, _, score, *_, size = _TO_ID.unpack_from(form)
        return Row(seq, timestamp, score, unescape(form[_TO_ID.size : _TO_ID.size + size].decode()), form)

    def add_to(self, group: list[Any], stream: int) -> None:
        group.append(_STREAM.pack(4, stream).join((*self.packed, b"")))  # after each row


def _escaped(texts: list[bytes]) -> list[bytes]:
    joined = b"".join(texts)
    return [escape(text.decode()).encode() for text in texts] if b"\x00" in joined or b"\x01" in joined else texts


def _few(texts: Sequence[str | None]) -> Iterator[bytes]:
    """Texts after their sizes, where few are different."""
    made = {text: _sized(None if text is None else escape(text).encode()) for text in set(texts)}
    return map(made.__getitem__, texts)


def _sized(value: bytes | None) -> bytes:
    return _NULL if value is None else _SIZE.pack(len(value)) + value


# PostgreSQL's text has no NUL, which JSON and msgpack have: \0 and the \x01 that stands for it are written as two characters.


def escape(value: Any) -> Any:
    """A text as PostgreSQL can keep it; anything else as it is."""
    return value.replace("\x01", "\x011").replace("\x00", "\x010") if isinstance(value, str) else value


def unescape(value: Any) -> Any:
    """The text that `escape` was given."""
    return value.replace("\x010", "\x00").replace("\x011", "\x01") if isinstance(value, str) else value
