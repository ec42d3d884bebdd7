"""Notes that the platform adds to a device's status, by its own clock. Pure.

pace    samples of (platform's time, head): the rate of events, whatever times the events have
turns   boots that speak in turns: two boxes use one id, and each takes the other's place
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

#: The pace is measured over the last one to two times so many events.
PACE_EVENTS: Final = 500
#: A pace over less than this proves little, ms.
PACE_SPAN: Final = 600_000
#: So many turns are no restart with late messages; those older than this do not count, ms.
TURNS: Final = 4
TURNS_WITHIN: Final = 600_000
#: An event that is older than this when it comes, or further ahead, has a wrong time, ms.
BEHIND: Final = 2 * 365 * 86_400_000
AHEAD: Final = 86_400_000
#: And so has one that is older than any device of ours, ms since 1970 UTC: 2020-01-01.
EARLIEST: Final = 1_577_836_800_000


class Turns(NamedTuple):
    """How often a boot spoke again after another."""

    #: The boot that spoke last.
    boot: str = ""
    times: int = 0
    #: Platform clock, ms since 1970 UTC.
    at: int = 0

    def heard(self, boot: str, now_ms: int, *, is_known: bool) -> "Turns":
        """After a live status of `boot`. A boot that nobody knew is a restart, and no turn."""
        if boot == self.boot or not self.boot:
            return self._replace(boot=boot)
        times = self.times if now_ms - self.at <= TURNS_WITHIN else 0
        return Turns(boot, times + is_known, now_ms if is_known else self.at)

    def takeovers(self, now_ms: int) -> int:
        """The turns, if they show that two boxes use one id now; else 0."""
        return self.times if self.times >= TURNS and now_ms - self.at <= TURNS_WITHIN else 0


def pace(before: Mapping[str, Any], epoch: str | None, head: int | None, now_ms: int) -> list[list[int]]:
    """The samples of a device after a live status; `before` is what is stored of its last one."""
    if head is None:
        return []
    samples = [list(sample) for sample in before.get("pace", ())] if before.get("epoch") == epoch else []
    if not samples or head - samples[-1][1] >= PACE_EVENTS:
        samples.append([now_ms, head])
    return samples[-2:]


def rate(samples: Sequence[Sequence[int]], head: int, at_ms: int, *, least_span: int = 0) -> float | None:
    """Events per second since the oldest sample; None if that is within `least_span`, ms."""
    if not samples or at_ms - samples[0][0] <= least_span:
        return None
    return max(0, head - samples[0][1]) * 1000 / (at_ms - samples[0][0])


def is_plausible(timestamp: int, now_ms: int) -> bool:
    """Whether an event that came now can have this time: no clock in 1970, no other unit than ms.

    A platform whose own clock is in 1970 cannot judge.
    """
    return now_ms < EARLIEST or now_ms - BEHIND <= timestamp <= now_ms + AHEAD
