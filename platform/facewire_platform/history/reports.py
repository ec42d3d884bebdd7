"""Attendance and traffic, and how complete each answer is.

An answer can only contain what the devices have sent. So each device has a moment up to which its
history is complete. If it had nothing left to send when it was last heard from, that is the
moment; otherwise it is the device time of the event at its watermark.

    range of the report   ├──────────────────────────────┤
    lobby-1               ═══════════════════════════════════●  complete
    lobby-2               ══════════════●      40 events behind
    lobby-3               ═════ ✕✕✕ ═════════════════════════●  a gap: 3 events are lost
"""

import itertools
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import peewee

from facewire_platform.filter import Filter
from facewire_platform.history.events import conditions, vendor_fields
from facewire_platform.history.periods import Period
from facewire_platform.history.queries import STRANGER, History
from facewire_platform.history.reader import Row
from facewire_platform.store.schema import EventRow, GapRow, StreamRow

#: A box's clock that is off by less is taken to be right, s.
CLOCK_TOLERANCE: Final = 3.0
#: People per query; each query sorts the events of the day once.
PEOPLE: Final = 10_000
#: Attendance rows whose events one query looks up.
CORRECTED_AT_ONCE: Final = 500
#: Days of one question: people times days must fit in memory.
DAYS: Final = 31


@dataclass(frozen=True, slots=True)
class Coverage:
    """How complete the history of one device is, and what a period lacks.

    Attributes:
        complete_until: complete up to then, ms since 1970 UTC; None if nothing ever arrived.
        watermark_at: device time of the event at the watermark; None if it was deleted.
        lag: events that the device holds and has not sent.
        gaps, lost: gaps that reach into the period, and the number of events lost in them.
        proof: a bridged device's proof that its box lost nothing; None for any other device.
    """

    device: str
    complete_until: int | None
    watermark_at: int | None
    lag: int
    gaps: int = 0
    lost: int = 0
    proof: str | None = None

    def covers(self, period: Period) -> bool:
        """Whether every event of the period is here."""
        return self.gaps == 0 and self.complete_until is not None and self.complete_until >= period.until


class Completeness:
    """How complete history is at this moment.

    Create it before you read the events: then it may claim too little, but never too much.
    """

    def __init__(self, history: History, device: str | None = None) -> None:
        self._history = history
        query = _streams() if device is None else _streams().where(StreamRow.device == device)
        streams = {(name, epoch): rest for name, epoch, *rest in history.rows(query.tuples())}
        self._devices = {stream: name for (name, _), (stream, *_) in streams.items()}
        rows = [row for row in history.devices() if device in (None, row["device"])]
        self._coverages = [_coverage(row, streams.get((row["device"], row["epoch"]))) for row in rows]
        #: Whether the clock of a box behind a bridge is off: then its events have both times.
        self.clocks_off = any(abs(row["source_offset"] or 0.0) > CLOCK_TOLERANCE for row in rows)

    def of(self, period: Period) -> Iterator[Coverage]:
        """The coverage of each device, by name."""
        gaps = self._gaps(period)
        for coverage in self._coverages:
            count, lost = gaps.get(coverage.device, (0, 0))
            yield replace(coverage, gaps=count, lost=lost)

    def implausible(self, now_ms: int) -> dict[str, int]:
        """Each device's number of events that no report shows: a wrong clock gave their times."""
        names = {coverage.device for coverage in self._coverages}
        return {device: count for device, count in self._history.implausible(now_ms).items() if device in names}

    def covers(self, period: Period) -> bool:
        """Whether every event of the period is here, from every device."""
        return all(coverage.covers(period) for coverage in self._coverages) and not self._gaps(period)

    def _gaps(self, period: Period) -> dict[str, tuple[int, int]]:
        """Number of gaps of each device that may reach into a period, and of events lost in them.

        The time of a gap is known only from the events on both sides of it.
        """
        if not self._devices:
            return {}
        neighbour = EventRow.alias()
        of_stream = neighbour.select(neighbour.timestamp).where(neighbour.stream == GapRow.stream)
        before = of_stream.where(neighbour.seq < GapRow.first).order_by(neighbour.seq.desc()).limit(1)
        after = of_stream.where(neighbour.seq > GapRow.last).order_by(neighbour.seq).limit(1)
        # If no event follows the gap, its events were lost before it was declared.
        ends = peewee.fn.COALESCE(before, period.since), peewee.fn.COALESCE(after, GapRow.declared_at)
        query = GapRow.select(GapRow.stream, peewee.fn.COUNT(GapRow.first), peewee.fn.SUM(GapRow.last - GapRow.first + 1))
        query = query.where((ends[0] < period.until) & (ends[1] >= period.since)).group_by(GapRow.stream)
        of_device: dict[str, tuple[int, int]] = {}
        for stream, gaps, lost in self._history.rows(query.tuples()):
            if (device := self._devices.get(stream)) is not None:
                count, events = of_device.get(device, (0, 0))
                of_device[device] = (count + gaps, events + int(lost))
        return of_device


