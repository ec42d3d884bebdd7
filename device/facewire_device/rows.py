"""The rows of a store's event table, pure: an event in wire form, with a checksum.

A row's score decides whether its event becomes a match. In the row of an event that is history only
it is -∞, whatever the event says. The row of a skipped seq has a reason instead of an event.
"""

import struct
import zlib
from typing import Any, Final, TypeAlias

from facewire import codec

#: (seq, score, packed event, crc)
Row: TypeAlias = tuple[int, float, bytes, int]

_SEQ_AND_SCORE: Final = struct.Struct("<qd")
_NO_CRC: Final = -1
#: Instead of a checksum, in the row of a skipped seq.
_SKIPPED: Final = -2
#: Below every threshold.
_NO_MATCH: Final = float("-inf")


def make_row(event: dict[str, Any], *, realtime: bool = True) -> Row:
    """The row of an event (wire names, with seq). Without `realtime` it never becomes a match."""
    packed = codec.pack(event)
    score = event["score"] if realtime else _NO_MATCH
    return event["seq"], score, packed, _crc(event["seq"], score, packed)


def skipped_row(seq: int, reason: str) -> Row:
    """The row of a seq that has no event: history declares it lost."""
    return seq, _NO_MATCH, codec.pack({"seq": seq, "skipped": reason}), _SKIPPED


def is_skipped(row: Row) -> bool:
    """Whether the seq was skipped on purpose."""
    return row[3] == _SKIPPED


def moved_row(row: Row, by: int) -> Row:
    """The event's row under another seq. A damaged row stays damaged, a skipped one skipped."""
    seq, score, packed, _ = row
    if is_intact(row):
        return make_row(codec.unpack(packed) | {"seq": seq + by}, realtime=score != _NO_MATCH)
    return seq + by, score, packed, _SKIPPED if is_skipped(row) else _NO_CRC


def is_intact(row: Row) -> bool:
    """Whether the row is what was written."""
    try:
        return row[3] == _crc(row[0], row[1], row[2])
    except (TypeError, struct.error):
        return False


def _crc(seq: int, score: float, packed: bytes) -> int:
    # SQLite returns -0.0 as 0.0.
    return zlib.crc32(packed, zlib.crc32(_SEQ_AND_SCORE.pack(seq, score + 0.0)))
