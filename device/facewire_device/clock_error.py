"""How far this device's clock is from the platform's, by round trips. Pure.

    device     batch ●                                     ● ack       its elapsed time
                     └──────▶ ●                   ● ───────┘
    platform             received_at           sent_at                 its wall clock

The platform received after we sent, and sent before we received. So, whatever the delay of either
way, the platform's clock minus our elapsed time lies in

    [ack.sent_at - elapsed at the ack, ack.received_at - elapsed at the batch]

Elapsed time is a clock that nobody sets, so a step of our wall clock shows at once: it moves the
wall clock against the elapsed time.

A gate asks how far ahead we are at most, and for that only the first of the two bounds counts. It
holds for any ack, also for one that is repeated late and answers an earlier batch with the same
key. The second bound is then too low, until the next ack: we say that we are further ahead than we
are, and a gate opens no door.
"""

import math
from collections import deque
from typing import Final, NamedTuple

from facewire.messages import Ack

#: How fast the elapsed time of two machines drifts apart: twice the usual drift of crystals.
DRIFT: Final = 200e-6
#: So many of the last round trips count together. An older one may be of a clock set since.
ROUND_TRIPS: Final = 8
#: A round trip tells nothing after this long, ms. The device then says nothing of its clock.
KEPT: Final = 3_600_000
#: The clock is watched over this time, ms: an event may be stamped before a step, sent after it.
WATCHED: Final = 60_000
#: Both clocks are read in whole ms.
ROUNDING: Final = 2


class ClockReading(NamedTuple):
    """The device's clock minus the platform's, ms, and how far that may be from the truth."""

    error: int
    uncertainty: int


class _RoundTrip(NamedTuple):
    #: Elapsed time of its ack, ms.
    at: int
    #: The platform's clock minus our elapsed time, from and to, ms.
    low: float
    high: float


class ClockError:
    """Measures the error of the device's clock.

    `elapsed` is ms of a clock that nobody sets, `wall` ms since 1970 UTC.
    """

    __slots__ = ("_before", "_began", "_round_trips", "_since", "_window")

    def __init__(self) -> None:
        #: Elapsed time of the batch in flight.
        self._began = 0
        self._round_trips: deque[_RoundTrip] = deque(maxlen=ROUND_TRIPS)
        #: Since when `_window` is; the least and greatest wall - elapsed of it, and of before.
        self._since = -math.inf
        self._window = self._before = (math.inf, -math.inf)

    def batch_sent(self, elapsed: int) -> None:
        """A batch was published for the first time; its resends do not count."""
        self._began = elapsed

    def acked(self, elapsed: int, ack: Ack) -> None:
        """The ack of the batch in flight arrived."""
        if ack.received_at is None or ack.sent_at is None:
            return
        low, high = ack.sent_at - elapsed - ROUNDING, ack.received_at - self._began + ROUNDING
        if low <= high:  # otherwise the platform's clock was set in between
            self._round_trips.append(_RoundTrip(elapsed, low, high))

    def watch(self, elapsed: int, wall: int) -> None:
        """Look at both clocks. Call it several times a second."""
        if elapsed - self._since > WATCHED:
            self._before, self._window, self._since = self._window, (math.inf, -math.inf), elapsed
        ahead = wall - elapsed
        self._window = (min(self._window[0], ahead), max(self._window[1], ahead))

    def read(self, elapsed: int, wall: int) -> ClockReading | None:
        """The error of the wall clock at any time of the last minute; None if nothing shows it."""
        self.watch(elapsed, wall)
        known = self._platform(elapsed)
        if known is None:
            return None
        least = min(self._window[0], self._before[0]) - known[1]
        most = max(self._window[1], self._before[1]) - known[0]
        error = round((least + most) / 2)
        return ClockReading(error, math.ceil(max(most - error, error - least)))

    def _platform(self, elapsed: int) -> tuple[float, float] | None:
        """The platform's clock minus elapsed time, by all round trips that agree with the last."""
        known: tuple[float, float] | None = None
        for trip in reversed(self._round_trips):
            age = elapsed - trip.at
            low, high = trip.low - DRIFT * age, trip.high + DRIFT * age
            if age > KEPT:
                break
            if known is not None:
                low, high = max(low, known[0]), min(high, known[1])
                if low > high:  # the platform's clock was set since then
                    break
            known = low, high
        return known
