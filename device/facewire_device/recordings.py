"""Recorded files as face events for replay: badge readings (CSV) and vendor events (JSON Lines).

A badge file has the columns timestamp (to the minute, local time), type, prox-id, floor, zone, as
in the VAST Challenge 2016, mini-challenge 2. Each zone becomes a device `floor-F-zone-Z`, each
prox-id a person. Readings in the same minute are spread over it evenly, in the order of the file.
The file has no scores: a hash of the row makes each score, uniform over [0.6, 1).
"""

import csv
import datetime as dt
import hashlib
import itertools
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

from facewire.errors import DecodeError
from facewire_device.sources import read_event

BADGE_COLUMNS: Final = ("timestamp", "type", "prox-id", "floor", "zone")
_MINUTE_MS: Final = 60_000


class Reading(NamedTuple):
    """One event of a recorded file, and its device."""

    device: str
    fields: dict[str, Any]

    @property
    def timestamp(self) -> int:
        """Time of the event, ms since 1970 UTC."""
        at_ms: int = self.fields["timestamp"]
        return at_ms


def read_file(path: Path, device: str | None = None) -> Iterator[Reading]:
    """Read a file's events in the order of the file.

    Args:
        path: a CSV file if its name ends in .csv, else JSON Lines.
        device: the device of all events in JSON Lines.

    Raises:
        DecodeError: a line cannot be read; the message names it.
    """
    if path.suffix == ".csv":
        with path.open(newline="", encoding="utf-8") as file:
            try:
                yield from read_badges(file)
            except (UnicodeDecodeError, csv.Error) as exc:
                raise DecodeError(f"{path}: {'not UTF-8' if isinstance(exc, UnicodeDecodeError) else exc}") from exc
    else:
        with path.open("rb") as lines:
            for number, line in enumerate(lines, 1):
                yield Reading(device or "", _fields(number, line))


def read_badges(lines: Iterable[str]) -> Iterator[Reading]:
    """Read badge readings. Raises `DecodeError`, which names the line."""
    table = csv.DictReader(lines, skipinitialspace=True)
    if tuple(table.fieldnames or ()) != BADGE_COLUMNS:
        raise DecodeError(f"line 1: columns {table.fieldnames} are not {list(BADGE_COLUMNS)}")
    numbered = ((table.line_num, row) for row in table)
    for _, group in itertools.groupby(numbered, key=lambda item: item[1]["timestamp"]):
        minute = list(group)
        for place, (number, row) in enumerate(minute):
            if None in row.values() or None in row:
                raise DecodeError(f"line {number}: not {len(BADGE_COLUMNS)} columns")
            yield _reading(number, row, place * _MINUTE_MS // len(minute))


def _reading(number: int, row: dict[str, str], within_ms: int) -> Reading:
    try:
        minute = dt.datetime.strptime(row["timestamp"], "%Y-%m-%d %H:%M").astimezone()
    except ValueError as exc:
        raise DecodeError(f"line {number}: {exc}") from exc
    digest = hashlib.sha256("|".join((str(number), *row.values())).encode()).digest()
    place = f"floor-{row['floor']}-zone-{row['zone']}"
    fields = {
        "timestamp": int(minute.timestamp() * 1000) + within_ms,
        "score": round(0.6 + 0.4 * int.from_bytes(digest[:4]) / 2**32, 4),
        "identity_id": row["prox-id"],
        "identity_name": row["prox-id"].rstrip("0123456789"),
        "person_type": 1,
        "group_name": "badges",
        "ep_id": place,
        "card_id": row["prox-id"],
    }
    return Reading(place, fields)


def _fields(number: int, line: bytes) -> dict[str, Any]:
    try:
        event = read_event(line)
    except DecodeError as exc:
        raise DecodeError(f"line {number}: {exc}") from exc
    return {name: value for name, value in event.to_map().items() if name != "seq"}
