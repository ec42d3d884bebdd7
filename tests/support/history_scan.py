"""Answers about stored events by reading all of them: slow, and plain enough to be right."""

from collections import defaultdict
from collections.abc import Callable, Collection, Sequence
from contextlib import closing
from typing import Any, NamedTuple

from facewire_platform.filter import Filter
from facewire_platform.store.database import dialect_of
from facewire_platform.store.drivers import Location

STRANGER = 4
_SQL = (
    "SELECT e.timestamp, e.stream, e.seq, s.device, s.epoch, e.score, e.identity_id, e.identity_name, e.person_type, e.group_name, e.ep_id "
    "FROM event e JOIN stream s ON s.id = e.stream"
)


class Seen(NamedTuple):
    """A stored event."""

    timestamp: int
    stream: int
    seq: int
    device: str
    epoch: str
    score: float
    identity_id: str
    identity_name: str
    person_type: int
    group_name: str | None
    ep_id: str | None


def scan(location: Location) -> list[Seen]:
    """All events, by place."""
    dialect = dialect_of(location)
    with closing(dialect.open("read")) as database:
        return sorted(Seen(*map(dialect.from_stored, row)) for row in database.execute_sql(_SQL).fetchall())


def matching(events: Sequence[Seen], wanted: Filter) -> list[Seen]:
    """Those that a filter is about."""
    tests: list[tuple[object, Callable[[Seen], bool]]] = [
        (wanted.since, lambda e: e.timestamp >= wanted.since),  # type: ignore[operator]  # not None here
        (wanted.until, lambda e: e.timestamp < wanted.until),  # type: ignore[operator]
        (wanted.device, lambda e: e.device == wanted.device),
        (wanted.person, lambda e: wanted.person in (e.identity_id, e.identity_name)),
        (wanted.person_type, lambda e: e.person_type == wanted.person_type),
        (wanted.group, lambda e: e.group_name == wanted.group),
        (wanted.min_score, lambda e: e.score >= wanted.min_score),  # type: ignore[operator]
    ]
    return [event for event in events if all(test(event) for value, test in tests if value is not None)]


def attendance(events: Sequence[Seen], entrances: Collection[str], exits: Collection[str]) -> list[tuple[Any, ...]]:
    """Each person but strangers: id, name, first, last, passes, first in, last out."""
    people: dict[str, list[Seen]] = defaultdict(list)
    for event in events:
        if event.person_type != STRANGER:
            people[event.identity_id].append(event)
    return [
        (
            person,
            max(e.identity_name for e in seen),
            min(e.timestamp for e in seen),
            max(e.timestamp for e in seen),
            len(seen),
            min((e.timestamp for e in seen if e.ep_id in entrances), default=None),
            max((e.timestamp for e in seen if e.ep_id in exits), default=None),
        )
        for person, seen in sorted(people.items())
    ]


def counts(events: Sequence[Seen]) -> dict[str, int]:
    """Events, those of strangers, distinct other people."""
    others = {event.identity_id for event in events if event.person_type != STRANGER}
    return {"events": len(events), "strangers": sum(e.person_type == STRANGER for e in events), "people": len(others)}
