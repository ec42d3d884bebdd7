import datetime as dt
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from facewire_platform.history.periods import Period, day, hours, local

HOUR = 3_600_000
ZONES = ("UTC", "Europe/Berlin", "Asia/Kolkata", "Australia/Lord_Howe", "America/Havana", "Pacific/Apia", "Asia/Kathmandu")


@pytest.mark.parametrize(
    ("zone", "date", "length"),
    [
        ("UTC", dt.date(2026, 3, 29), 24),
        ("Europe/Berlin", dt.date(2026, 3, 29), 23),
        ("Europe/Berlin", dt.date(2026, 10, 25), 25),
        ("Australia/Lord_Howe", dt.date(2026, 4, 5), 24.5),
        # Clocks go from 24:00 to 01:00: the day has no midnight.
        ("America/Havana", dt.date(2026, 3, 8), 23),
        # Samoa left this day out.
        ("Pacific/Apia", dt.date(2011, 12, 30), 0),
    ],
)
def test_a_day_has_the_length_that_its_zone_gives_it(zone: str, date: dt.date, length: float) -> None:
    found = day(date, ZoneInfo(zone))
    assert (found.until - found.since) / HOUR == length


def test_a_repeated_hour_is_two_hours_and_a_skipped_one_is_none() -> None:
    berlin = ZoneInfo("Europe/Berlin")
    autumn = [
        local(hour.since, berlin).isoformat()[11:19] + local(hour.since, berlin).isoformat()[19:]
        for hour in hours(day(dt.date(2026, 10, 25), berlin), berlin)
    ]
    assert autumn[:5] == ["00:00:00+02:00", "01:00:00+02:00", "02:00:00+02:00", "02:00:00+01:00", "03:00:00+01:00"]
    assert len(autumn) == 25
    spring = [local(hour.since, berlin).hour for hour in hours(day(dt.date(2026, 3, 29), berlin), berlin)]
    assert spring == [0, 1, *range(3, 24)]


@given(st.sampled_from(ZONES), st.dates(dt.date(1960, 1, 1), dt.date(2035, 12, 31)))
def test_days_and_their_hours_follow_one_another_without_hole_or_overlap(zone: str, date: dt.date) -> None:
    here = ZoneInfo(zone)
    found = day(date, here)
    assert day(date + dt.timedelta(days=1), here).since == found.until
    parts = list(hours(found, here))
    assert [part.since for part in parts[1:]] == [part.until for part in parts[:-1]]
    assert not parts or (parts[0].since, parts[-1].until) == found
    assert all(part.since < part.until <= part.since + HOUR for part in parts)
    ends = [local(part.since, here).replace(tzinfo=None) + dt.timedelta(milliseconds=part.until - part.since) for part in parts]
    assert all(end.minute == 0 for end in ends)


@pytest.mark.parametrize(
    ("date", "first"),
    [
        # 02:00 becomes 02:30.
        (dt.date(2026, 10, 4), ["00:00+1030", "01:00+1030", "02:30+1100", "03:00+1100"]),
        # 02:00 becomes 01:30.
        (dt.date(2026, 4, 5), ["00:00+1100", "01:00+1100", "01:30+1030", "02:00+1030"]),
    ],
)
def test_clocks_that_change_by_half_an_hour_make_a_part_of_half_an_hour(date: dt.date, first: list[str]) -> None:
    here = ZoneInfo("Australia/Lord_Howe")
    assert [local(part.since, here).strftime("%H:%M%z") for part in hours(day(date, here), here)][:4] == first


def test_clocks_that_change_to_a_full_hour_begin_a_part() -> None:
    """02:30 becomes 03:00."""
    here = ZoneInfo("America/Caracas")
    parts = [local(part.since, here).strftime("%H:%M%z") for part in hours(day(dt.date(2016, 5, 1), here), here)]
    assert parts[1:5] == ["01:00-0430", "02:00-0430", "03:00-0400", "04:00-0400"]


def test_hours_are_those_of_the_zones_clocks() -> None:
    kolkata = ZoneInfo("Asia/Kolkata")
    first = next(hours(day(dt.date(1970, 1, 2), kolkata), kolkata))
    assert first == Period(18 * HOUR + HOUR // 2, 19 * HOUR + HOUR // 2)


@pytest.mark.parametrize("zone", ZONES)
def test_a_day_at_the_end_of_the_calendar_is_refused(zone: str) -> None:
    here, one = ZoneInfo(zone), dt.timedelta(days=1)
    for date in (dt.date.min, dt.date.max - one):
        with pytest.raises(ValueError, match="is not from 0001-01-02 to 9999-12-29"):
            day(date, here)
    for date in (dt.date.min + one, dt.date.max - 2 * one):
        assert len(list(hours(day(date, here), here))) >= 24
