"""Ends a question to a database from another thread, because nobody waits for the answer any more.

    stop = Stop()
    STOP.set(stop)             the context in which the question is asked
    with stoppable(connection.interrupt): …
    stop.ask("…")              any thread; again and again, until the question has ended

A driver forgets an interruption between two statements. So `ask` is repeated, and a question of
several statements calls `check` between them.
"""

import contextlib
import threading
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Final

from facewire.errors import StoreError


class Stop:
    """Tells a question to end, and interrupts it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._interrupts: list[Callable[[], None]] = []
        self.reason: str | None = None

    def ask(self, reason: str) -> None:
        """Interrupt the statement that runs, and let none begin."""
        with self._lock:
            self.reason = self.reason or reason
            for interrupt in self._interrupts:
                # It may have ended by itself in this moment; a server may be gone.
                with contextlib.suppress(Exception):
                    interrupt()

    def check(self) -> None:
        """Raise `StoreError` if the question is to end."""
        if self.reason is not None:
            raise StoreError(self.reason)

    @contextlib.contextmanager
    def covers(self, interrupt: Callable[[], None]) -> Iterator[None]:
        """Call `interrupt` in `ask`, from another thread; then this raises `StoreError`."""
        with self._lock:
            self._interrupts.append(interrupt)
        try:
            yield
        except Exception:
            self.check()
            raise
        finally:
            with self._lock:
                self._interrupts.remove(interrupt)


#: The stop of the question that this context asks; nobody stops the others.
STOP: Final[ContextVar[Stop | None]] = ContextVar("stop", default=None)


def stoppable(interrupt: Callable[[], None]) -> contextlib.AbstractContextManager[None]:
    """Interrupt the code within it if its question must end."""
    stop = STOP.get()
    return contextlib.nullcontext() if stop is None else stop.covers(interrupt)


def check_stop() -> None:
    """Raise `StoreError` if the question of this context is to end."""
    if (stop := STOP.get()) is not None:
        stop.check()
