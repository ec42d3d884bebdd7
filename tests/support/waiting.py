"""Wait for a condition, without a sleep and not for ever."""

import threading
import time
from collections.abc import Callable


def wait_until(condition: Callable[[], bool], timeout: float = 10.0, interval: float = 0.01) -> None:
    """Ask again every `interval` seconds until the condition holds; fail after `timeout`."""
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, f"condition does not hold after {timeout:g} s"
        threading.Event().wait(interval)
