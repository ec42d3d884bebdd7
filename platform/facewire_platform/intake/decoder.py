"""Decodes batches in the process that receives them, as storing them is enough for one core of Python.

receiver's process: payload ── pack ──▶ bytes ══▶ worker's: unpack ──▶ Batch, its events as rows
"""

import marshal
from typing import Final

from facewire.messages import BatchOf, decode_batch_of
from facewire_platform.store.rows import Row, Rows

#: Later versions of marshal look for what occurs twice, which takes longer than the rest.
MARSHAL_VERSION: Final = 2


def pack(payload: bytes, rows: type[Rows]) -> bytes | None:
    """A batch as `unpack` takes it, or None: read it yourself, it is no batch, or an unusual one."""
    try:
        batch = decode_batch_of(payload, rows.from_maps)
    except Exception:  # noqa: BLE001  # whoever reads it then says what is wrong with it
        return None
    if not isinstance(batch.events, Rows):  # the codec does not vouch for it
        return None
    keys = (batch.epoch, batch.boot, batch.after, batch.cursor, batch.head, batch.oldest)
    return marshal.dumps((*keys, batch.events.packed), MARSHAL_VERSION)


def unpack(packed: bytes, rows: type[Rows]) -> BatchOf[Row]:
    """The batch, its events as rows."""
    # From the same program, through a socket that nobody else has.
    epoch, boot, after, cursor, head, oldest, events = marshal.loads(packed)  # noqa: S302
    return BatchOf(epoch, boot, after, cursor, head, oldest, rows(events))
