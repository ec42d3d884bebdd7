"""Questions to the stored history, while the worker goes on writing (SQLite's WAL)."""

import contextlib
import itertools
import json
import re
import sys
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final, NamedTuple, TypeAlias, TypeVar

import peewee

from facewire import codec
from facewire.events import PersonType
from facewire_platform.columns.answers import Columns, FilesMissing, columns
from facewire_platform.columns.filter import Filter
from facewire_platform.history.devices import above_column, conserved, device_row, rate_columns
from facewire_platform.sightings import AHEAD, EARLIEST
from facewire_platform.store.database import dialect_of
from facewire_platform.store.drivers import Location, store_errors
from facewire_platform.store.rows import key as key_of
from facewire_platform.store.schema import EVENT_FIELDS, DeviceRow, EventRow, GapRow, QuarantineRow, StreamRow, columns_of
from facewire_platform.store.stopping import check_stop, stoppable

Row: TypeAlias = dict[str, Any]
#: The place of an event in the order of all events: (timestamp, stream, seq).
Key: TypeAlias = tuple[int, int, int]
KEY: Final = (EventRow.timestamp, EventRow.stream, EventRow.seq)

#: Events, with photographs, in one read; no transaction is open between two reads.
PAGE: Final = 250
#: If a device has no more events than this, each page sorts them.
MAX_SORTED: Final = 10_000
#: If it has no more epochs than this, a query lists them; otherwise it looks them up.
MAX_LISTED: Final = 1_000
HOUR: Final = 3_600_000  # ms
#: Even a large site records few events in this time.
SHORT_MS: Final = 10_000
#: Periods of one question.
PERIODS: Final = 100
#: How often a question to the column files is asked, if some are replaced meanwhile.
TRIES: Final = 5
_AT: Final = (
    f"SELECT {columns_of(EVENT_FIELDS, 'e')} FROM {{}} AS span "
    "CROSS JOIN event AS e ON e.stream = span.stream AND e.seq > span.after AND e.seq <= span.last"
)
T = TypeVar("T")
STRANGER: Final = PersonType.STRANGER.value


class Place(NamedTuple):
    """An event's place in `History.events`; as text `timestamp:device:epoch:seq`."""

    timestamp: int
    device: str
    epoch: str
    seq: int

    @classmethod
    def of(cls, row: Row) -> "Place":
        return cls(*(row[name] for name in cls._fields))

    @classmethod
    def parse(cls, text: str) -> "Place":
        """The place that a text names. Raises `ValueError`."""
        match = re.fullmatch(r"(-?[0-9]{1,18}):([A-Za-z0-9._-]{1,64}):([0-9A-Fa-f]{16}):([0-9]{1,18})", text)
        if not match:
            raise ValueError(f"{text[:120]!a} is not TIMESTAMP:DEVICE:EPOCH:SEQ of an event")
        return cls(int(match[1]), match[2], match[3], int(match[4]))

    def __str__(self) -> str:
        return ":".join(map(str, self))


