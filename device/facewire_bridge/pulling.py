"""Decides when to ask a source for a range of its records again, and when to stop. Pure.

    hole ──▶ wait ──▶ pull ──▶ count, records ──▶ filled, or wait longer and pull again
                                                        └──▶ after three: lost

One pull is under way at a time, because a record does not say which pull it answers. A pull counts
against a hole only if every record that the source counted has come, or if the source sends other
messages and no answer. A source that is away has refused nothing, and one that counted more records
than came has more.
"""

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

from facewire_bridge.numbering import Hole, Numbers

#: Pulls after which a hole is named as lost.
MOST_PULLS: Final = 3
#: How long a number may be late before we ask for it, and the waits before we ask again, s.
WAITS: Final = (3.0, 30.0, 120.0)
#: By how much a pull's range is wider than the times of the hole's neighbours, s. If a clock was
#: set back, or an hour happened twice, the missing records may have times outside of them.
MARGINS: Final = (1, 600, 4_200)
#: A pull ends when none of its records has arrived for so long, s.
QUIET: Final = 10.0


@dataclass(frozen=True, slots=True)
class Pull:
    """A range of the source's own times to ask for, inclusive."""

    form: str
    first: str
    last: str
    #: The hole that it is to fill; None if it looks for records that nobody has missed yet.
    hole: Hole | None = None


@dataclass(frozen=True, slots=True)
class _UnderWay:
    pull: Pull
    message_id: str
    quiet_at: float
    heard_at: float
    count: int | None = None
    received: int = 0

    @property
    def complete(self) -> bool:
        return self.count is not None and self.received >= self.count


class Puller:
    """Asks for one range after another.

    Args:
        pace: factor of the waits.
    """

    def __init__(self, pace: float = 1.0) -> None:
        self._pace = pace
        self._under_way: _UnderWay | None = None
        self._wanted: list[Pull] = []
        #: When each hole was first seen, or pulled last, by form and first number.
        self._since: dict[tuple[str, int], float] = {}

    def want(self, pull: Pull) -> None:
        """Ask for a range once, as after an absence."""
        if pull not in self._wanted:
            self._wanted.append(pull)

    def poll(self, now: float, numbers: Mapping[str, Numbers]) -> Pull | None:
        """The next range to ask for, if it is time; then call `sent`."""
        if self._under_way is not None:
            return None
        if self._wanted:
            return self._wanted[0]
        holes = {(form, hole.first): hole for form, state in numbers.items() for hole in state.holes if hole.pulls < MOST_PULLS}
        self._since = {key: self._since.get(key, now) for key in holes}
        due = [(self._due(key, hole), key) for key, hole in holes.items()]
        if not due or min(due)[0] > now:
            return None
        key = min(due)[1]
        hole = holes[key]
        margin = MARGINS[hole.pulls]
        return Pull(key[0], _moved(min(hole.after, hole.before), -margin), _moved(max(hole.after, hole.before), margin), hole)

    def sent(self, now: float, pull: Pull, message_id: str, heard_at: float) -> None:
        """Note that its request was published. `heard_at`: when the source was last heard."""
        if pull in self._wanted:
            self._wanted.remove(pull)
        self._under_way = _UnderWay(pull, message_id, now + QUIET * self._pace, heard_at)

    def answered(self, now: float, message_id: str, count: int | None) -> None:
        """Note how many records the range has, as the source counts them."""
        if self._under_way is not None and message_id == self._under_way.message_id:
            self._under_way = replace(self._under_way, count=count, quiet_at=now + QUIET * self._pace)

    def received(self, now: float, form: str) -> None:
        """Note that a record has come that we had asked for."""
        if self._under_way is not None and form == self._under_way.pull.form:
            self._under_way = replace(self._under_way, received=self._under_way.received + 1, quiet_at=now + QUIET * self._pace)

    def ended(self, now: float, heard_at: float) -> tuple[Pull, bool] | None:
        """The pull that has ended, and whether it counts; None if none has."""
        under_way = self._under_way
        if under_way is None or not (under_way.complete or now >= under_way.quiet_at):
            return None
        self._under_way = None
        if (hole := under_way.pull.hole) is not None:
            self._since = {key: now if hole.first <= key[1] <= hole.last else since for key, since in self._since.items()}
        return under_way.pull, under_way.complete if under_way.count is not None else heard_at > under_way.heard_at

    def _due(self, key: tuple[str, int], hole: Hole) -> float:
        return self._since[key] + WAITS[hole.pulls] * self._pace


def _moved(local: str, seconds: int) -> str:
    """Move a local time. Text that is no time stays, as does a time at the calendar's end."""
    try:
        return str(dt.datetime.fromisoformat(local).replace(tzinfo=None) + dt.timedelta(seconds=seconds))
    except (ValueError, OverflowError):
        return local
