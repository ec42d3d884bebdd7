"""Which events a question is about."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Filter:
    """Which events: those that match every field that is not None.

    Attributes:
        since, until: device clock, ms since 1970 UTC; `since` included, `until` not.
        device, group: the exact name.
        person: the exact identity id or identity name.
        min_score: this score or a higher one.
    """

    since: int | None = None
    until: int | None = None
    device: str | None = None
    person: str | None = None
    person_type: int | None = None
    group: str | None = None
    min_score: float | None = None

    @property
    def is_narrow(self) -> bool:
        """Whether it asks for more than a time."""
        return any(value is not None for value in (self.device, self.person, self.person_type, self.group, self.min_score))


def conditions(wanted: Filter, streams: Sequence[int] | None, to_stored: Callable[[str], str] = str) -> Iterator[tuple[str, list[Any]]]:
    """The conditions on all but an event's time, in SQL that any database reads, with their values.

    Args:
        wanted: the filter.
        streams: the streams of its device, if it has one.
        to_stored: gives the text that a database stores for a text.
    """
    if streams is not None:
        yield f"e.stream IN ({', '.join(map(str, streams)) or 'NULL'})", []
    if wanted.person is not None:
        yield "(e.identity_id = ? OR e.identity_name = ?)", [to_stored(wanted.person)] * 2
    if wanted.person_type is not None:
        yield "e.person_type = ?", [wanted.person_type]
    if wanted.group is not None:
        yield "e.group_name = ?", [to_stored(wanted.group)]
    if wanted.min_score is not None:
        yield "e.score >= ?", [wanted.min_score]
