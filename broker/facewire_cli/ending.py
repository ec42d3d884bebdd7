"""How a command without an end of its own ends: the end is a fact that the main thread waits for.

    signal ──────── C handler ──▶ pipe ─┬─▶ main thread: wait(), readable(), or a reader of a loop
    another thread ─ announce() ──▶ pipe ┘

Python's own handler raises KeyboardInterrupt at any line, even inside an `__enter__` that has
started threads or an `__exit__` that ends them. Here a signal only fills a pipe. The command looks
at the pipe where it can end, so that no signal tears its start or its end.
"""

import contextlib
import os
import select
import signal
from collections.abc import Iterator
from types import FrameType, TracebackType
from typing import Any, Final, Self

SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)


class Ending:
    """The end of a command, from its first line on. For the main thread, except `announce`.

    If the command succeeds, both signals stay ignored, so that they cannot disturb the exit. If it
    fails, their former handlers return.

    Attributes:
        asked: whether SIGINT or SIGTERM arrived.
    """

    def __init__(self) -> None:
        self.asked = False
        self._interruptible = False
        self._before: dict[int, Any] = {}
        # Never closed: a handler or a thread may still write, and the number may be another file's.
        self._reader, self._writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)

    def __enter__(self) -> Self:
        # The C handler writes to it, so that a signal just before `poll` ends the wait too.
        self._wakeup = signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
        self._before = {number: signal.signal(number, self._note) for number in SIGNALS}
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for number, before in self._before.items():
            signal.signal(number, before if kind else signal.SIG_IGN)
        signal.set_wakeup_fd(self._wakeup)

    def announce(self) -> None:
        """End the wait, for example after a failure. From any thread."""
        with contextlib.suppress(BlockingIOError):  # full: it says so already
            os.write(self._writer, b"\0")

    def fileno(self) -> int:
        """A descriptor that becomes readable when the command must end, and stays readable."""
        return self._reader

    def wait(self, timeout: float | None = None) -> bool:
        """Wait for the end, for at most `timeout` seconds; returns whether it has come."""
        return bool(_poll(timeout, self._reader))

    def readable(self, fd: int) -> bool:
        """Wait until `fd` can be read or is at its end; False if the command must end instead."""
        return self._reader not in _poll(None, self._reader, fd)

    @contextlib.contextmanager
    def unread(self) -> Iterator[None]:
        """Surrounds a write that blocks while nobody reads.

        Raises:
            BrokenPipeError: a signal arrived. The rest is not written, as if the reader had gone.
        """
        self._interruptible = True
        try:
            if self.asked:
                self._interrupt()
            yield
        finally:
            self._interruptible = False

    def _note(self, _number: int, _frame: FrameType | None) -> None:
        # It must not take a lock: the main thread may hold it (threading.Event would deadlock).
        self.asked = True
        if self._interruptible:
            self._interrupt()

    def _interrupt(self) -> None:
        self._interruptible = False
        raise BrokenPipeError("interrupted while nobody read")


def _poll(timeout: float | None, *fds: int) -> set[int]:
    poll = select.poll()
    for fd in fds:
        poll.register(fd, select.POLLIN)
    return {fd for fd, _ in poll.poll(None if timeout is None else timeout * 1000)}
