"""Decodes batches in the receiver's process, because storing them keeps one core of Python busy.

receiver's process: payload ── pack ──▶ bytes ══▶ worker's: unpack ──▶ batch with rows
"""

import marshal
from typing import Final

from facewire.messages import BatchOf, Origin, decode_batch_of
from facewire_platform.store.rows import Row, Rows

#: Later versions of marshal look for values that occur twice, which takes most of their time.
MARSHAL_VERSION: Final = 2


def pack(payload: bytes, rows: type[Rows]) -> bytes | None:
    """A batch for `unpack`. None if it is bad or unusual: decode the payload instead."""
    try:
        batch = decode_batch_of(payload, rows.from_maps)
    except Exception:  # noqa: BLE001  # `reader` decodes it again, and reports the error
        return None
    if not isinstance(batch.events, Rows):  # the codec does not vouch for it
        return None
    keys = (batch.epoch, batch.boot, batch.after, batch.cursor, batch.head, batch.oldest)
    origins = [tuple(origin) for origin in batch.origins]
    return marshal.dumps((*keys, batch.events.packed, origins), MARSHAL_VERSION)


def unpack(packed: bytes, rows: type[Rows]) -> BatchOf[Row]:
    """The batch, with its events as rows."""
    # These bytes come from this program, through a socket that no other has.
    epoch, boot, after, cursor, head, oldest, events, origins = marshal.loads(packed)  # noqa: S302
    return BatchOf(epoch, boot, after, cursor, head, oldest, rows(events), origins=tuple(Origin(*origin) for origin in origins))
