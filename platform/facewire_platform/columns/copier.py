"""Builds column files beside a worker, in a process that gets only the worker's idle processor.

The worker calls `turn` with the number of events that it has stored so far. While it stores many
events a second, for example after an outage, nothing is built: answers read the rows themselves.
"""

import contextlib
import json
import logging
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from facewire.errors import FacewireError
from facewire_platform.columns import engine
from facewire_platform.columns.builder import Builder
from facewire_platform.store.drivers import Location

log = logging.getLogger(__name__)

#: If so many events wait, a process is worth its start: they take about 0.1 s of each answer.
WORTH: Final = 50_000
#: With more events stored a second than this, the worker needs the processor itself.
BUSY: Final = 5_000.0
#: Between two looks, s.
EVERY: Final = 5.0


class Copier:
    """Starts the process when it is worth it, and ends it when the worker is busy.

    Args:
        location: the database.
        clock: monotonic seconds.
    """

    def __init__(self, location: Location, clock: Callable[[], float] = time.monotonic) -> None:
        self._location, self._clock = location, clock
        self._looked_at, self._next = clock(), clock() + EVERY
        self._stored = 0
        #: Events stored since the last process started. We do not know how many waited before us.
        self._since = WORTH
        self._process: subprocess.Popen[bytes] | None = None
        self._failure = ""

    def turn(self, stored: int) -> None:
        """Decide, every few seconds, whether to build.

        Args:
            stored: events that the worker has stored since it started.
        """
        now = self._clock()
        if now < self._next:
            return
        rate = (stored - self._stored) / (now - self._looked_at)
        self._since += stored - self._stored
        self._stored, self._looked_at, self._next = stored, now, now + EVERY
        if self._process is not None and (rate > BUSY or not self.runs):
            self.close()
        if self._process is None and rate <= BUSY and self._since >= WORTH and engine.is_installed():
            self._start()

    @property
    def runs(self) -> bool:
        """Whether the process runs."""
        return self._process is not None and self._process.poll() is None

    def close(self) -> None:
        """End the process. The next one does the work that it has not finished."""
        if self._process is None:
            return
        self._process.kill()
        _, error = self._process.communicate()
        failure = error.decode(errors="replace").strip()
        if failure and failure != self._failure:
            log.warning("column files are not built error=%s", failure[-500:])
        self._failure, self._process = failure, None

    def __enter__(self) -> "Copier":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _start(self) -> None:
        self._since = 0
        self._process = subprocess.Popen(  # noqa: S603  # this module
            [sys.executable, "-P", "-m", __name__],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            start_new_session=True,  # its worker handles Ctrl-C
        )
        assert self._process.stdin is not None  # noqa: S101  # a pipe
        with contextlib.suppress(BrokenPipeError):  # not in its arguments, which everybody can read: it may hold a password
            self._process.stdin.write(json.dumps([str(self._location), isinstance(self._location, Path)]).encode())
            self._process.stdin.close()
        self._process.stdin = None


def _main() -> None:
    text, is_path = json.load(sys.stdin)
    parent = os.getppid()
    os.nice(19)
    with contextlib.suppress(OSError, AttributeError):  # not every system has it
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    logging.basicConfig(level=logging.ERROR)
    try:
        with Builder(Path(text) if is_path else text) as builder:
            for _ in builder.build(WORTH):
                if os.getppid() != parent:
                    return
    except FacewireError as exc:
        sys.exit(str(exc))


if __name__ == "__main__":
    _main()