class History:
    """A database open for reading, on the thread that opened it.

    Raises:
        StoreError: there is no database, or it is not a platform's.
    """

    def __init__(self, location: Location) -> None:
        self._location = location
        self._dialect = dialect_of(location)
        self._db = self._dialect.open("read")
        self._resources = contextlib.ExitStack()
        self.to_stored, self.from_stored = self._dialect.to_stored, self._dialect.from_stored
        self.ordered = self._dialect.ordered

    def close(self) -> None:
        self._db.close()

    def __enter__(self) -> "History":
        self._resources.callback(self.close)
        self._resources.enter_context(stoppable(self._dialect.interrupt(self._db)))
        return self

    def __exit__(self, *error: Any) -> None:
        self._resources.__exit__(*error)

    def events(self, wanted: Filter, *, after: Place | None = None, limit: int | None = None, newest_first: bool = False) -> Iterator[Row]:
        """Any number of events, by device time, then stream and seq; reads page by page.

        Each is a map of device, epoch, seq, then the event's fields as the device sent them. If a
        vendor's field is called device or epoch, its key is `event.device` or `event.epoch`. With
        `after` the events begin behind that place.
        """
        streams: dict[int, tuple[str, str]] = {}
        key = None if after is None else self._key(after)
        page = PAGE if limit is None else min(PAGE, limit)
        most = None if limit is None else min(limit, sys.maxsize)
        rows = self._stored(wanted, key, page, most, newest_first=newest_first)
        for row in itertools.islice(rows, most):
            if row[0] not in streams:
                query = StreamRow.select(StreamRow.id, StreamRow.device, StreamRow.epoch).tuples()
                streams = {stream: (device, epoch) for stream, device, epoch in self.rows(query)}
            yield _event(streams[row[0]], tuple(map(self.from_stored, row)))

    def span(self, since: int | None, until: int | None) -> tuple[int, int] | None:
        """Device times of the first and the last event of a period; None if it has no events."""
        within = Filter(since=since, until=until)
        ends = [self.rows(self._page(within, None, 1, newest_first=newest).tuples()) for newest in (False, True)]
        return (ends[0][0][0], ends[1][0][0]) if all(ends) else None

    def devices(self, *, all_epochs: bool = False) -> Iterator[Row]:
        """How far each device is stored, and its last status; for the newest epoch, or for all.

        Without `all_epochs` the gaps and the quarantine are those of all its epochs: events that a
        device lost stay lost when it goes on in a new epoch.
        """
        return self._devices(self._streams(*rate_columns()), all_epochs=all_epochs)

    def conservation(self) -> Iterator[Row]:
        """For each epoch of each device, whether its counts add up to its watermark.

        The watermark is stored + gaps + quarantined + continued. `stored` counts the events at or
        below it, even if they were deleted since.
        `unaccounted` is the difference between both sides: anything but 0 is a bug. A single
        statement reads it all, so the numbers belong to one moment.
        """
        return map(conserved, self._streams(above_column()))

    def devices_and_conservation(self) -> tuple[Iterator[Row], Iterator[Row]]:
        """`devices` and `conservation`, which read the streams once for both."""
        streams = self._streams(*rate_columns(), above_column())
        return self._devices(streams, all_epochs=False), map(conserved, streams)

    def _devices(self, streams: list[Row], *, all_epochs: bool) -> Iterator[Row]:
        statuses = {row["device"]: row for row in self._plain_dicts(DeviceRow.select())}
        stored = {(row["device"], row["epoch"]): row for row in streams}
        newest = dict(stored.keys()) | {device: row["epoch"] for device, row in statuses.items() if row["epoch"]}
        if not all_epochs:
            stored = _with_totals(stored, newest)
        keys = set(newest.items()) | (stored.keys() if all_epochs else set())
        for device, epoch in sorted(keys):
            yield device_row(device, epoch, statuses.get(device), stored.get((device, epoch)), current=newest[device] == epoch)

    def _streams(self, *more_columns: Any) -> list[Row]:
        """The epochs of all devices, oldest first."""
        return list(self._plain_dicts(StreamRow.select(StreamRow, *more_columns).order_by(StreamRow.id)))

    def implausible(self, now_ms: int) -> Counter[str]:
        """Each device's number of events that a wrong clock put before 2020 or after tomorrow."""
        names = dict(self.rows(StreamRow.select(StreamRow.id, StreamRow.device).tuples()))
        found: Counter[str] = Counter()
        # Grouped by the column itself, the database would read the whole table in the key's order.
        stream_id = EventRow.stream + 0
        for condition in (EventRow.timestamp < EARLIEST, EventRow.timestamp > now_ms + AHEAD):
            counts = EventRow.select(stream_id, peewee.fn.COUNT(EventRow.seq)).where(condition).group_by(peewee.SQL("1"))
            for stream, count in self.rows(counts.tuples()):
                found[names[stream]] += count
        return found

    def gaps(self, device: str | None = None) -> Iterator[Row]:
        """The lost ranges, by device, epoch (oldest first) and seq."""
        with_gaps = StreamRow.select(StreamRow.id, StreamRow.device, StreamRow.epoch).where(StreamRow.gaps > 0)
        if device is not None:
            with_gaps = with_gaps.where(StreamRow.device == device)
        for stream, name, epoch in self.rows(with_gaps.order_by(StreamRow.device, StreamRow.id).tuples()):
            gaps = GapRow.select(GapRow.first, GapRow.last, GapRow.declared_at).where(GapRow.stream == stream)
            for gap in self._paged(gaps.dicts(), GapRow.first):
                yield {"device": name, "epoch": epoch, **gap, "events": gap["last"] - gap["first"] + 1}

    def hourly(self, wanted: Filter) -> Iterator[Row]:
        """`counts` of each hour (UTC) from `since` to `until`, with `hour`, its beginning.

        Raises:
            ValueError: since and until are not both given.
        """
        if wanted.since is None or wanted.until is None:
            raise ValueError("since and until are not both given")
        hours = range(wanted.since - wanted.since % HOUR, wanted.until, HOUR)
        periods = [(max(hour, wanted.since), min(hour + HOUR, wanted.until)) for hour in hours]
        for hour, counts in zip(hours, self.counts(wanted, periods), strict=True):
            yield {"hour": hour, **counts}

    def counts(self, wanted: Filter, periods: Iterable[tuple[int, int]]) -> Iterator[Row]:
        """The numbers of `events`, of `strangers`' events and of other `people`, for each period.

        Args:
            wanted: the events that count; its `since` and `until` are ignored.
            periods: (since, until), one after the other, without events between them.
        """
        periods = iter(periods)
        while some := list(itertools.islice(periods, PERIODS)):
            yield from self._counted(replace(wanted, since=some[0][0], until=some[-1][1]), some)

    def ask(self, wanted: Filter, question: Callable[[Columns], Iterator[T]], otherwise: Callable[[], Iterator[T]]) -> Iterator[T]:
        """Answers from the column files, or from the event table if the files are of no use.

        Args:
            wanted: the events that the question is about.
            question: asks the column files.
            otherwise: asks the event table.
        """
        for _ in range(TRIES):
            try:
                with columns(self._dialect, self._db, wanted) as found:
                    if found is None:
                        break
                    yield from question(found)
                    return
            except FilesMissing:
                continue  # a file was replaced in this moment
        yield from otherwise()

    def _counted(self, wanted: Filter, periods: Sequence[tuple[int, int]]) -> Iterator[Row]:
        rows = self.ask(wanted, lambda found: found.counts(wanted, periods), lambda: self._counts(wanted, periods))
        counts = {place: numbers for place, *numbers in rows}
        for place in range(len(periods)):
            yield dict(zip(("events", "strangers", "people"), counts.get(place, (0, 0, 0)), strict=True))

    def _counts(self, wanted: Filter, periods: Sequence[tuple[int, int]]) -> Iterator[tuple[int, ...]]:
        stranger = EventRow.person_type == STRANGER
        query = EventRow.select(
            peewee.fn.COUNT(EventRow.seq),
            peewee.fn.COUNT(peewee.Case(None, [(stranger, 1)])),
            peewee.fn.COUNT(peewee.Case(None, [(~stranger, EventRow.identity_id)]).distinct()),
        )
        for place, (since, until) in enumerate(periods):
            conditions = list(self.conditions(replace(wanted, since=since, until=until)))
            yield (place, *self.rows(query.where(*conditions).tuples())[0])

    def quarantine(self, *, newest_first: bool = False) -> Iterator[Row]:
        """The entries of quarantine, oldest first by default."""
        yield from self._paged(QuarantineRow.select().dicts(), QuarantineRow.id, newest_first=newest_first)

    def _key(self, place: Place) -> tuple[int, int, int]:
        """A place as a `Key`; an unknown stream sorts before all others."""
        stream = StreamRow.select(StreamRow.id).where((StreamRow.device == place.device) & (StreamRow.epoch == place.epoch))
        streams = self.rows(stream.tuples())
        return (place.timestamp, streams[0][0] if streams else 0, place.seq)

    def _stored(self, wanted: Filter, after: Key | None, page: int, limit: int | None, *, newest_first: bool) -> Iterator[tuple[Any, ...]]:
        if wanted.is_narrow and not _is_short(wanted):
            after, done = yield from self._by_columns(wanted, after, limit, newest_first=newest_first)
            if done:
                return
        full = True
        while full:
            rows = self._plain_rows(self._page(wanted, after, page, newest_first=newest_first))
            yield from (row[len(KEY) :] for row in rows if row[len(KEY)] is not None)
            full = len(rows) == page
            after = rows[-1][: len(KEY)] if rows else after

    def _by_columns(
        self, wanted: Filter, after: Key | None, limit: int | None, *, newest_first: bool
    ) -> Generator[tuple[Any, ...], None, tuple[Key | None, bool]]:
        """Events by their keys in column files; returns the last key, and whether that is all."""
        done, read = True, 0

        def places(columns: Columns) -> Iterator[Key]:
            nonlocal after
            left = None if limit is None else limit - read
            for after in columns.places(wanted, after, left, newest_first=newest_first):  # noqa: B020  # from there on
                yield after

        def none() -> Iterator[Key]:
            nonlocal done
            done = False
            yield from ()

        missing = 1
        while done and missing and (limit is None or read < limit):
            # Some of the events may be deleted before they are read. Then we look for others.
            missing, keys = 0, self.ask(wanted, places, none)
            while some := list(itertools.islice(keys, PAGE)):
                rows = self._at(some)
                missing, read = missing + len(some) - len(rows), read + len(rows)
                yield from (rows[key] for key in some if key in rows)
        return after, done

    def _at(self, places: Sequence[Key]) -> dict[Key, tuple[Any, ...]]:
        """The events at these places, as `EVENT_FIELDS`."""
        spans = json.dumps([(stream, seq - 1, seq) for _, stream, seq in places])
        with store_errors(self._location):
            rows = self._dialect.run(self._db, _AT.format(self._dialect.spans), (spans,)).fetchall()
        return {(row[2], row[0], row[1]): row for row in rows}

    def _page(self, wanted: Filter, after: Key | None, limit: int, *, newest_first: bool) -> Any:
        """The key of each event and its fields, which are null if it does not match after all.

        For a person or a device, the query first finds the keys in the index alone and only then
        reads the events: PostgreSQL would otherwise read all events between them too.
        """
        if after is not None:
            # Given both bounds, SQLite would begin each page at this one instead of at `after`.
            wanted = replace(wanted, until=None) if newest_first else replace(wanted, since=None)
        by_place = wanted.person is not None or wanted.device is not None
        query = EventRow.select(*KEY) if by_place else EventRow.select(*KEY, *EVENT_FIELDS)
        for condition in self._by_index(wanted) if by_place else self.conditions(wanted):
            query = query.where(condition)
        if after is not None:
            # A row value comparison: SQLite and PostgreSQL answer it from the index.
            here, last = peewee.Tuple(*KEY), peewee.Tuple(*after)
            query = query.where(here < last if newest_first else here > last)
        query = query.order_by(*_ordered(KEY, newest_first=newest_first)).limit(limit)
        return self._events_at(query.cte("places"), wanted, newest_first=newest_first) if by_place else query

    def _events_at(self, places: Any, wanted: Filter, *, newest_first: bool) -> Any:
        """The events at these places."""
        event = EventRow.alias()
        same = (event.stream == places.c.stream) & (event.seq == places.c.seq)
        for condition in self._by_row(wanted, event):
            same &= condition
        key = (places.c.timestamp, places.c.stream, places.c.seq)
        fields = (getattr(event, column.name) for column in EVENT_FIELDS)
        query = peewee.Select([places.join(event, peewee.JOIN.LEFT_OUTER, on=same)], [*key, *fields])
        return query.order_by(*_ordered(key, newest_first=newest_first)).with_cte(places)

    def _paged(self, query: Any, key: Any, *, newest_first: bool = False) -> Iterator[Row]:
        """All rows of a query, page by page, in the order of a column that they contain."""
        query = query.order_by(key.desc() if newest_first else key).limit(PAGE)
        page = self.rows(query)
        while page:
            yield from page
            last = page[-1][key.name]
            page = self.rows(query.where(key < last if newest_first else key > last))

    def conditions(self, wanted: Filter) -> Iterator[Any]:
        """The conditions that a wanted event meets."""
        yield from self._by_index(wanted)
        yield from self._by_row(wanted)

    def _by_index(self, wanted: Filter) -> Iterator[Any]:
        """The conditions that the index by time can check."""
        if wanted.since is not None:
            yield EventRow.timestamp >= wanted.since
        if wanted.until is not None:
            yield EventRow.timestamp < wanted.until
        if wanted.device is not None:
            yield self._of_device(wanted.device)
        if wanted.person is not None:
            yield (EventRow.id_key == key_of(wanted.person)) | (EventRow.name_key == key_of(wanted.person))

    def _by_row(self, wanted: Filter, event: Any = EventRow) -> Iterator[Any]:
        """The conditions that only the events themselves can check."""
        if wanted.person is not None:
            person = self.to_stored(wanted.person)
            yield (event.identity_id == person) | (event.identity_name == person)
        if wanted.person_type is not None:
            yield event.person_type == wanted.person_type
        if wanted.group is not None:
            yield event.group_name == self.to_stored(wanted.group)
        if wanted.min_score is not None:
            yield event.score >= wanted.min_score

    def _of_device(self, device: str) -> Any:
        """The condition for a device: the database sorts few events, and reads many in time order.

        To sort a few events is faster than to find them among those of all devices, but many must
        not be sorted for each page. SQLite would always sort: `stream + 0` is no column, so SQLite
        stays with the index by time, which contains the stream too.
        """
        of_device = StreamRow.select(StreamRow.id, StreamRow.head).where(StreamRow.device == device)
        streams = self.rows(of_device.tuples())
        few = sum(head for _, head in streams) <= MAX_SORTED
        # A statement has at most 32,766 values on SQLite, 65,535 on PostgreSQL.
        ids = [stream for stream, _ in streams] if len(streams) <= MAX_LISTED else of_device.select(StreamRow.id)
        return (EventRow.stream if few else EventRow.stream + 0).in_(ids)

    def rows(self, query: Any) -> list[Any]:
        """All rows of a query, with texts as the database keeps them (see `from_stored`)."""
        check_stop()
        with store_errors(self._location):
            return list(query.bind(self._db))

    def _plain_rows(self, query: Any) -> list[tuple[Any, ...]]:
        """Rows as the driver gives them: peewee's conversion would take a quarter of the time."""
        check_stop()
        with store_errors(self._location):
            rows: list[tuple[Any, ...]] = self._executed(query).fetchall()
            return rows

    def _plain_dicts(self, query: Any) -> Iterator[Row]:
        """The same with the names of the columns."""
        with store_errors(self._location):
            cursor = self._executed(query)
            names = [column[0] for column in cursor.description]
            rows = cursor.fetchall()
        return (dict(zip(names, row, strict=True)) for row in rows)

    def _executed(self, query: Any) -> Any:
        return self._db.execute_sql(*query.bind(self._db).sql())


