"""Wait for a condition, but not for ever."""

import asyncio
import threading
import time
from collections.abc import Callable

#: Far more than a busy machine needs, since a condition that holds ends the wait, s.
WITHIN = 30.0


def wait_until(
    condition: Callable[[], bool], timeout: float = WITHIN, interval: float = 0.01, what: Callable[[], object] | None = None
) -> None:
    """Ask again every `interval` seconds until the condition holds; else fail, and say `what`."""
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, f"condition does not hold after {timeout:g} s: {what() if what else ''}"
        threading.Event().wait(interval)


async def wait_until_async(condition: Callable[[], object]) -> None:
    """The same for a condition that the running event loop makes true."""
    async with asyncio.timeout(WITHIN):
        while not condition():
            await asyncio.sleep(0.001)
