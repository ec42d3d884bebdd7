"""Answers questions from column files and the rows that they lack.

The answers equal those of the event table at that moment, but come sooner.

with columns(dialect, database, wanted) as found:   None if the event table must be asked itself
    found.counts(wanted, periods)
"""

import contextlib
from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from typing import Any, Final, TypeAlias

from facewire.events import PersonType
from facewire_platform.columns import engine
from facewire_platform.columns.folder import read_folder
from facewire_platform.columns.parts import DAY, FIRST_MS, Tables, bounds
from facewire_platform.filter import Filter, conditions
from facewire_platform.store.dialect import Dialect
from facewire_platform.store.drivers import store_errors

#: Where an event is in the order of all: (timestamp, stream, seq).
Key: TypeAlias = tuple[int, int, int]

STRANGER: Final = PersonType.STRANGER.value
#: If more events than this are in no column file, the event table is asked: they would not fit in
#: memory.
MOST_LACKING: Final = 500_000
#: Rows taken from DuckDB at once.
_AT_ONCE: Final = 10_000
#: If a step finds more places than this, the next step looks through less time.
_PLENTY: Final = 20_000
_KEY: Final = "e.timestamp, e.stream, e.seq"


class FilesMissing(Exception):
    """A file that the database named is missing or damaged; raised before an answer's first row."""


class Columns:
    """The events that a filter is about, at one moment. Use `columns`."""

    def __init__(self, duck: Any, streams: Sequence[int] | None, span: tuple[int, int]) -> None:
        self._duck = duck
        self._streams = streams
        #: Times of the first and the last event that there may be.
        self.span = span

    def attendance(
        self, wanted: Filter, periods: Sequence[tuple[int, int]], entrances: Collection[str] = (), exits: Collection[str] = ()
    ) -> Iterator[tuple[Any, ...]]:
        """Everybody who was seen in each period, except strangers, by period and id.

        Args:
            wanted: the events that count.
            periods: one after the other.
            entrances: endpoints (`ep_id`) at which people enter.
            exits: endpoints at which people leave.

        Yields:
            The period's index in `periods`, then id, name, first time, last time and passes; with
            entrances also the first time in, with exits the last time out.
        """
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
        """For each period with events: its index, all events, those of strangers, other people."""
        source, values = self._source(wanted, periods)
        yield from self._run(
            "SELECT period, sum(n)::BIGINT, coalesce(sum(n) FILTER (strange), 0)::BIGINT, count(*) FILTER (NOT strange) FROM ("
            f"SELECT period, person_type = {STRANGER} AS strange, CASE WHEN person_type <> {STRANGER} THEN identity_id END AS who, "
            f"count(*) AS n FROM {source} GROUP BY ALL) GROUP BY period ORDER BY period",
            values,
        )

    def places(self, wanted: Filter, after: Key | None, limit: int | None, *, newest_first: bool) -> Iterator[Key]:
        """The keys of events behind `after`, in order.

        It searches one day first, then twice as many days each time that it finds few.
        """
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
        """A filter's events as a table in SQL, and its values; with periods, each has its index."""
        first, last = bounds(wanted)
        if periods is not None:
            first, last = max(first, periods[0][0]), min(last, periods[-1][1] - 1)
        person = wanted.person
        clauses = list(conditions(replace(wanted, person=None), self._streams))
        where = " AND ".join(["e.timestamp BETWEEN ? AND ?", *(text for text, _ in clauses)])
        values: list[Any] = [first, last, *(value for _, some in clauses for value in some)]
        period = f", {_period(periods)} AS period" if periods is not None else ""
        select = f"SELECT e.*{period} FROM event AS e WHERE {where}"
        if person is None:
            return f"({select})", values
        # A condition on one column at a time lets DuckDB skip groups of rows.
        either = f"({select} AND e.identity_id = ? UNION ALL {select} AND e.identity_name = ? AND e.identity_id <> ?)"
        return either, [*values, person, *values, person, person]

    def _run(self, sql: str, values: Sequence[Any]) -> Iterator[Any]:
        with _readable():
            found = self._duck.execute(sql, list(values))
            while rows := found.fetchmany(_AT_ONCE):
                yield from rows


@contextlib.contextmanager
def columns(dialect: Dialect, database: Any, wanted: Filter) -> Iterator[Columns | None]:
    """Open the column files for questions about some events; gives None if they are of no use.

    Args:
        dialect: the database's.
        database: open for reading, on this thread.
        wanted: the questions are about these events, or some of them.

    Raises:
        StoreError: the database cannot be read.
        FilesMissing: raised by a question; ask again.
    """
    tables = Tables(dialect, database)
    with contextlib.ExitStack() as stack:
        with store_errors(dialect.location), dialect.snapshot(database):
            found = _load(stack, tables, wanted) if engine.is_installed() else None
        yield found


def _load(stack: contextlib.ExitStack, tables: Tables, wanted: Filter) -> Columns | None:
    """None if no column file is of use, or if too many events are in none of them."""
    parts = tables.parts(*bounds(wanted))
    found = read_folder(tables.dialect, tables.database) if parts else None
    if found is None:
        return None
    folder, floor = found
    streams = None if wanted.device is None else tables.streams(wanted.device)
    gone = sorted({(stream, seq) for _, stream, seq, _ in tables.changed()})
    duck = stack.enter_context(engine.opened())
    lacking = engine.put(duck, "lacking", _not_too_many(tables.lacking(wanted, floor, streams)))
    if lacking > MOST_LACKING:
        return None
    engine.put_keys(duck, "gone", gone)
    with _readable():
        files = f"SELECT {engine.NAMES} FROM {engine.files(folder, [part.name for part in parts])}"
        files += " ANTI JOIN gone USING (stream, seq)" if gone else ""
        files += f" WHERE timestamp >= {floor}" if floor > FIRST_MS else ""
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
    """Raise `FilesMissing` if a file is missing or damaged."""
    try:
        yield
    except Exception as exc:
        if engine.is_unreadable(exc):
            raise FilesMissing(str(exc)) from exc
        raise


def _period(periods: Sequence[tuple[int, int]]) -> str:
    """SQL for the index of the period that a timestamp is in, by bisection. One of them must be."""

    def of(first: int, end: int) -> str:
        if end - first == 1:
            return str(first)
        middle = (first + end) // 2
        return f"CASE WHEN e.timestamp < {periods[middle][0]} THEN {of(first, middle)} ELSE {of(middle, end)} END"

    return of(0, len(periods))
