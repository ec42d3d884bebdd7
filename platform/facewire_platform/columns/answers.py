"""Answers from column files and the rows that they lack: what the event table says at that moment, sooner.

with columns(dialect, database, wanted) as found:   None if the event table is to be asked itself
    found.counts(wanted, periods)
"""

import contextlib
from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from typing import Any, Final, TypeAlias

from facewire.events import PersonType
from facewire_platform.columns import engine
from facewire_platform.columns.filter import Filter, conditions
from facewire_platform.columns.folder import read_folder
from facewire_platform.columns.parts import FIRST_MS, Tables, bounds
from facewire_platform.store.dialect import Dialect
from facewire_platform.store.drivers import store_errors

#: Where an event is in the order of all: (timestamp, stream, seq).
Key: TypeAlias = tuple[int, int, int]

STRANGER: Final = PersonType.STRANGER.value
DAY: Final = 86_400_000  # ms
#: With more events than this in no column file, the event table is asked itself: they would not fit in memory.
MOST_LACKING: Final = 500_000
#: Rows taken from DuckDB at once.
_AT_ONCE: Final = 10_000
#: Places that are found for one page; with more, the next step is over less time.
_PLENTY: Final = 20_000
_KEY: Final = "e.timestamp, e.stream, e.seq"


class FilesMissing(Exception):
    """A file that the database named is missing or damaged. Raised before the first row of an answer."""