def _is_short(wanted: Filter) -> bool:
    """Whether the index by time finds so few events that opening column files would take longer."""
    return wanted.since is not None and wanted.until is not None and wanted.until - wanted.since <= SHORT_MS


def _ordered(columns: Sequence[Any], *, newest_first: bool) -> Iterator[Any]:
    return (column.desc() if newest_first else column for column in columns)


def _event(stream: tuple[str, str], row: tuple[Any, ...]) -> Row:
    device, epoch = stream
    _, seq, timestamp, score, identity_id, identity_name, person_type, group_name, ep_id, extra = row
    fields = {
        "device": device,
        "epoch": epoch,
        "seq": seq,
        "timestamp": timestamp,
        "score": score,
        "identity_id": identity_id,
        "identity_name": identity_name,
        "person_type": person_type,
    }
    fields |= {name: value for name, value in (("group_name", group_name), ("ep_id", ep_id)) if value is not None}
    vendors = codec.unpack(extra) if extra else {}
    return fields | {f"event.{name}" if name in fields else name: value for name, value in vendors.items()}


def _with_totals(streams: Mapping[tuple[str, str], Row], newest: Mapping[str, str]) -> dict[tuple[str, str], Row]:
    """The newest stream of each device, with the gaps and the quarantine of all its streams."""
    gaps, quarantined = Counter[str](), Counter[str]()
    for (device, _), row in streams.items():
        gaps[device] += row["gaps"]
        quarantined[device] += row["quarantined"]
    keys = (key for key in newest.items() if key in streams)
    return {key: streams[key] | {"gaps": gaps[key[0]], "quarantined": quarantined[key[0]]} for key in keys}
