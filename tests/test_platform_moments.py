"""Moments as text: as datetime writes them, in any zone and any year."""

import datetime as dt
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from facewire_platform.history import periods
from facewire_platform_cli.moments import iso

ZONES = ("UTC", "Asia/Kathmandu", "Australia/Lord_Howe", "Europe/Berlin", "Europe/Amsterdam", "Africa/Monrovia", "America/St_Johns")
#: Of years that datetime reaches whatever the zone.
MOMENTS = st.integers(-62_000_000_000_000, 253_000_000_000_000) | st.integers(1_743_200_000_000, 1_743_400_000_000)


@given(at_ms=MOMENTS, zone=st.sampled_from(ZONES))
def test_a_moment_is_written_as_datetime_writes_it(at_ms: int, zone: str) -> None:
    assert iso(at_ms, ZoneInfo(zone)) == periods.local(at_ms, ZoneInfo(zone)).isoformat(timespec="milliseconds")


@pytest.mark.parametrize("at_ms", [2**62, -(2**62), 253_402_300_800_000])
def test_a_moment_beyond_the_calendar_is_told_in_ms(at_ms: int) -> None:
    assert iso(at_ms, dt.UTC) == f"{at_ms} ms"
