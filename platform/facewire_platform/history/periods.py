"""Days and hours of a time zone as moments. Pure.

A day has 23 or 25 hours when clocks change. If clocks repeat an hour, it counts as two hours.

    Europe/Berlin, 2026-10-25    … 01:00+02:00 | 02:00+02:00 | 02:00+01:00 | 03:00+01:00 …
"""

import datetime as dt
from collections.abc import Iterator
from typing import Final, NamedTuple

HOUR: Final = 3_600_000  # ms
_EPOCH: Final = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_MS: Final = dt.timedelta(milliseconds=1)
#: Days that lie within the calendar in every zone.
_FIRST: Final = dt.date.min + dt.timedelta(days=1)
_LAST: Final = dt.date.max - dt.timedelta(days=2)


class Period(NamedTuple):
    """From `since` to before `until`, ms since 1970 UTC."""

    since: int
    until: int


def day(date: dt.date, zone: dt.tzinfo) -> Period:
    """A day of a zone; empty if the zone skipped it, like Samoa on 30 December 2011.

    Raises:
        ValueError: the day is at an end of the calendar.
    """
    if not _FIRST <= date <= _LAST:
        raise ValueError(f"{date} is not from {_FIRST} to {_LAST}")
    return Period(_midnight(date, zone), _midnight(date + dt.timedelta(days=1), zone))


def hours(within: Period, zone: dt.tzinfo) -> Iterator[Period]:
    """Split a period at the full hours of the zone's clocks.

    The period begins at a full hour; the last part ends with the period.
    """
    since = within.since
    while since < within.until:
        # By the clocks at `since`; by those after a change if that is a full hour too. Where clocks
        # change by half an hour at a full hour, a part begins at half past.
        by_old = since + HOUR - _since_full_hour(since, zone)
        by_new = by_old - _since_full_hour(by_old, zone)
        full = by_old if _since_full_hour(by_new, zone) else by_new
        until = min(full, within.until)
        yield Period(since, until)
        since = until


def local(at_ms: int, zone: dt.tzinfo) -> dt.datetime:
    """A moment as the clocks of a zone show it.

    Raises:
        OverflowError: datetime cannot express its year.
    """
    return (_EPOCH + at_ms * _MS).astimezone(zone)


def _since_full_hour(at_ms: int, zone: dt.tzinfo) -> int:
    clock = local(at_ms, zone)
    return (clock.minute * 60 + clock.second) * 1000


def _midnight(date: dt.date, zone: dt.tzinfo) -> int:
    # If clocks skip midnight, this is the moment at which they skip it (PEP 495, fold=0).
    return (dt.datetime.combine(date, dt.time(), zone) - _EPOCH) // _MS
