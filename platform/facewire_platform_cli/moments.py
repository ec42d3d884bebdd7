"""Time zones as options, and moments as text."""

import datetime as dt
import os
import zoneinfo
from pathlib import Path
from typing import Any

import click

from facewire_platform.history import periods


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
    try:
        return None if at_ms is None else periods.local(at_ms, zone).isoformat(timespec="milliseconds")
    except OverflowError:
        return f"{at_ms} ms"
