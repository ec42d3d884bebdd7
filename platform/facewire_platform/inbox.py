"""What waits for the database: bounded, so that a load that the platform cannot take costs patience and no memory."""

import threading
from collections import deque
from typing import Final

from facewire_mqtt.connection import Received

#: What may wait: messages, and their bytes.
INBOX_MESSAGES: Final = 50_000
INBOX_BYTES: Final = 256 * 1024 * 1024


class Inbox:
    """A queue between paho's thread and ours, bounded in messages and bytes."""

    def __init__(self, most_messages: int = INBOX_MESSAGES, most_bytes: int = INBOX_BYTES) -> None:
        self._waiting: deque[Received] = deque()
        self._size_bytes = 0
        self._most_messages, self._most_bytes = most_messages, most_bytes
        self._changed = threading.Condition()
        self.dropped = 0

    def put(self, message: Received) -> bool:
        """Add a message; False if it does not fit, which is counted."""
        size_bytes = len(message.payload)
        with self._changed:
            if len(self._waiting) >= self._most_messages or self._size_bytes + size_bytes > self._most_bytes:
                self.dropped += 1
                return False
            self._waiting.append(message)
            self._size_bytes += size_bytes
            self._changed.notify()
        return True

    def take(self, most: int, timeout: float) -> list[Received]:
        """Up to `most` messages, oldest first; waits for one, no longer than `timeout` seconds."""
        with self._changed:
            if not self._waiting:
                self._changed.wait(timeout)
            taken = [self._waiting.popleft() for _ in range(min(most, len(self._waiting)))]
            self._size_bytes -= sum(len(message.payload) for message in taken)
        return taken

    @property
    def fill(self) -> float:
        """How full it is, from 0 to 1."""
        return max(len(self._waiting) / self._most_messages, self._size_bytes / self._most_bytes)
