"""Finds the events that match a filter, and reads them in the order of time, page by page.

    read_events ──┬── keys from column files ──▶ event table   a long time of a device, a person …
                  └── index by time ───────────▶ event table   all else, or without column files

No transaction is open between two pages.
"""

import itertools
import json
import re
import sys
from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any, Final, NamedTuple, TypeAlias

import peewee

from facewire import codec
from facewire_platform.columns.answers import Columns, Key
from facewire_platform.filter import Filter
from facewire_platform.history.reader import Reader, Row
from facewire_platform.store.rows import key as key_of
from facewire_platform.store.schema import EVENT_FIELDS, EventRow, StreamRow, columns_of

#: A moment, ms since 1970 UTC, and the identity id of a person seen then.
Sighting: TypeAlias = tuple[int, str]

#: The columns of a `Key`.
KEY: Final = (EventRow.timestamp, EventRow.stream, EventRow.seq)

#: Events, with photographs, in one read.
PAGE: Final = 250
#: If a device has no more events than this, each page sorts them.
MAX_SORTED: Final = 10_000
#: If it has no more epochs than this, a query lists them; otherwise it looks them up.
MAX_LISTED: Final = 1_000
#: Even a large site records few events in this time.
SHORT_MS: Final = 10_000
_AT: Final = (
    f"SELECT {columns_of(EVENT_FIELDS, 'e')} FROM {{}} AS span "
    "CROSS JOIN event AS e ON e.stream = span.stream AND e.seq > span.after AND e.seq <= span.last"
)
#: `span` holds a person's key and the time of an event.
_OF_PERSON: Final = (
    "SELECT e.timestamp, e.identity_id, e.extra FROM {} AS span "
    "CROSS JOIN event AS e ON e.timestamp = span.after AND e.id_key = span.stream ORDER BY e.stream, e.seq"
)


class Place(NamedTuple):
    """An event's place among all events; as text `timestamp:device:epoch:seq`."""

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


def read_events(reader: Reader, wanted: Filter, after: Place | None, limit: int | None, *, newest_first: bool) -> Iterator[Row]:
    """Events by device time, then stream and seq; see `History.events`."""
    streams: dict[int, tuple[str, str]] = {}
    key = None if after is None else _key(reader, after)
    most = None if limit is None else min(limit, sys.maxsize)
    rows = _stored(reader, wanted, key, most, newest_first=newest_first)
    for row in itertools.islice(rows, most):
        if row[0] not in streams:
            query = StreamRow.select(StreamRow.id, StreamRow.device, StreamRow.epoch).tuples()
            streams = {stream: (device, epoch) for stream, device, epoch in reader.rows(query)}
        yield _event(streams[row[0]], tuple(map(reader.from_stored, row)))


def _key(reader: Reader, place: Place) -> Key:
    """A place as a `Key`; an unknown stream sorts before all others."""
    stream = StreamRow.select(StreamRow.id).where((StreamRow.device == place.device) & (StreamRow.epoch == place.epoch))
    streams = reader.rows(stream.tuples())
    return (place.timestamp, streams[0][0] if streams else 0, place.seq)


def _stored(reader: Reader, wanted: Filter, after: Key | None, limit: int | None, *, newest_first: bool) -> Iterator[tuple[Any, ...]]:
    if wanted.is_narrow and not _is_short(wanted):
        after, done = yield from _by_columns(reader, wanted, after, limit, newest_first=newest_first)
        if done:
            return
    page = PAGE if limit is None else min(PAGE, limit)
    full = True
    while full:
        rows = reader.plain_rows(page_query(reader, wanted, after, page, newest_first=newest_first))
        yield from (row[len(KEY) :] for row in rows if row[len(KEY)] is not None)
        full = len(rows) == page
        after = rows[-1][: len(KEY)] if rows else after


def _is_short(wanted: Filter) -> bool:
    """Whether the index by time finds so few events that opening column files would take longer."""
    return wanted.since is not None and wanted.until is not None and wanted.until - wanted.since <= SHORT_MS


