"""A batch of events in the form that its database takes. Few calls convert a whole batch.

Rows
├── InsertRows   the values of all rows in one list, for SQLite's INSERT
└── CopyRows     the bytes of each row, for PostgreSQL's COPY

Rows can be sent to another process (marshal). The platform unpacks only the four fields that it
decides on: seq, timestamp, score and identity_id. The rest goes into the database as it is.
"""

import abc
import struct
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, repeat
from typing import Any, Final, NamedTuple, Self, TypeAlias, overload
from zlib import crc32

from facewire import codec
from facewire.events import Event, columns_from_maps

#: Columns of a row: the fields of `Event`, with `extra` packed or None; two keys; the stream.
WIDTH: Final = 12
#: The index of `extra`.
EXTRA: Final = 8

#: A list of values for each field of `Event`.
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
    """The key of a text in an index: its CRC-32 as a signed integer. Texts may share a key."""
    return _keys((text.encode(),))[0]


def _keys(texts: Iterable[bytes]) -> list[int]:
    return [number - 0x8000_0000 for number in map(crc32, texts)]


def _extras(extras: Sequence[dict[str, Any]]) -> list[bytes | None]:
    return [packed if extra else None for packed, extra in zip(codec.pack_each(extras), extras, strict=True)]


class Rows(Sequence[Row]):
    """Rows of one batch.

    Attributes:
        packed: their whole content; `cls(packed)` makes equal rows.
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
        """Rows of events as received. Raises `EventError`, see `columns_from_maps`."""
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
        """The packed form of events, given as columns. No events have no columns."""

    @classmethod
    @abc.abstractmethod
    def joined(cls, forms: list[Any]) -> list[Any]:
        """The packed form of single rows, given by their `form`."""

    @abc.abstractmethod
    def row(self, place: int) -> Row:
        """The row at a place, from 0."""

    @abc.abstractmethod
    def add_to(self, group: list[Any], stream: int) -> None:
        """Append the rows, for a stream, to the argument of `Statements.insert_events`."""


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
        # sqlite3 looks for an adapter of `bytes`, which takes longer than to copy them into a type
        # that needs none.
        group[start + EXTRA :: WIDTH] = [None if extra is None else bytearray(extra) for extra in self.packed[EXTRA::WIDTH]]
        group[start + WIDTH - 1 :: WIDTH] = [stream] * len(self)


#: The number of columns, then each column after its size: those of fixed size, and the size of
#: `identity_id`.
_TO_ID: Final = struct.Struct(">hiqiqidiqiiiii")
_SIZE: Final = struct.Struct(">i")
_STREAM: Final = struct.Struct(">iq")
_NULL: Final = _SIZE.pack(-1)


class CopyRows(Rows):
    """The bytes of each row without its stream, as COPY takes them.

    See https://www.postgresql.org/docs/current/sql-copy.html, Binary Format.

    Attributes:
        order: the order of the columns.
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
        group.append(_STREAM.pack(8, stream).join((*self.packed, b"")))  # after each row


def _escaped(texts: list[bytes]) -> list[bytes]:
    joined = b"".join(texts)
    return [escape(text.decode()).encode() for text in texts] if b"\x00" in joined or b"\x01" in joined else texts


def _few(texts: Sequence[str | None]) -> Iterator[bytes]:
    """Each text after its size; fast if few texts differ."""
    forms = {text: _sized(None if text is None else escape(text).encode()) for text in set(texts)}
    return map(forms.__getitem__, texts)


def _sized(value: bytes | None) -> bytes:
    return _NULL if value is None else _SIZE.pack(len(value)) + value


# A text of PostgreSQL cannot contain NUL, a text of JSON or msgpack can. So \x00 becomes \x01 and a
# digit, and therefore so does \x01.


def escape(value: Any) -> Any:
    """A text that PostgreSQL can store. Other values stay as they are."""
    return value.replace("\x01", "\x011").replace("\x00", "\x010") if isinstance(value, str) else value


def unescape(value: Any) -> Any:
    """The text that `escape` was given."""
    return value.replace("\x010", "\x00").replace("\x011", "\x01") if isinstance(value, str) else value
