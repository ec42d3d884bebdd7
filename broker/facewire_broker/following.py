"""Follows a file of rights: reads it again when it changes, and goes on trying until it can.

    read ─▶ current ──changed, cannot be read──▶ stale ──`patience` s──▶ blind
              ▲                                    │                       │
              └────────────── read again ◀─────────┴───────────────────────┘

The file may be unreadable for a while: somebody else edited it, or the descriptors are used up. If
the broker then went on with the old rights for good, nobody could take a right away. So it tries
every second, says so, and after a bound it serves nobody.
"""

import logging
from collections.abc import Callable
from typing import Final, Generic, TypeVar

from facewire.errors import BrokerError

T = TypeVar("T")

log = logging.getLogger(__name__)

#: Seconds between two log lines about the same failure.
_SAY_EVERY: Final = 10.0


class Follower(Generic[T]):
    """Keeps a value that is read from files up to date.

    Args:
        version: gives a value that changes whenever the files do.
        read: reads the files, and puts the result to use.
        patience: seconds that the old value serves while the files cannot be read.

    Attributes:
        is_blind: whether that time is over. Then nobody may be served.

    Raises:
        BrokerError: they cannot be read the first time.
    """

    def __init__(self, version: Callable[[], object], read: Callable[[], T], patience: float) -> None:
        self._read_version, self._read, self._patience = version, read, patience
        # Before reading: if the files change meanwhile, they are read once more.
        self._version = version()
        self.first = read()
        self.is_blind = False
        self._stale_since: float | None = None
        self._said_at = 0.0

    def poll(self, now: float) -> T | None:
        """Read the files if they changed or could not be read before. Call it every second.

        Returns:
            The new value; None if there is none.
        """
        version = self._read_version()
        if version == self._version and self._stale_since is None:
            return None
        try:
            value = self._read()
        except (BrokerError, OSError, MemoryError) as exc:
            self._fail(now, exc)
            return None
        self._version, self._stale_since, self.is_blind = version, None, False
        return value

    def _fail(self, now: float, exc: Exception) -> None:
        if self._stale_since is None:
            self._stale_since, self._said_at = now, now - _SAY_EVERY
        left = self._stale_since + self._patience - now
        if left <= 0 and not self.is_blind:
            self.is_blind = True
            log.error("users not readable for %.0f s, serving nobody until they are error=%s", self._patience, exc)
        elif now - self._said_at >= _SAY_EVERY:
            serving = "nobody" if self.is_blind else f"the old ones for {left:.0f} s more"
            log.warning("users not reloaded, serving %s error=%s", serving, exc)
        else:
            return
        self._said_at = now
