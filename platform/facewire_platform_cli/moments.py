"""Time zones as options, and moments as text."""

import datetime as dt
import functools
import os
import zoneinfo
from pathlib import Path
from typing import Any, Final

import click

from facewire_platform.history import periods

_MINUTE: Final = 60_000  # ms


def check_zone(_ctx: click.Context, _param: click.Parameter, value: str | None) -> dt.tzinfo:
    """Read a time zone: a callback of an option. Without a name it is this machine's."""
    name = value or os.environ.get("TZ", "").lstrip(":")
    try:
        if name:
            return zoneinfo.ZoneInfo(name)
        with Path("/etc/localtime").open("rb") as file:
            return zoneinfo.ZoneInfo.from_file(file)
    except FileNotFoundError:
        return dt.UTC
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError) as exc:
        raise click.BadParameter(f"{name[:80]!a} is not a time zone of this system, such as Europe/Berlin or UTC") from exc


def iso(at_ms: int | None, zone: dt.tzinfo) -> Any:
    """A moment for programs and people: 2026-11-23T08:01:02.003+01:00; ms beyond the calendar."""
    if at_ms is None:
        return None
    minute, rest = divmod(at_ms, _MINUTE)
    try:
        text = _minute(minute, zone)
        if text is None:
            return periods.local(at_ms, zone).isoformat(timespec="milliseconds")
    except OverflowError:
        return f"{at_ms} ms"
    return f"{text[:16]}:{rest // 1000:02}.{rest % 1000:03}{text[16:]}"


@functools.lru_cache(4_096)
def _minute(minute: int, zone: dt.tzinfo) -> str | None:
    """A minute as text; many moments of a report share one.

    None if clocks change within it, or if it does not begin with a minute of the zone.
    """
    first, last = (periods.local(minute * _MINUTE + rest, zone) for rest in (0, _MINUTE - 1))
    same = first.utcoffset() == last.utcoffset() and not first.second and not first.microsecond
    return first.isoformat(timespec="minutes") if same else None
