"""Checks passwords in a thread, one at a time, in the order of their lanes.

A password that a human chose is hashed with many rounds, 0.1 s of a processor. A wrong secret costs
the same for every name, whether the name exists or not: otherwise the time of the answer, or the
answer "busy", would tell which names do.
"""

import asyncio
import contextlib
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from facewire_broker.credentials import User, hash_secret
from facewire_broker.lanes import Lanes

#: Passwords that may wait, and those of one user at one address.
MAX_CHECKS: Final = 50
LANE_CHECKS: Final = 4
#: How much the thread gives way to the event loop.
_NICE: Final = 5


class _Attempt:
    """One password to check, and the answer to come: None if it may not wait."""

    def __init__(self, user: User | None, secret: str, rounds: int) -> None:
        self.user, self.secret, self.rounds = user, secret, rounds
        self.answer: asyncio.Future[bool | None] = asyncio.get_running_loop().create_future()

    def check(self) -> bool:
        return check(self.user, self.secret, self.rounds)


def check(user: User | None, secret: str, rounds: int) -> bool:
    """Whether this is the user's secret. A wrong one always costs `rounds` rounds, user or not."""
    if user is not None and user.verify(secret):
        return True
    left = rounds - (user.rounds if user else 0)
    if left > 0:
        hash_secret(secret, left)
    return False


class Passwords:
    """The lanes, and the thread that checks."""

    def __init__(self) -> None:
        self._lanes: Lanes[_Attempt] = Lanes(MAX_CHECKS, LANE_CHECKS)
        self._pool = ThreadPoolExecutor(1, "password", initializer=_give_way)
        self._is_busy = False

    async def verify(self, user: User | None, name: str, secret: str, rounds: int, address: str) -> bool | None:
        """Whether this is the user's secret; None if too many wait. Cancelled, it waits no more.

        Args:
            user: None if there is none of this name.
            name: what the client calls itself.
            secret: what it says.
            rounds: what a wrong secret costs.
            address: where the client is.
        """
        attempt = _Attempt(user, secret, rounds)
        refused = self._lanes.add(attempt, address, name)
        if refused is not None and not refused.answer.done():
            refused.answer.set_result(None)
        if not self._is_busy:
            self._next()
        try:
            right = await attempt.answer
        finally:
            self._lanes.remove(attempt, address, name)
        if right:
            self._lanes.trust(address, name)
        return right

    def _next(self) -> None:
        attempt = self._lanes.next()
        self._is_busy = attempt is not None
        if attempt is not None:
            asyncio.get_running_loop().run_in_executor(self._pool, attempt.check).add_done_callback(
                lambda done: self._checked(attempt, done)
            )

    def _checked(self, attempt: _Attempt, done: "asyncio.Future[bool]") -> None:
        if not attempt.answer.done():
            attempt.answer.set_result(not done.cancelled() and done.exception() is None and done.result())
        self._next()


def _give_way() -> None:
    with contextlib.suppress(OSError):  # Linux has a priority for each thread
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICE)
