"""The devices: every open page asks for them every few seconds, and one reading serves all."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from facewire_mqtt.clock import now_ms
from facewire_platform.health.state import assess
from facewire_platform.history.queries import History, Row
from facewire_platform.store.drivers import Location

#: A reading is good for this many times as long as it took: 0.4 s for 10,000 devices, next to
#: nothing for ten.
GOOD_FOR: Final = 4.0


@dataclass(frozen=True, slots=True)
class Reading:
    """All devices by name, assessed (`state.assess`), at one moment (ms since 1970 UTC)."""

    at_ms: int
    rows: list[Row]

    def summary(self) -> dict[str, int]:
        """Sums over all of them."""
        states = {state: sum(row["state"] == state for row in self.rows) for state in ("online", "silent", "offline")}
        sums = {name: sum(row[name] for row in self.rows) for name in ("lag", "gaps", "quarantined")}
        return {"devices": len(self.rows), **states, **sums}


class Devices:
    """The devices of one database; any number of threads may read them."""

    def __init__(self, database: Location, clock: Callable[[], float] = time.monotonic) -> None:
        self._database, self._clock = database, clock
        self._lock = threading.Lock()
        self._reading = Reading(0, [])
        self._good_until = -1.0

    def read(self) -> Reading:
        """The devices as they are, or were a moment ago. Raises `StoreError`."""
        with self._lock:
            began = self._clock()
            if began >= self._good_until:
                now = now_ms()
                with History(self._database) as history:
                    self._reading = Reading(now, [assess(row, now) for row in history.devices()])
                ended = self._clock()
                self._good_until = ended + GOOD_FOR * (ended - began)
            return self._reading
