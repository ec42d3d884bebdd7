"""Decodes what waits in the inbox, on a thread of its own: while a database writes, Python is free to read the next group.

inbox ──▶ Reader: decode ──▶ a few groups ──▶ take()
"""

import contextlib
import logging
import queue
import threading
import time
from typing import Final, NamedTuple

from facewire.errors import BatchRefused, DecodeError, ProtocolError
from facewire.messages import Ack, decode
from facewire.topics import Topics
from facewire_mqtt.connection import Received
from facewire_platform.inbox import Inbox
from facewire_platform.store import Taken, Unreadable

log = logging.getLogger(__name__)

#: Messages stored in one commit at most; fewer if no more are waiting.
GROUP: Final = 200
#: Groups that are decoded before they can be stored.
AHEAD: Final = 2
#: A reader that has nothing to do looks this often whether it should stop, s.
LOOK_EVERY: Final = 0.5


class Held(NamedTuple):
    """A message out of the inbox that is not stored yet; a batch that is refused is two of them."""

    received: Received
    taken: Taken


class Reader:
    """Gives groups of decoded messages, in the order in which they came."""

    def __init__(self, inbox: Inbox, topics: Topics) -> None:
        self._inbox = inbox
        self._topics = topics
        self._groups: queue.Queue[list[Held]] = queue.Queue(AHEAD)
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="reader", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """End the thread; what it has read and nobody took is let go."""
        self._stopping.set()
        while self._thread.is_alive():
            with contextlib.suppress(queue.Empty):
                self._groups.get_nowait()
            self._thread.join(0.01)

    def take(self, timeout: float) -> list[Held]:
        """The next group; waits for one, no longer than `timeout` seconds."""
        try:
            return self._groups.get(timeout=timeout)
        except queue.Empty:
            return []

    def read_group(self, timeout: float) -> list[Held]:
        """What waits in the inbox now, decoded."""
        return [held for received in self._inbox.take(GROUP, timeout) for held in self._read(received)]

    def _run(self) -> None:
        while not self._stopping.is_set():
            if group := self.read_group(LOOK_EVERY):
                self._groups.put(group)

    def _read(self, received: Received) -> list[Held]:
        now_ms = time.time_ns() // 1_000_000
        device = ""
        try:
            device, kind = self._topics.parse(received.topic)
            message = decode(kind, received.payload)
            if not isinstance(message, Ack):
                return [Held(received, Taken(device, message, now_ms, received.retain))]
            reason = "an ack is not for us"
        except BatchRefused as exc:
            kept = Unreadable(received.topic, str(exc), received.payload)
            return [Held(received, Taken(device, message, now_ms)) for message in (kept, exc)]
        except (DecodeError, ProtocolError) as exc:
            reason = str(exc)
        except Exception as exc:
            log.exception("message cannot be read topic=%r", received.topic)
            reason = f"internal error: {type(exc).__name__}"
        return [Held(received, Taken(device, Unreadable(received.topic, reason, received.payload), now_ms))]
