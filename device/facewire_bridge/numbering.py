"""Tells which numbers of a source's records are missing, and when its counter began anew. Pure.

    seen: 1 2 3 . . 6 7        hole 4 to 5, between the times of 3 and 6
    then: 2, later than 7      the source was reset: in generation 2 that is another record

A number alone names a record only within a generation. If a number comes again with the same
`mark`, it is the same record. With another mark it is a record of a new generation: to record one
twice is better than to lose one.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

#: More open holes than this are merged into the last of them: a hostile source must not fill our
#: memory.
MOST_HOLES: Final = 200


@dataclass(frozen=True, slots=True)
class Hole:
    """Numbers that were skipped; the times of the records around them, as the source wrote them."""

    first: int
    last: int
    after: str
    before: str
    #: Pulls that were finished and did not fill it.
    pulls: int = 0
    #: When the record before it was made, ms since 1970 UTC.
    after_ms: int = 0

    @property
    def count(self) -> int:
        """How many numbers are missing."""
        return self.last - self.first + 1

    def without(self, number: int) -> "tuple[Hole, ...]":
        """The holes that remain after a number arrived."""
        if not self.first <= number <= self.last:
            return (self,)
        left, right = replace(self, last=number - 1), replace(self, first=number + 1)
        return tuple(hole for hole in (left, right) if hole.count)


@dataclass(frozen=True, slots=True)
class Seen:
    """A record's place: the generation that it belongs to, and whether it was recorded before."""

    generation: int
    repeated: bool = False
    #: Whether it shows that the source began anew.
    reset: bool = False


@dataclass(frozen=True, slots=True)
class Numbers:
    """The state of one numbered form of one source."""

    generation: int = 1
    #: Highest number seen in this generation; 0 if none was.
    highest: int = 0
    #: When that record was made: ms since 1970 UTC, and as the source wrote it.
    at_ms: int = 0
    at: str = ""
    holes: tuple[Hole, ...] = ()

    @property
    def missing(self) -> int:
        """How many numbers are unexplained."""
        return sum(hole.count for hole in self.holes)

    def made_before(self, number: int) -> int | None:
        """When the record before this number was made, ms since 1970 UTC, as far as it is known."""
        if self.highest and number > self.highest:
            return self.at_ms
        return next((hole.after_ms for hole in self.holes if hole.first <= number <= hole.last), None)

    def see(
        self, number: int, at_ms: int, at: str, mark: str, *, late: bool, mark_of: Callable[[int, int], str | None]
    ) -> tuple[Seen, "Numbers"]:
        """Place a record.

        Args:
            number: the source's number of it.
            at_ms: when it was made.
            at: that time as the source wrote it.
            mark: distinguishes it from another record with its number.
            late: whether we asked for it, or its source calls it late: it shows no reset.
            mark_of: the mark under which (generation, number) was recorded; None if it was not.
        """
        # A number above the highest is not in the ledger, and no generation is before the first.
        first = self.generation - (number > self.highest)
        for generation in range(first, max(0, self.generation - 2), -1):
            if mark_of(generation, number) == mark:
                # If it is of the generation before, the reset that we believed in was none.
                return Seen(generation, repeated=True), self.filled(number)
        if number > self.highest:
            return Seen(self.generation), self._advanced(number, at_ms, at)
        in_hole = any(hole.first <= number <= hole.last for hole in self.holes)
        recorded = mark_of(self.generation, number) is not None
        if not recorded and (at_ms <= self.at_ms or (in_hole and late)):
            return Seen(self.generation), self.filled(number)
        return Seen(self.generation + 1, reset=True), Numbers(self.generation + 1, number, at_ms, at)

    def filled(self, number: int) -> "Numbers":
        """The state in which a number is no longer missing."""
        return replace(self, holes=tuple(part for hole in self.holes for part in hole.without(number)))

    def pulled(self, asked: Hole) -> "Numbers":
        """The state after a pull of a hole's range: the holes that remain of it count the pull."""
        return replace(
            self,
            holes=tuple(
                replace(hole, pulls=hole.pulls + 1) if asked.first <= hole.first and hole.last <= asked.last else hole
                for hole in self.holes
            ),
        )

    def without(self, named: Hole) -> "Numbers":
        """The state after a hole was named as lost."""
        return replace(self, holes=tuple(hole for hole in self.holes if hole != named))

    def _advanced(self, number: int, at_ms: int, at: str) -> "Numbers":
        holes = self.holes
        if self.highest and number > self.highest + 1:
            hole = Hole(self.highest + 1, number - 1, self.at, at, after_ms=self.at_ms)
            if len(holes) >= MOST_HOLES:
                # The ledger has the numbers between the two: if a pull brings them, they are
                # repeated.
                hole, holes = replace(holes[-1], last=hole.last, before=at), holes[:-1]
            holes = (*holes, hole)
        return replace(self, highest=number, at_ms=at_ms, at=at, holes=holes)
