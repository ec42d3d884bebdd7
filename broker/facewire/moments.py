"""Durations and moments as people write them, on the command line and in the HTTP API. Pure."""

import datetime as dt
import math
import re
from typing import Final

from facewire.events import MAX_INT

#: A longer duration is a typing error, and would overflow a wait, s.
MAX_SECONDS: Final = 10 * 366 * 86_400.0

_UNITS: Final = {"ms": 0.001, "": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}
_DURATION = re.compile(r"([0-9]+(?:\.[0-9]+)?)(ms|[smhd]?)")
_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)


def parse_seconds(text: str) -> float:
    """Read a duration such as `30`, `30s`, `5m`, `2h`, `7d`, `500ms`.

    Raises:
        ValueError: it is not a duration, or longer than `MAX_SECONDS`.
    """
    found = _DURATION.fullmatch(text.strip())
    seconds = float(found[1]) * _UNITS[found[2]] if found else math.inf
    if not seconds <= MAX_SECONDS:
        raise ValueError(f"{text!r} is not a duration up to {MAX_SECONDS / 86_400:.0f}d, such as 30, 30s, 5m, 2h, 7d")
    return seconds


def parse_moment(text: str, now_ms: int) -> int:
    """Read a moment as ms since 1970 UTC.

    Args:
        text: a time ago (`90s`, `10m`, `2h`, `7d`), an ISO date or datetime (local time unless it
            has a zone), or ms since 1970 UTC.
        now_ms: a time ago counts from here.

    Raises:
        ValueError: it is none of these.
    """
    text = text.strip()
    if re.fullmatch(r"-?[0-9]{1,19}", text) and abs(int(text)) <= MAX_INT:
        return int(text)
    if found := _DURATION.fullmatch(text):
        if found[2]:
            return now_ms - round(parse_seconds(text) * 1000)
    else:
        try:
            return (dt.datetime.fromisoformat(text).astimezone() - _EPOCH) // dt.timedelta(milliseconds=1)
        except (ValueError, OverflowError, OSError):
            pass
    raise ValueError(f"{text!r} is not a moment: 10m (ago), 2h, 7d, 2026-11-23, 2026-11-23T08:00, 2026-11-23T08:00Z or ms since 1970")
