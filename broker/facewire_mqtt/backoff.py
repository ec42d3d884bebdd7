"""How long to wait before the next session, and whether somebody else uses our client id. Pure.

MQTT 3.1.1 has no word for a takeover: when another client connects with our id, the broker closes
our session (section 3.1.4). A broker that accepts and drops looks the same. In both cases sessions
end again and again soon after they began.
"""

from collections import deque
from typing import Final

#: The wait before a new session doubles from the first to the second of these, s.
RECONNECT_WAIT: Final = (0.5, 30.0)
#: A session that was up for this long has lasted, s: the next wait is the shortest again. Two boxes
#: with one id thus leave each other time for a batch and its ack.
LASTED: Final = 30.0
#: Sessions are counted over this time, s.
MINUTE: Final = 60.0
#: So many short sessions in a row, each ended by the broker, are no accident.
SUSPICIOUS: Final = 3


class Backoff:
    """Hears of the end of each session.

    Attributes:
        wait: how long to wait before the next session, at most, s.
        in_a_row: short sessions in a row that the broker ended.
    """

    def __init__(self) -> None:
        self.wait = RECONNECT_WAIT[0]
        self.in_a_row = 0
        #: The ends of short sessions in the last minute, monotonic, s.
        self._ends: deque[float] = deque()

    def ended(self, now: float, up_for: float | None, *, by_us: bool) -> bool:
        """A session ended.

        Args:
            now: monotonic, s.
            up_for: how long it was up, s; None if it never was.
            by_us: whether we ended it, and not the broker.

        Returns:
            Whether to say that somebody else may use our id: after so many short sessions, and
            then each time their number has doubled.
        """
        if up_for is not None and up_for >= LASTED:
            self.wait, self.in_a_row = RECONNECT_WAIT[0], 0
            return False
        self.wait = min(self.wait * 2, RECONNECT_WAIT[1])
        if up_for is None or by_us:
            return False
        self.in_a_row += 1
        self._ends.append(now)
        times, rest = divmod(self.in_a_row, SUSPICIOUS)
        return not rest and not times & (times - 1)

    def takeovers(self, now: float) -> int:
        """Short sessions that the broker ended in the last minute."""
        while self._ends and now - self._ends[0] > MINUTE:
            self._ends.popleft()
        return len(self._ends)
