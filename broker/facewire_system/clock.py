"""Our clocks: the wall clock in the unit of the wire, and one that nobody sets."""

import time
from typing import Final

#: CLOCK_MONOTONIC stands still while the machine sleeps: messages in the socket would look fresh.
_ELAPSED: Final = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


def now_ms() -> int:
    """Milliseconds since 1970 UTC."""
    return time.time_ns() // 1_000_000


def elapsed_ms() -> int:
    """Milliseconds of a clock that nobody sets, and that never stands still."""
    return time.clock_gettime_ns(_ELAPSED) // 1_000_000
