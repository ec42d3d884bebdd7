"""All that the platform has of one person, for a request of theirs (GDPR, Article 15)."""

import base64
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final

from facewire_platform.filter import Filter
from facewire_platform.history import periods
from facewire_platform.history.queries import History
from facewire_platform.history.reader import Row
from facewire_platform.history.retention import holds, needles

#: How JPEG and PNG begin, and the name of such a file.
_PHOTOGRAPHS: Final = ((b"\xff\xd8\xff", "jpg"), (b"\x89PNG\r\n\x1a\n", "png"))
#: The shortest text that is looked at as a photograph in base64.
_SHORTEST: Final = 64


@dataclass
class Summary:
    """Where, when and how often; grows with each event."""

    events: int = 0
    first_seen: int | None = None
    last_seen: int | None = None
    identity_ids: dict[str, int] = field(default_factory=dict)
    identity_names: dict[str, int] = field(default_factory=dict)
    #: By device and endpoint: events, first, last.
    places: dict[tuple[str, str | None], list[int]] = field(default_factory=dict)
    #: By date.
    days: dict[str, int] = field(default_factory=dict)

    def add(self, event: Row, zone: Any) -> None:
        """Count an event; they come by time."""
        at: int = event["timestamp"]
        self.events += 1
        self.first_seen = at if self.first_seen is None else self.first_seen
        self.last_seen = at
        for counts, name in ((self.identity_ids, "identity_id"), (self.identity_names, "identity_name")):
            counts[event[name]] = counts.get(event[name], 0) + 1
        place = self.places.setdefault((event["device"], event.get("ep_id")), [0, at, at])
        place[0], place[2] = place[0] + 1, at
        date = _date(at, zone)
        self.days[date] = self.days.get(date, 0) + 1


def events_of(history: History, person: str) -> Iterator[Row]:
    """Each event whose identity id or name this is, by time, with all its fields."""
    return history.events(Filter(person=person))


def quarantined_of(history: History, person: str) -> Iterator[Row]:
    """The entries of quarantine that have this text in them."""
    wanted = needles({person} - {""})
    return (entry for entry in history.quarantine() if holds(wanted, bytes(entry["payload"])))


def photographs(value: Any) -> Iterator[tuple[bytes, str]]:
    """The photographs in a field, however deep, and the ending of a file's name for each."""
    if isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            yield from photographs(item)
        return
    raw = value if isinstance(value, bytes) else _from_base64(value)
    if raw is not None:
        yield raw, next((ending for magic, ending in _PHOTOGRAPHS if raw.startswith(magic)), "bin")


def _from_base64(value: Any) -> bytes | None:
    """The photograph that a text is; None if it is none."""
    if not isinstance(value, str) or len(value) < _SHORTEST:
        return None
    try:
        raw = base64.b64decode(value.rpartition(",")[2], validate=True)
    except ValueError:
        return None
    return raw if raw.startswith(tuple(magic for magic, _ in _PHOTOGRAPHS)) else None


def _date(at_ms: int, zone: Any) -> str:
    try:
        return periods.local(at_ms, zone).date().isoformat()
    except OverflowError:
        return f"{at_ms} ms"
