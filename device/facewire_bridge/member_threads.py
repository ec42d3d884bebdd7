"""A few threads that share the devices of a bridge: each device is always on the same one.

A device's thread does the work that its messages cause, above all the commit, so it never holds up
the thread that receives them. The bytes that wait are bounded: a message over the bound is refused,
and its source repeats it because it was not acked.
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
THREADS: Final = 4
#: Bytes of messages that may wait for all threads together.
MOST_BYTES: Final = 64 << 20


class MemberThreads:
    """Runs the work of each device on the device's thread, in order."""

    def __init__(self, count: int = THREADS, most_bytes: int = MOST_BYTES) -> None:
        self._executors = [ThreadPoolExecutor(1, thread_name_prefix=f"member-{number}") for number in range(count)]
        self._noted: list[Future[Any]] = [executor.submit(bool) for executor in self._executors]
        self._most = most_bytes
        self._waiting = 0
        self._lock = threading.Lock()

    def run(self, device: int, work: Callable[[], T], size_bytes: int = 0) -> "Future[T] | None":
        """Run `work` on the thread of this device, by its number; None if too many bytes wait."""
        with self._lock:
            if self._waiting and self._waiting + size_bytes > self._most:
                return None
            self._waiting += size_bytes
        future = self._executors[device % len(self._executors)].submit(work)
        future.add_done_callback(lambda _: self._done(size_bytes))
        return future

    def note_turns(self, turned: dict[str, float]) -> None:
        """Have each thread note its next turn. One that has yet to note the last is not asked."""
        for number, executor in enumerate(self._executors):
            if self._noted[number].done():
                self._noted[number] = executor.submit(turned.__setitem__, f"thread {number}", time.monotonic())

    def close(self) -> None:
        """Finish the work that waits."""
        for executor in self._executors:
            executor.shutdown()

    def _done(self, size_bytes: int) -> None:
        with self._lock:
            self._waiting -= size_bytes


class Troubles:
    """Logs once a failure that repeats, such as a full disk, and logs when it has ended."""

    def __init__(self) -> None:
        self._said: dict[str, str] = {}

    def guard(self, name: str, work: Callable[[], object], *, writes: bool) -> bool:
        """Do a device's work, and return whether it succeeded. Only a store's error is expected.

        Args:
            name: the device's.
            work: what to do.
            writes: whether success shows that the store can be written to again.
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
