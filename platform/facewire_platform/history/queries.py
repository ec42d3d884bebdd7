"""Answers questions about the stored history: events, devices, losses, numbers, quarantine."""

import itertools
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

import peewee

from facewire.events import PersonType
from facewire_platform.filter import Filter
from facewire_platform.history.devices import above_column, conserved, device_row, rate_columns
from facewire_platform.history.events import Place, conditions, page_query, read_events
from facewire_platform.history.periods import HOUR
from facewire_platform.history.reader import Reader, Row
from facewire_platform.sightings import AHEAD, EARLIEST
from facewire_platform.store.schema import DeviceRow, EventRow, GapRow, QuarantineRow, StreamRow

#: Periods of one question.
PERIODS: Final = 100
STRANGER: Final = PersonType.STRANGER.value


class History(Reader):
    """The questions of commands and of the web server to one database."""

    def events(self, wanted: Filter, *, after: Place | None = None, limit: int | None = None, newest_first: bool = False) -> Iterator[Row]:
        """Any number of events, by device time, then stream and seq; reads page by page.

        Each is a map of device, epoch, seq, then the event's fields as the device sent them. If a
        vendor's field is called device or epoch, its key is `event.device` or `event.epoch`. With
        `after` the events begin behind that place.
        """
        return read_events(self, wanted, after, limit, newest_first=newest_first)

    def span(self, since: int | None, until: int | None) -> tuple[int, int] | None:
        """Device times of the first and the last event of a period; None if it has no events."""
        within = Filter(since=since, until=until)
        ends = [self.rows(page_query(self, within, None, 1, newest_first=newest).tuples()) for newest in (False, True)]
        return (ends[0][0][0], ends[1][0][0]) if all(ends) else None

    def devices(self, *, all_epochs: bool = False) -> Iterator[Row]:
        """How far each device is stored, and its last status; for the newest epoch, or for all.

        Without `all_epochs` the gaps and the quarantine are those of all its epochs: events that a
        device lost stay lost when it goes on in a new epoch.
        """
        return self._devices(self._streams(*rate_columns()), all_epochs=all_epochs)

    def knows(self, device: str) -> bool:
        """Whether the platform has ever heard of a device."""
        return any(self.rows(table.select().where(table.device == device).limit(1).tuples()) for table in (DeviceRow, StreamRow))

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
        statuses = {row["device"]: row for row in self.plain_dicts(DeviceRow.select())}
        stored = {(row["device"], row["epoch"]): row for row in streams}
        newest = dict(stored.keys()) | {device: row["epoch"] for device, row in statuses.items() if row["epoch"]}
        if not all_epochs:
            stored = _with_totals(stored, newest)
        keys = set(newest.items()) | (stored.keys() if all_epochs else set())
        for device, epoch in sorted(keys):
            yield device_row(device, epoch, statuses.get(device), stored.get((device, epoch)), current=newest[device] == epoch)

    def _streams(self, *more_columns: Any) -> list[Row]:
        """The epochs of all devices, oldest first."""
        return list(self.plain_dicts(StreamRow.select(StreamRow, *more_columns).order_by(StreamRow.id)))

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
            gaps = GapRow.select(GapRow.first, GapRow.last, GapRow.declared_at, GapRow.reason).where(GapRow.stream == stream)
            for gap in self.paged(gaps.dicts(), GapRow.first):
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
            matching = list(conditions(self, replace(wanted, since=since, until=until)))
            yield (place, *self.rows(query.where(*matching).tuples())[0])

    def quarantine(self, *, newest_first: bool = False) -> Iterator[Row]:
        """The entries of quarantine, oldest first by default."""
        yield from self.paged(QuarantineRow.select().dicts(), QuarantineRow.id, newest_first=newest_first)


def _with_totals(streams: Mapping[tuple[str, str], Row], newest: Mapping[str, str]) -> dict[tuple[str, str], Row]:
    """The newest stream of each device, with the gaps and the quarantine of all its streams."""
    gaps, quarantined = Counter[str](), Counter[str]()
    for (device, _), row in streams.items():
        gaps[device] += row["gaps"]
        quarantined[device] += row["quarantined"]
    keys = (key for key in newest.items() if key in streams)
    return {key: streams[key] | {"gaps": gaps[key[0]], "quarantined": quarantined[key[0]]} for key in keys}
