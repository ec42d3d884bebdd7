"""Lanes: a few threads among which devices are shared out, each device always on the same one.

What a device's messages cost, a commit above all, is paid on its lane; who hears them is never held
up. What waits is bounded by bytes: more is refused, and a source repeats what was not acked.
"""

import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Final, TypeVar

from facewire.errors import StoreError

log = logging.getLogger(__name__)

T = TypeVar("T")

#: Enough for the disk to be busy while others compute. More would contend for the interpreter's
#: lock: a record then costs a third more CPU time with 8 of them than with 3.
LANES: Final = 4
#: What may wait on all lanes together, bytes.
MOST_BYTES: Final = 64 << 20


class Lanes:
    """Runs what belongs to a device on the device's lane, in order."""

    def __init__(self, count: int = LANES, most_bytes: int = MOST_BYTES) -> None:
        self._executors = [ThreadPoolExecutor(1, thread_name_prefix=f"lane-{number}") for number in range(count)]
        self._noted: list[Future[Any]] = [executor.submit(bool) for executor in self._executors]
        self._most = most_bytes
        self._waiting = 0
        self._lock = threading.Lock()

    def run(self, device: int, work: Callable[[], T], size_bytes: int = 0) -> "Future[T] | None":
        """Run `work` on the lane of the device with this number; None if too much waits already."""
        with self._lock:
            if self._waiting and self._waiting + size_bytes > self._most:
                return None
            self._waiting += size_bytes
        future = self._executors[device % len(self._executors)].submit(work)
        future.add_done_callback(lambda _: self._done(size_bytes))
        return future

    def note_turns(self, turned: dict[str, float]) -> None:
        """Have every lane note when it goes round next, unless the last time is still to come."""
        for number, executor in enumerate(self._executors):
            if self._noted[number].done():
                self._noted[number] = executor.submit(turned.__setitem__, f"lane {number}", time.monotonic())

    def close(self) -> None:
        """Finish what waits."""
        for executor in self._executors:
            executor.shutdown()

    def _done(self, size_bytes: int) -> None:
        with self._lock:
            self._waiting -= size_bytes


class Troubles:
    """Says once what fails again and again, such as a full disk, and when it works again."""

    def __init__(self) -> None:
        self._said: dict[str, str] = {}

    def guard(self, name: str, work: Callable[[], object], *, writes: bool) -> bool:
        """Do a device's work; whether it succeeded. Only an error of the store is expected.

        Args:
            name: the device's.
            work: what to do.
            writes: whether success shows that the store takes something again.
        """
        try:
            work()
        except StoreError as exc:
            if self._said.get(name) != str(exc):
                log.error("store failed device=%s error=%s: nothing is acked", name, exc)  # noqa: TRY400  # expected
            self._said[name] = str(exc)
            return False
        except Exception:
            log.exception("internal error device=%s: nothing is acked", name)
            return False
        if writes and self._said.pop(name, ""):
            log.warning("store works again device=%s", name)
        return True