def _by_columns(
    reader: Reader, wanted: Filter, after: Key | None, limit: int | None, *, newest_first: bool
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
        missing, keys = 0, reader.ask(wanted, places, none)
        while some := list(itertools.islice(keys, PAGE)):
            rows = _at(reader, some)
            missing, read = missing + len(some) - len(rows), read + len(rows)
            yield from (rows[key] for key in some if key in rows)
    return after, done


def _at(reader: Reader, keys: Sequence[Key]) -> dict[Key, tuple[Any, ...]]:
    """The events with these keys, as `EVENT_FIELDS`."""
    spans = json.dumps([(stream, seq - 1, seq) for _, stream, seq in keys])
    rows = reader.run(_AT.format(reader.dialect.spans), (spans,))
    return {(row[2], row[0], row[1]): row for row in rows}


def vendor_fields(reader: Reader, sightings: Iterable[Sighting]) -> dict[Sighting, dict[str, Any]]:
    """For each sighting, the vendor's fields of its event; of the first, if there are several."""
    wanted = set(sightings)
    spans = json.dumps([(key_of(person), timestamp, 0) for timestamp, person in wanted])
    found: dict[Sighting, dict[str, Any]] = {}
    for timestamp, person, extra in reader.run(_OF_PERSON.format(reader.dialect.spans), (spans,)):
        sighting = (timestamp, reader.from_stored(person))
        if sighting in wanted and sighting not in found:
            found[sighting] = codec.unpack(reader.from_stored(extra)) if extra else {}
    return found


def page_query(reader: Reader, wanted: Filter, after: Key | None, limit: int, *, newest_first: bool) -> Any:
    """A query for the next events: key and fields, null if the event does not match after all.

    For a person or a device, the query first finds the keys in the index alone and only then reads
    the events: PostgreSQL would otherwise read all events between them too.
    """
    if after is not None:
        # Given both bounds, SQLite would begin each page at this one instead of at `after`.
        wanted = replace(wanted, until=None) if newest_first else replace(wanted, since=None)
    by_place = wanted.person is not None or wanted.device is not None
    query = EventRow.select(*KEY) if by_place else EventRow.select(*KEY, *EVENT_FIELDS)
    for condition in _by_index(reader, wanted) if by_place else conditions(reader, wanted):
        query = query.where(condition)
    if after is not None:
        # A row value comparison: SQLite and PostgreSQL answer it from the index.
        here, last = peewee.Tuple(*KEY), peewee.Tuple(*after)
        query = query.where(here < last if newest_first else here > last)
    query = query.order_by(*_ordered(KEY, newest_first=newest_first)).limit(limit)
    return _events_at(reader, query.cte("places"), wanted, newest_first=newest_first) if by_place else query


def _events_at(reader: Reader, places: Any, wanted: Filter, *, newest_first: bool) -> Any:
    """A query for the events at these places."""
    event = EventRow.alias()
    same = (event.stream == places.c.stream) & (event.seq == places.c.seq)
    for condition in _by_row(reader, wanted, event):
        same &= condition
    key = (places.c.timestamp, places.c.stream, places.c.seq)
    fields = (getattr(event, column.name) for column in EVENT_FIELDS)
    query = peewee.Select([places.join(event, peewee.JOIN.LEFT_OUTER, on=same)], [*key, *fields])
    return query.order_by(*_ordered(key, newest_first=newest_first)).with_cte(places)


def _ordered(columns: Sequence[Any], *, newest_first: bool) -> Iterator[Any]:
    return (column.desc() if newest_first else column for column in columns)


def conditions(reader: Reader, wanted: Filter) -> Iterator[Any]:
    """The conditions that an event meets if it matches a filter."""
    yield from _by_index(reader, wanted)
    yield from _by_row(reader, wanted)


def _by_index(reader: Reader, wanted: Filter) -> Iterator[Any]:
    """The conditions that the index by time can check."""
    if wanted.since is not None:
        yield EventRow.timestamp >= wanted.since
    if wanted.until is not None:
        yield EventRow.timestamp < wanted.until
    if wanted.device is not None:
        yield _of_device(reader, wanted.device)
    if wanted.person is not None:
        yield (EventRow.id_key == key_of(wanted.person)) | (EventRow.name_key == key_of(wanted.person))


def _by_row(reader: Reader, wanted: Filter, event: Any = EventRow) -> Iterator[Any]:
    """The conditions that only the events themselves can check."""
    if wanted.person is not None:
        person = reader.to_stored(wanted.person)
        yield (event.identity_id == person) | (event.identity_name == person)
    if wanted.person_type is not None:
        yield event.person_type == wanted.person_type
    if wanted.group is not None:
        yield event.group_name == reader.to_stored(wanted.group)
    if wanted.min_score is not None:
        yield event.score >= wanted.min_score


def _of_device(reader: Reader, device: str) -> Any:
    """The condition for a device: the database sorts few events, and reads many in time order.

    To sort a few events is faster than to find them among those of all devices, but many must not
    be sorted for each page. SQLite would always sort: `stream + 0` is no column, so SQLite stays
    with the index by time, which contains the stream too.
    """
    of_device = StreamRow.select(StreamRow.id, StreamRow.head).where(StreamRow.device == device)
    streams = reader.rows(of_device.tuples())
    few = sum(head for _, head in streams) <= MAX_SORTED
    # A statement has at most 32,766 values on SQLite, 65,535 on PostgreSQL.
    ids = [stream for stream, _ in streams] if len(streams) <= MAX_LISTED else of_device.select(StreamRow.id)
    return (EventRow.stream if few else EventRow.stream + 0).in_(ids)


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
