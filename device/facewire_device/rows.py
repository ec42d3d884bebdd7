"""The rows of a store's event table, pure: an event in wire form, with a checksum."""

import struct
import zlib
from typing import Any, Final, TypeAlias

from facewire import codec

#: (seq, score, packed event, crc)
Row: TypeAlias = tuple[int, float, bytes, int]

_SEQ_AND_SCORE: Final = struct.Struct("<qd")
_NO_CRC: Final = -1


def make_row(event: dict[str, Any]) -> Row:
    """The row of an event, given under its wire names with its seq."""
    packed = codec.pack(event)
    return event["seq"], event["score"], packed, _crc(event["seq"], event["score"], packed)


def moved_row(row: Row, by: int) -> Row:
    """The row of the same event under another seq. A damaged row stays damaged."""
    seq, score, packed, _ = row
    return make_row(codec.unpack(packed) | {"seq": seq + by}) if is_intact(row) else (seq + by, score, packed, _NO_CRC)


def is_intact(row: Row) -> bool:
    """Whether the row is what was written."""
    try:
        return row[3] == _crc(row[0], row[1], row[2])
    except (TypeError, struct.error):
        return False


def _crc(seq: int, score: float, packed: bytes) -> int:
    # SQLite returns -0.0 as 0.0.
    return zlib.crc32(packed, zlib.crc32(_SEQ_AND_SCORE.pack(seq, score + 0.0)))