def attendance(
    history: History, wanted: Filter, day: Period, *, entrances: Collection[str] = (), exits: Collection[str] = ()
) -> Iterator[Row]:
    """Everybody who was seen on a day: see `attendance_of_days`."""
    return (row for _, row in attendance_of_days(history, wanted, [day], entrances=entrances, exits=exits))


def with_corrected_times(history: History, rows: Iterable[Row], moments: Sequence[str]) -> Iterator[Row]:
    """Attendance rows, with each of their moments by the bridge's clock too.

    `first_seen_corrected` is ms since 1970 UTC, or None if the box's clock was right.
    """
    rows = iter(rows)
    while some := list(itertools.islice(rows, CORRECTED_AT_ONCE)):
        sightings = {(row[name], row["identity_id"]) for row in some for name in moments if row[name] is not None}
        corrected = {sighting: own.get("corrected_timestamp") for sighting, own in vendor_fields(history, sightings).items()}
        for row in some:
            yield row | {f"{name}_corrected": corrected.get((row[name], row["identity_id"])) for name in moments}


def attendance_of_days(
    history: History, wanted: Filter, days: Sequence[Period], *, entrances: Collection[str] = (), exits: Collection[str] = ()
) -> Iterator[tuple[Period, Row]]:
    """Everybody who was seen, except strangers, by day and id.

    Args:
        history: open.
        wanted: which events count; its `since` and `until` are ignored.
        days: the periods, one after the other, without a time between them.
        entrances: endpoints (`ep_id`) at which people enter.
        exits: endpoints at which people leave.

    Yields:
        The day; identity_id, identity_name, first_seen, last_seen, passes; with entrances also
        first_in, with exits also last_out.
    """
    names = ["identity_id", "identity_name", "first_seen", "last_seen", "passes"]
    names += [*(["first_in"] if entrances else []), *(["last_out"] if exits else [])]
    for start in range(0, len(days), DAYS):
        some = days[start : start + DAYS]
        within = replace(wanted, since=some[0].since, until=some[-1].until)
        rows = history.ask(
            within,
            lambda found: found.attendance(within, some, sorted(entrances), sorted(exits)),  # noqa: B023  # called within this turn
            lambda: _attendance(history, within, some, entrances, exits),  # noqa: B023
        )
        for place, *values in rows:
            yield some[place], dict(zip(names, values, strict=True))


def _attendance(
    history: History, wanted: Filter, days: Sequence[Period], entrances: Collection[str], exits: Collection[str]
) -> Iterator[tuple[Any, ...]]:
    columns: list[Any] = [
        EventRow.identity_id,
        # If a person has several names, always the same one.
        peewee.fn.MAX(history.ordered(EventRow.identity_name)),
        peewee.fn.MIN(EventRow.timestamp),
        peewee.fn.MAX(EventRow.timestamp),
        peewee.fn.COUNT(EventRow.seq),
    ]
    for pick, endpoints in ((peewee.fn.MIN, entrances), (peewee.fn.MAX, exits)):
        if endpoints:
            at_endpoint = EventRow.ep_id.in_([history.to_stored(endpoint) for endpoint in endpoints])
            columns.append(pick(peewee.Case(None, [(at_endpoint, EventRow.timestamp)])))
    by_id = history.ordered(EventRow.identity_id)
    for place, day in enumerate(days):
        query = EventRow.select(*columns).where(EventRow.person_type != STRANGER)
        query = query.where(*conditions(history, replace(wanted, since=day.since, until=day.until)))
        query = query.group_by(EventRow.identity_id).order_by(by_id).limit(PEOPLE)
        people = history.rows(query.tuples())
        while people:
            yield from ((place, *map(history.from_stored, row)) for row in people)
            people = history.rows(query.where(by_id > people[-1][0]).tuples()) if len(people) == PEOPLE else []


def traffic(history: History, wanted: Filter, periods: Iterable[Period]) -> Iterator[Row]:
    """Counts of each period: since, until, events, people, strangers (see `History.counts`)."""
    shown, counted = itertools.tee(periods)
    for (since, until), counts in zip(shown, history.counts(wanted, counted), strict=True):
        yield {"since": since, "until": until, **counts}


def _streams() -> Any:
    """Device, epoch and id of each stream; when it was last heard; time at its watermark."""
    at = EventRow.select(EventRow.timestamp).where((EventRow.stream == StreamRow.id) & (EventRow.seq <= StreamRow.watermark))
    return StreamRow.select(
        StreamRow.device, StreamRow.epoch, StreamRow.id, StreamRow.last_seen, at.order_by(EventRow.seq.desc()).limit(1).alias("at")
    )


def _coverage(row: Row, stream: list[Any] | None) -> Coverage:
    """From a row of `History.devices`, and the stream of its epoch."""
    _, heard, watermark_at = stream or (None, None, None)
    # A device that never had an event is complete up to its last status, but not up to its last
    # will; both move `last_seen`.
    heard = row["last_seen"] if heard is None and row["online"] else heard
    return Coverage(row["device"], watermark_at if row["lag"] else heard, watermark_at, row["lag"], proof=row["proof"])
