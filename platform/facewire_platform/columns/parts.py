"""The database's tables of column files, and the rows that the files lack. Read both at one moment.

An event is in a column file if its seq is at most that of its stream in `copied`, its time is not
before the floor, and `changed` does not name it. All others are read from the event table:

    seq of a stream   1 ───────────────── copied ───────────────▶
                        column files       │  `_TAIL`
                        except `_CHANGED`, and the events before the floor: `_BELOW`
"""

import json
from collections.abc import Iterator, Sequence
from typing import Any, Final, NamedTuple

from facewire.events import MAX_INT
from facewire_platform.filter import Filter, conditions
from facewire_platform.store.dialect import Dialect

#: No event is earlier or later.
FIRST_MS: Final = -MAX_INT
LAST_MS: Final = MAX_INT
#: Columns of the event table that the files have, and their types (see `arrow`).
TYPES: Final = {
    "timestamp": "q",
    "stream": "q",
    "seq": "q",
    "score": "d",
    "identity_id": "u",
    "identity_name": "u",
    "person_type": "q",
    "group_name": "u",
    "ep_id": "u",
}
DAY: Final = 86_400_000  # ms
#: Events of one stream that are copied at once, at least.
SHARE: Final = 200
#: Rows taken from the database at once.
_AT_ONCE: Final = 20_000
_COLUMNS: Final = ", ".join(f"e.{name}" for name in TYPES)
# `+` rules out the index by time, so that each of these has one plan only. With CROSS JOIN, SQLite
# goes from left to right.
_TIME: Final = "+e.timestamp BETWEEN ? AND ?"
_TAIL: Final = (
    f"SELECT {_COLUMNS} FROM stream AS s LEFT JOIN copied AS c ON c.stream = s.id "
    f"CROSS JOIN event AS e ON e.stream = s.id AND e.seq > coalesce(c.seq, 0) WHERE {_TIME}"
)
_CHANGED: Final = (
    f"SELECT {_COLUMNS} FROM (SELECT DISTINCT x.stream, x.seq FROM changed AS x) AS x "
    "CROSS JOIN copied AS c ON c.stream = x.stream AND x.seq <= c.seq "
    f"CROSS JOIN event AS e ON e.stream = x.stream AND e.seq = x.seq WHERE {_TIME}"
)
_BELOW: Final = f"SELECT {_COLUMNS} FROM event AS e WHERE e.timestamp BETWEEN ? AND ?"
_BEHIND: Final = "FROM stream AS s LEFT JOIN copied AS c ON c.stream = s.id WHERE s.watermark > coalesce(c.seq, 0)"
_CHANGES: Final = "FROM changed AS x CROSS JOIN copied AS c ON c.stream = x.stream AND x.seq <= c.seq"
_BETWEEN: Final = "CROSS JOIN event AS e ON e.stream = span.stream AND e.seq > span.after AND e.seq <= span.last"


class Part(NamedTuple):
    """A column file; see `PartRow`."""

    id: int
    name: str
    day: int | None
    events: int
    first_at: int
    last_at: int


def bounds(wanted: Filter) -> tuple[int, int]:
    """The first and the last millisecond of a question."""
    return FIRST_MS if wanted.since is None else wanted.since, LAST_MS if wanted.until is None else wanted.until - 1


class Tables:
    """The tables of one database that readers and writers of column files need."""

    def __init__(self, dialect: Dialect, database: Any) -> None:
        self.dialect, self.database = dialect, database

    def parts(self, first: int = FIRST_MS, last: int = LAST_MS) -> list[Part]:
        """The parts that may have events between two moments, `last` included."""
        columns = ", ".join(Part._fields)
        found = self.rows(f"SELECT {columns} FROM part WHERE last_at >= ? AND first_at <= ? ORDER BY id", (first, last))
        return [Part(*row) for row in found]

    def streams(self, device: str) -> list[int]:
        """The streams of a device."""
        return [stream for (stream,) in self.rows("SELECT id FROM stream WHERE device = ?", (device,))]

    def names(self) -> list[tuple[int, str, str]]:
        """Each stream with its device and epoch."""
        return self.rows("SELECT id, device, epoch FROM stream")

    def behind(self, most: int) -> list[tuple[int, int, int]]:
        """The ranges (stream, after, last) to copy next: about `most` events, in equal shares."""
        [(streams,)] = self.rows(f"SELECT count(*) {_BEHIND}")
        if not streams:
            return []
        share = max(SHARE, most // streams)
        nth = "SELECT e.seq FROM event AS e WHERE e.stream = s.id AND e.seq > coalesce(c.seq, 0) ORDER BY e.seq LIMIT 1 OFFSET ?"
        found = self.rows(
            f"SELECT s.id, coalesce(c.seq, 0), s.watermark, ({nth}) {_BEHIND} ORDER BY s.id LIMIT ?", (share - 1, most // share + 1)
        )
        return [(stream, after, min(watermark, last or watermark)) for stream, after, watermark, last in found]

    def floor(self) -> int:
        """The time before which column files do not count; see `PartFolderRow`."""
        [(floor,)] = self.rows("SELECT floor FROM part_folder")
        return int(floor)

    def waiting(self) -> int:
        """About how many events wait to be copied or mended."""
        [(events,)] = self.rows(f"SELECT coalesce(sum(CAST(s.watermark - coalesce(c.seq, 0) AS REAL)), 0) {_BEHIND}")
        [(changes,)] = self.rows(f"SELECT count(*) {_CHANGES}")
        return int(events) + int(changes)

    def changed(self) -> list[tuple[int, int, int, int]]:
        """The changes (id, stream, seq, timestamp) that files which count may have to follow."""
        return self.rows(f"SELECT x.id, x.stream, x.seq, x.timestamp {_CHANGES} ORDER BY x.id")

    def lacking(self, wanted: Filter, floor: int, streams: Sequence[int] | None) -> Iterator[list[tuple[Any, ...]]]:
        """A question's events that no column file has (see `TYPES`), some at a time."""
        first, last = bounds(wanted)
        clauses = list(conditions(wanted, streams, self.dialect.to_stored))
        narrowed = "".join(f" AND {text}" for text, _ in clauses)
        values = [value for _, some in clauses for value in some]
        only = "" if streams is None else f" AND s.id IN ({', '.join(map(str, streams)) or 'NULL'})"
        above = (max(first, floor), last, *values)
        yield from self._chunks(_TAIL + only + narrowed, above)
        yield from self._chunks(_CHANGED + narrowed, above)
        if floor > first:
            yield from self._chunks(_BELOW + narrowed, (first, min(last, floor - 1), *values))

    def between(self, spans: Sequence[tuple[int, int, int]]) -> list[tuple[Any, ...]]:
        """The events of ranges (stream, after, last) (see `TYPES`); `after` is not included."""
        sql = f"SELECT {_COLUMNS} FROM {self.dialect.spans} AS span {_BETWEEN}"
        return [row for chunk in self._chunks(sql, (json.dumps(spans),)) for row in chunk]

    def rows(self, sql: str, values: Sequence[Any] = ()) -> list[Any]:
        """All rows of a statement (see `Dialect.run`)."""
        return list(self.dialect.run(self.database, sql, values).fetchall())

    def _chunks(self, sql: str, values: Sequence[Any]) -> Iterator[list[tuple[Any, ...]]]:
        cursor = self.dialect.run(self.database, sql, values)
        while rows := cursor.fetchmany(_AT_ONCE):
            yield self.dialect.rows_from_stored(rows)
