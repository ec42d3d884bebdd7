"""Events as their table has them.

Row      one event: `extra` packed, or None, after it the keys of its two identities, and a place for its stream
Rows     a batch of them in one list, as one INSERT takes them: few calls do for all what would be done for each
"""

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Final, TypeAlias, overload
from zlib import crc32

from facewire import codec
from facewire.events import Event

#: Columns of a row.
WIDTH: Final = 12


class Row(Event):
    """An event as its table has it."""

    __slots__ = ()


#: Makes a row of the fields of an `Event`.
RowMaker: TypeAlias = Callable[..., Row]


def key(text: str) -> int:
    """What an index holds in place of a text of any length: its CRC-32, as a signed integer. Texts may share one."""
    return crc32(text.encode()) - 0x8000_0000


def row_maker() -> RowMaker:
    """What makes rows, for one thread."""
    pack, new = codec.packer(), tuple.__new__

    def make(*fields: Any) -> Row:
        _, _, _, identity_id, identity_name, _, _, _, extra = fields
        return new(Row, (*fields[:8], pack(extra) if extra else None, key(identity_id), key(identity_name), None))

    return make


class Rows(Sequence[Row]):
    """Rows one after the other in one list, which can be sent to another process as it is (marshal)."""

    __slots__ = ("flat",)

    def __init__(self, flat: list[Any]) -> None:
        self.flat = flat

    @classmethod
    def of(cls, rows: Iterable[Event]) -> "Rows":
        """Of what a `RowMaker` made."""
        return cls(list(itertools.chain.from_iterable(rows)))

    def __len__(self) -> int:
        return len(self.flat) // WIDTH

    @overload
    def __getitem__(self, place: int) -> Row: ...
    @overload
    def __getitem__(self, place: slice) -> Sequence[Row]: ...
    def __getitem__(self, place: int | slice) -> Row | Sequence[Row]:
        if isinstance(place, slice):
            return list(self)[place]
        start = range(0, len(self.flat), WIDTH)[place]
        return tuple.__new__(Row, self.flat[start : start + WIDTH])

    def __iter__(self) -> Iterator[Row]:
        return map(self.__getitem__, range(len(self)))

    def add_to(self, params: list[Any], stream: int) -> None:
        """Append the rows of a stream to what an INSERT is given."""
        start = len(params)
        params += self.flat
        params[start + WIDTH - 1 :: WIDTH] = [stream] * len(self)
