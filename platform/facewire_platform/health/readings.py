"""The devices as they are now. One reading of the database serves all who ask within a second.

Every open page asks every few seconds, and so does each Prometheus server.
"""

import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

from facewire_platform.health.state import STATES, assess
from facewire_platform.history.queries import History
from facewire_platform.history.reader import Row
from facewire_platform.store.drivers import Location
from facewire_system.clock import now_ms

#: A reading is good for so long, s, or for so many times as long as it took.
GOOD_FOR: Final = 1.0
GOOD_FOR_TIMES: Final = 4.0

#: So many epochs of a device have rows of their own. A device can make new epochs for ever.
EPOCHS: Final = 8
OLDER: Final = "older"


@dataclass(frozen=True, slots=True)
class Reading:
    """All devices of a database at one moment.

    Attributes:
        at_ms: the moment, ms since 1970 UTC.
        devices: by name, assessed (`state.assess`).
        streams: as `History.conservation` has them; the newest epochs of each device, and its older
            ones summed up as "older".
        summary: sums over all devices.
    """

    at_ms: int
    devices: list[Row]
    streams: list[Row]
    summary: dict[str, int]


class Readings:
    """The readings of one database; any number of threads may ask for them.

    Args:
        database: read by the thread that asks first; the others wait for it.
        clock: monotonic, s.
        now: ms since 1970 UTC.
    """

    def __init__(self, database: Location, *, clock: Callable[[], float] = time.monotonic, now: Callable[[], int] = now_ms) -> None:
        self._database, self._clock, self._now = database, clock, now
        self._lock = threading.Lock()
        self._reading = Reading(0, [], [], {})
        self._good_until = float("-inf")

    def read(self) -> Reading:
        """The devices as they are, or were a moment ago. Raises `StoreError`."""
        with self._lock:
            began = self._clock()
            if began >= self._good_until:
                self._reading = _read(self._database, self._now())
                ended = self._clock()
                self._good_until = ended + max(GOOD_FOR, GOOD_FOR_TIMES * (ended - began))
            return self._reading


def _read(database: Location, now: int) -> Reading:
    with History(database) as history:
        found, conservation = history.devices_and_conservation()
        devices, streams = [assess(row, now) for row in found], _bounded(conservation)
    return Reading(now, devices, streams, _summary(devices))


def _bounded(streams: Iterable[Row]) -> list[Row]:
    """Streams, oldest first, with all but the newest of each device in one row."""
    bounded: dict[str, deque[Row]] = {}
    older: dict[str, Row] = {}
    for row in streams:
        newest = bounded.setdefault(row["device"], deque())
        newest.append(row)
        if len(newest) > EPOCHS:
            oldest = newest.popleft()
            total = older.get(row["device"], {})
            counts = {name: total.get(name, 0) + oldest[name] for name in oldest.keys() - {"device", "epoch"}}
            older[row["device"]] = {"device": row["device"], "epoch": OLDER} | counts
    return [*older.values(), *(row for newest in bounded.values() for row in newest)]


def _summary(devices: list[Row]) -> dict[str, int]:
    states = Counter(row["state"] for row in devices)
    sums = {name: sum(row[name] for row in devices) for name in ("lag", "gaps", "quarantined")}
    return {"devices": len(devices), **{state: states[state] for state in STATES}, **sums}
