"""Where the events of a person are: the hours of the index `event_person`.

    hour 472222: … a7 … b3 …   |   hour 472223: … a7 …   |   hour 472225: …

An index by person alone would write a page of its own for each event of a busy day; within the hour that is being written
persons share few pages. A question about a person probes each hour that has events of anybody, at a few microseconds each.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final, TypeAlias

import peewee

from facewire_platform.schema import HOUR, EventRow, indexed

HOUR_MS: Final = 3_600_000
#: Hours found in one go: about a month.
HOURS: Final = 744
#: Hours are given out together until they hold so many events, which are sorted at once.
TOGETHER: Final = 250
#: The order of a person's events; a sum is no column, so it keeps a database from reading all events in their order instead.
SORTED: Final = (EventRow.timestamp + 0, EventRow.stream, EventRow.seq)

#: Gives the rows of a query.
Rows: TypeAlias = Callable[[Any], list[Any]]


def is_known(rows: Rows, identity_id: str, since: int | None = None, until: int | None = None) -> bool:
    """Whether a person has an event; arguments as of `hours_of`."""
    return bool(rows(_probe(identity_id, since, until, newest_first=True).limit(1).tuples()))


def hours_of(
    rows: Rows, identity_id: str, since: int | None = None, until: int | None = None, *, newest_first: bool = False
) -> Iterator[Sequence[int]]:
    """The hours in which a person has events, in order, together where they hold few.

    Args:
        rows: runs a query.
        identity_id: as the database keeps it.
        since: device clock, ms since 1970 UTC, included.
        until: the same, not included.
        newest_first: the other way round.
    """
    beyond = None
    while True:
        found = rows(_probe(identity_id, since, until, newest_first=newest_first, beyond=beyond).limit(HOURS).tuples())
        yield from _together(found)
        if len(found) < HOURS:
            return
        beyond = found[-1][0]


def of_person(identity_id: str, hours: Sequence[int]) -> tuple[Any, ...]:
    """The conditions for the events of a person in hours that `hours_of` gave."""
    # Were it =, SQLite would put the value in place of the column, and not find the index by its expression any more.
    exactly = EventRow.identity_id.between(identity_id, identity_id)
    return (HOUR.in_(list(hours)), indexed(EventRow.identity_id) == indexed(peewee.Value(identity_id)), exactly)


def _together(found: Sequence[tuple[int, int]]) -> Iterator[list[int]]:
    hours: list[int] = []
    held = 0
    for hour, events in found:
        if hours and held + events > TOGETHER:
            yield hours
            hours, held = [], 0
        hours.append(hour)
        held += events
    if hours:
        yield hours


def _probe(identity_id: str, since: int | None, until: int | None, *, newest_first: bool, beyond: int | None = None) -> Any:
    """Hours that have the person, and how many events each, as far as `TOGETHER`.

    All hours that have events of anybody are stepped through, each found from the one before.
    """
    first, last = (None if since is None else _hour(since)), (None if until is None else _hour(until - 1))
    nearest = peewee.fn.MAX if newest_first else peewee.fn.MIN

    def of_anybody(after: Any) -> Any:
        hour = EventRow.select(nearest(HOUR).alias("hour"))
        hour = hour if first is None else hour.where(first <= HOUR)
        hour = hour if last is None else hour.where(last >= HOUR)
        return hour if after is None else hour.where(after > HOUR if newest_first else after < HOUR)

    hours = of_anybody(beyond).cte("hours", recursive=True)
    hours = hours.union_all(peewee.Select([hours], [of_anybody(hours.c.hour)]).where(hours.c.hour.is_null(False)))
    theirs = EventRow.select(peewee.SQL("1").alias("one"))
    theirs = theirs.where(hours.c.hour == HOUR, indexed(EventRow.identity_id) == indexed(peewee.Value(identity_id)))
    theirs = theirs if since is None else theirs.where(EventRow.timestamp >= since)
    theirs = theirs if until is None else theirs.where(EventRow.timestamp < until)
    events = peewee.Select([theirs.limit(TOGETHER).alias("few")], [peewee.fn.COUNT(peewee.SQL("*"))])
    told = peewee.Select([hours], [hours.c.hour, events.alias("events")]).alias("told")
    # Not EXISTS, for which PostgreSQL may read all events of all hours into a hash.
    return peewee.Select([told], [told.c.hour, told.c.events]).where(told.c.events > 0).with_cte(hours)


def _hour(at_ms: int) -> int:
    """As the databases divide: towards zero."""
    return at_ms // HOUR_MS if at_ms >= 0 else -(-at_ms // HOUR_MS)
