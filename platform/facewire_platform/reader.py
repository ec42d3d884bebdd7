"""Decodes what waits in the inbox, on a thread of its own: while a database writes, Python is free to read the next group.

inbox ──▶ Reader: decode ──▶ ready, at most a group ──▶ take()
"""

import logging
import threading
import time
from dataclasses import replace
from typing import Final, NamedTuple

from facewire import codec
from facewire.errors import BatchRefused, DecodeError, ProtocolError
from facewire.messages import Ack, Batch, decode
from facewire.topics import Topics
from facewire_mqtt.connection import Received
from facewire_platform.inbox import Inbox
from facewire_platform.schema import Row
from facewire_platform.store import Taken, Unreadable

log = logging.getLogger(__name__)

#: Messages stored in one commit at most; fewer if no more are waiting.
GROUP: Final = 200
#: Messages decoded before the next look at whether somebody wants them.
STEP: Final = 8
#: A reader that has nothing to do looks this often whether it should stop, s.
LOOK_EVERY: Final = 0.5


class Held(NamedTuple):
    """A message out of the inbox that is not stored yet; a batch that is refused is two of them."""

    received: Received
    taken: Taken


class Reader:
    """Gives decoded messages in the order in which they came, as many at once as there are."""

    def __init__(self, inbox: Inbox, topics: Topics) -> None:
        self._inbox = inbox
        self._topics = topics
        self._pack = codec.packer()
        self._ready: list[Held] = []
        self._changed = threading.Condition()
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="reader", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """End the thread; what it has read and nobody took is let go."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        self._thread.join()

    def take(self, timeout: float) -> list[Held]:
        """All that is decoded; waits for something, no longer than `timeout` seconds.

        Raises:
            RuntimeError: the thread has ended, which is our fault: better to end than to wait for ever.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._ready, timeout)
            taken, self._ready = self._ready, []
            self._changed.notify_all()
        if not taken and not self._thread.is_alive():
            raise RuntimeError("the reader's thread has ended")
        return taken

    def read(self, most: int, timeout: float) -> list[Held]:
        """What waits in the inbox, decoded on the calling thread."""
        return [held for received in self._inbox.take(most, timeout) for held in self._read(received)]

    def _run(self) -> None:
        while not self._stopping:
            some = self.read(STEP, LOOK_EVERY)
            with self._changed:
                self._changed.wait_for(lambda: len(self._ready) < GROUP or self._stopping)
                self._ready += some
                self._changed.notify_all()

    def _read(self, received: Received) -> list[Held]:
        now_ms = time.time_ns() // 1_000_000
        device = ""
        try:
            device, kind = self._topics.parse(received.topic)
            message = decode(kind, received.payload)
            if isinstance(message, Batch):
                message = replace(message, events=tuple(Row.of(event, self._pack) for event in message.events))
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