class Columns:
    """The events that a filter is about, of one moment. Use `columns`."""

    def __init__(self, duck: Any, streams: Sequence[int] | None, span: tuple[int, int]) -> None:
        self._duck = duck
        self._streams = streams
        #: Times of the first and the last event that there may be.
        self.span = span

    def attendance(
        self, wanted: Filter, periods: Sequence[tuple[int, int]], entrances: Collection[str] = (), exits: Collection[str] = ()
    ) -> Iterator[tuple[Any, ...]]:
        """Of each period and person but strangers, in this order: place of the period, id, name, first, last, passes; first in, last out."""
        source, values = self._source(wanted, periods)
        ends, endpoints = "", list[Any]()
        for pick, some in (("min", entrances), ("max", exits)):
            if some:
                ends += f", {pick}(CASE WHEN ep_id IN ({', '.join('?' * len(some))}) THEN timestamp END)"
                endpoints += some
        yield from self._run(
            f"SELECT period, identity_id, max(identity_name), min(timestamp), max(timestamp), count(*){ends} "
            f"FROM {source} WHERE person_type <> {STRANGER} GROUP BY period, identity_id ORDER BY period, identity_id",
            [*endpoints, *values],
        )

    def counts(self, wanted: Filter, periods: Sequence[tuple[int, int]]) -> Iterator[tuple[int, int, int, int]]:
        """Of each period that has any: its place, events, strangers, other people."""
        source, values = self._source(wanted, periods)
        yield from self._run(
            "SELECT period, sum(n)::BIGINT, coalesce(sum(n) FILTER (strange), 0)::BIGINT, count(*) FILTER (NOT strange) FROM ("
            f"SELECT period, person_type = {STRANGER} AS strange, CASE WHEN person_type <> {STRANGER} THEN identity_id END AS who, "
            f"count(*) AS n FROM {source} GROUP BY ALL) GROUP BY period ORDER BY period",
            values,
        )

    def places(self, wanted: Filter, after: Key | None, limit: int | None, *, newest_first: bool) -> Iterator[Key]:
        """The places of events in their order, those behind `after`; looked for in ever longer times."""
        first, last = max(self.span[0], bounds(wanted)[0]), min(self.span[1], bounds(wanted)[1])
        if after is not None:
            first, last = (first, min(last, after[0])) if newest_first else (max(first, after[0]), last)
        days, left = 1, limit
        while first <= last and (left is None or left > 0):
            edge = max(first, (last // DAY + 1 - days) * DAY) if newest_first else min(last, (first // DAY + days) * DAY - 1)
            part = (edge, last) if newest_first else (first, edge)
            found = 0
            for key in self._places(replace(wanted, since=part[0], until=part[1] + 1), after, left, newest_first=newest_first):
                found += 1
                yield key
            left = None if left is None else left - found
            first, last = (first, edge - 1) if newest_first else (edge + 1, last)
            days = days * 2 if found < _PLENTY else max(1, days // 2)

    def _places(self, wanted: Filter, after: Key | None, limit: int | None, *, newest_first: bool) -> Iterator[Key]:
        source, values = self._source(wanted, None)
        direction = " DESC" if newest_first else ""
        order = ", ".join(f"{column}{direction}" for column in _KEY.split(", "))
        behind = f" WHERE ({_KEY}) {'<' if newest_first else '>'} (?, ?, ?)" if after is not None else ""
        most = "" if limit is None else f" LIMIT {limit}"
        yield from self._run(f"SELECT {_KEY} FROM {source} AS e{behind} ORDER BY {order}{most}", [*values, *(after or ())])

    def _source(self, wanted: Filter, periods: Sequence[tuple[int, int]] | None) -> tuple[str, list[Any]]:
        """The events of a filter as a table in SQL, with the place of their period if there are any; and its values."""
        first, last = bounds(wanted)
        if periods is not None:
            first, last = max(first, periods[0][0]), min(last, periods[-1][1] - 1)
        person = wanted.person
        told = list(conditions(replace(wanted, person=None), self._streams))
        where = " AND ".join(["e.timestamp BETWEEN ? AND ?", *(text for text, _ in told)])
        values: list[Any] = [first, last, *(value for _, some in told for value in some)]
        period = f", {_period(periods)} AS period" if periods is not None else ""
        select = f"SELECT e.*{period} FROM event AS e WHERE {where}"
        if person is None:
            return f"({select})", values
        # By one of them at a time, the files know where to look.
        either = f"({select} AND e.identity_id = ? UNION ALL {select} AND e.identity_name = ? AND e.identity_id <> ?)"
        return either, [*values, person, *values, person, person]

    def _run(self, sql: str, values: Sequence[Any]) -> Iterator[Any]:
        with _readable():
            found = self._duck.execute(sql, list(values))
            while rows := found.fetchmany(_AT_ONCE):
                yield from rows


@contextlib.contextmanager
def columns(dialect: Dialect, database: Any, wanted: Filter) -> Iterator[Columns | None]:
    """What can answer questions about some events; None if the event table should.

    Args:
        dialect: of the database.
        database: open for reading, on this thread.
        wanted: the questions are about these, or some of these.

    Raises:
        StoreError: the database cannot be read.
        FilesMissing: when a question is asked: try again.
    """
    tables = Tables(dialect, database)
    with contextlib.ExitStack() as stack:
        with store_errors(dialect.location), dialect.snapshot(database):
            found = _load(stack, tables, wanted) if engine.is_installed() else None
        yield found


def _load(stack: contextlib.ExitStack, tables: Tables, wanted: Filter) -> Columns | None:
    """None if no column file is of use, or too much is in none of them."""
    parts = tables.parts(*bounds(wanted))
    found = read_folder(tables.dialect, tables.database) if parts else None
    if found is None:
        return None
    folder, floor = found
    streams = None if wanted.device is None else tables.streams(wanted.device)
    forgotten = tables.forgotten()
    gone = sorted({(stream, seq) for _, stream, seq, _ in tables.changed()})
    duck = stack.enter_context(engine.opened())
    lacking = engine.put(duck, "lacking", _not_too_many(tables.lacking(wanted, floor, streams)))
    if lacking > MOST_LACKING:
        return None
    engine.put_keys(duck, "gone", gone)
    with _readable():
        files = f"SELECT {engine.NAMES} FROM {engine.files(folder, [part.name for part in parts])}"
        files += " ANTI JOIN gone USING (stream, seq)" if gone else ""
        tests = [f"timestamp >= {floor}"] if floor > FIRST_MS else []
        tests += [f"stream NOT IN ({', '.join(map(str, forgotten))})"] if forgotten else []
        files += f" WHERE {' AND '.join(tests)}" if tests else ""
        duck.execute(f"CREATE OR REPLACE TEMP VIEW event AS {files} UNION ALL SELECT {engine.NAMES} FROM lacking")
    [ends] = duck.execute("SELECT min(timestamp), max(timestamp) FROM lacking").fetchall() if lacking else [None]
    ends = [*([ends] if ends else []), *((part.first_at, part.last_at) for part in parts)]
    return Columns(duck, streams, (min(first for first, _ in ends), max(last for _, last in ends)))


def _not_too_many(chunks: Iterator[list[tuple[Any, ...]]]) -> Iterator[list[tuple[Any, ...]]]:
    count = 0
    for chunk in chunks:
        yield chunk
        count += len(chunk)
        if count > MOST_LACKING:
            return


@contextlib.contextmanager
def _readable() -> Iterator[None]:
    """A file that is missing or damaged raises `FilesMissing`."""
    try:
        yield
    except Exception as exc:
        if engine.is_unreadable(exc):
            raise FilesMissing(str(exc)) from exc
        raise


def _period(periods: Sequence[tuple[int, int]]) -> str:
    """The place of the period that a timestamp is in, which is in one of them: halves, and halves of halves."""

    def of(first: int, end: int) -> str:
        if end - first == 1:
            return str(first)
        middle = (first + end) // 2
        return f"CASE WHEN e.timestamp < {periods[middle][0]} THEN {of(first, middle)} ELSE {of(middle, end)} END"

    return of(0, len(periods))
