"""A store's SQL. peewee builds each statement once, because building costs more than running it."""

from typing import Any, Final

from facewire_device.schema import RingEvent, RingState
from facewire_device.state import COLUMNS


def _sql(query: Any) -> str:
    sql: str = query.sql()[0]
    return sql


_ROW: Final = (RingEvent.seq, RingEvent.score, RingEvent.packed, RingEvent.crc)
INSERT_EVENT: Final = _sql(RingEvent.insert({RingEvent.seq: 0, RingEvent.score: 0.0, RingEvent.packed: b"", RingEvent.crc: 0}))
SELECT_PACKED: Final = _sql(RingEvent.select(*_ROW).where(RingEvent.seq >= 0).order_by(RingEvent.seq).limit(1))
SELECT_ONE: Final = _sql(RingEvent.select(*_ROW).where(RingEvent.seq == 0))
SELECT_ABOVE: Final = _sql(RingEvent.select(*_ROW).where((RingEvent.seq > 0) & (RingEvent.score > 0.0)).order_by(RingEvent.seq).limit(1))
#: No limit, for SQLite's LIMIT.
ALL: Final = -1
_STATE: Final = tuple(getattr(RingState, name) for name in COLUMNS)
SELECT_STATE: Final = _sql(RingState.select(*_STATE))
UPDATE_STATE: Final = _sql(RingState.update(dict.fromkeys(_STATE, 0)))
