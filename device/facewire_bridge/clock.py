"""Reads the clock of a source: local time without a zone, in the device's zone. Pure.

When summer time ends, an hour happens twice. The record before tells which of the two a text means,
because a source makes its records in order. If both are still possible, a fresh record belongs to
the pass that is under way.
"""

import datetime as dt
import re
from typing import Final

_LOCAL = re.compile(r"(\d{4})[-/](\d{1,2})[-/](\d{1,2})[ T](\d{1,2}):(\d{2}):(\d{2})(?:\.\d+)?")
_WITH_ZONE = re.compile(r"\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\d(?:\.\d+)?(?:Z|[+-]\d\d:\d\d)")
#: A fresh record in the hour that happens twice belongs to the second pass if that is nearer to now
#: than this, ms.
_NEAR_MS: Final = 20 * 60 * 1000


def read_local(text: object, zone: dt.tzinfo, *, after_ms: int | None = None, now_ms: int | None = None) -> int:
    """Read `YYYY-MM-DD hh:mm:ss`, with its zone if it has one, as ms since 1970 UTC.

    Args:
        text: as the source wrote it.
        zone: the device's zone.
        after_ms: when the record before it was made, if known.
        now_ms: the time now on the source's clock, if the record was made just now.

    Raises:
        ValueError: it is no such time.
    """
    found = _LOCAL.fullmatch(text.strip()) if isinstance(text, str) else None
    if isinstance(text, str) and _WITH_ZONE.fullmatch(text.strip()):
        return _ms(dt.datetime.fromisoformat(text.strip()))
    if not found:
        raise ValueError(f"time {ascii(text)[:40]} is not YYYY-MM-DD hh:mm:ss")
    local = dt.datetime(*map(int, found.groups()), tzinfo=zone)  # type: ignore[misc,arg-type]  # six numbers
    first, second = _ms(local.replace(fold=0)), _ms(local.replace(fold=1))
    if second <= first:  # the time happens once, or never
        return first
    if after_ms is not None and first < after_ms:
        return second
    return second if now_ms is not None and abs(now_ms - second) < _NEAR_MS else first


def write_local(at_ms: int, zone: dt.tzinfo) -> str:
    """Write a moment in the form that `read_local` reads."""
    return dt.datetime.fromtimestamp(at_ms // 1000, tz=zone).strftime("%Y-%m-%d %H:%M:%S")


def without_fraction(text: str) -> str:
    """Return a time in the form in which we ask a source for it: without fraction and zone."""
    return text.strip()[:19].replace("/", "-").replace("T", " ")


def _ms(moment: dt.datetime) -> int:
    return int(moment.timestamp()) * 1000
