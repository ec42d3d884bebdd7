"""The agent's inbox: happenings of the connection, and wakes of the recorders."""

import logging
import queue
from typing import Final

from facewire_mqtt import Happening, Received

log = logging.getLogger(__name__)

#: When so much is waiting, further messages from the broker are dropped; larger ones always are.
#: An ack that names 100 bad events has 25 KB.
INBOX_LIMIT: Final = 100
MAX_ACK_BYTES: Final = 256 * 1024


class AgentInbox:
    """Takes from any thread, and drops the newest messages. One thread empties it."""

    def __init__(self) -> None:
        self._queue: queue.SimpleQueue[Happening | None] = queue.SimpleQueue()
        #: A wake is in the queue already; one is enough.
        self._wake_queued = False

    def wake(self) -> None:
        """End the wait of `next`."""
        if not self._wake_queued:
            self._wake_queued = True
            self._queue.put(None)

    def put(self, happening: Happening) -> None:
        """Take a happening. Only messages can be many; a resend replaces a dropped ack."""
        if isinstance(happening, Received) and len(happening.payload) > MAX_ACK_BYTES:
            log.warning("ignored message: over the limit of %d bytes topic=%r", MAX_ACK_BYTES, happening.topic)
        elif isinstance(happening, Received) and self._queue.qsize() >= INBOX_LIMIT:
            log.warning("inbox full, dropped topic=%r", happening.topic)
        else:
            self._queue.put(happening)

    def next(self, wait: float) -> Happening | None:
        """The next happening; None if there is none for `wait` seconds, or at a wake."""
        try:
            happening = self._queue.get(timeout=wait) if wait > 0 else self._queue.get_nowait()
        except queue.Empty:
            return None
        if happening is None:
            self._wake_queued = False
        return happening
