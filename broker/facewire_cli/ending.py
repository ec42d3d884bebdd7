"""How a command that has no end of its own ends: the end is a fact that the main thread waits for.

    signal ──────── C handler ──▶ pipe ─┬─▶ main thread: wait(), readable(), or an event loop's reader
    another thread ─ announce() ──▶ pipe ┘

Python's own handler raises KeyboardInterrupt at any line, also inside an `__enter__` that has started threads or
an `__exit__` that ends them. Here a signal only fills a pipe. The command looks at it where it can end, so that a
start or an end is never torn, however many signals come.
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
    """The end of a command, from its first line on. For the main thread, but for `announce`.

    After a command that ended well the signals stay ignored: there is nothing left to interrupt but the exit itself.
    After one that failed they are what they were.

    Attributes:
        asked: SIGINT or SIGTERM came.
    """

    def __init__(self) -> None:
        self.asked = False
        self._interruptible = False
        self._before: dict[int, Any] = {}
        # Never closed: a handler or a thread may still write to it, and by then its number might be another file's.
        self._reader, self._writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)

    def __enter__(self) -> Self:
        # Written by the C handler, so that a signal just before a `poll` wakes it (signal(7): no window as in `pause`).
        self._wakeup = signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
        self._before = {number: signal.signal(number, self._note) for number in SIGNALS}
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for number, before in self._before.items():
            signal.signal(number, before if kind else signal.SIG_IGN)
        signal.set_wakeup_fd(self._wakeup)

    def announce(self) -> None:
        """Say that there is nothing to wait for any more, such as after a failure. From any thread."""
        with contextlib.suppress(BlockingIOError):  # full: it says so already
            os.write(self._writer, b"\0")

    def fileno(self) -> int:
        """A descriptor that can be read once the command is to end; nobody reads it empty."""
        return self._reader

    def wait(self, timeout: float | None = None) -> bool:
        """Wait for the end, for so many seconds at most; whether it has come."""
        return bool(_poll(timeout, self._reader))

    def readable(self, fd: int) -> bool:
        """Wait until a descriptor can be read, or is at its end; False if the command is to end instead."""
        return self._reader not in _poll(None, self._reader, fd)

    @contextlib.contextmanager
    def unread(self) -> Iterator[None]:
        """Around a write that may block for as long as nobody reads.

        Raises:
            BrokenPipeError: a signal came. As if the reader had gone: it takes no more, and the rest is not written.
        """
        self._interruptible = True
        try:
            if self.asked:
                self._interrupt()
            yield
        finally:
            self._interruptible = False

    def _note(self, _number: int, _frame: FrameType | None) -> None:
        # Nothing here may take a lock: the main thread may hold it (threading.Event would deadlock).
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
