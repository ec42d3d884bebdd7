"""Reads what waits in the inbox, with a process that decodes batches while the worker stores those before.

inbox ──▶ Reader's thread ◀──▶ Decoder
              └──▶ ready, at most a group ──▶ take()
"""

import logging
import threading
import time
from typing import Final, NamedTuple

from facewire.errors import BatchRefused, DecodeError, ProtocolError
from facewire.messages import Ack, decode
from facewire.topics import Topics
from facewire_mqtt.connection import Received
from facewire_platform.decoder import Decoder, unpack
from facewire_platform.inbox import Inbox
from facewire_platform.rows import Rows
from facewire_platform.store import Taken, Unreadable

log = logging.getLogger(__name__)

#: Messages stored in one commit at most; fewer if no more are waiting.
GROUP: Final = 200
#: Messages given to the decoder at a time, and read before the next look at whether somebody wants them.
STEP: Final = 16
#: A reader that has nothing to do looks this often whether it should stop, s.
LOOK_EVERY: Final = 0.5
#: A decoder that has failed is followed by another after this long, s.
DECODER_RETRY: Final = 1.0


class Held(NamedTuple):
    """A message out of the inbox that is not stored yet; a batch that is refused is two of them."""

    received: Received
    taken: Taken


class Reader:
    """Gives decoded messages in the order in which they came, as many at once as there are; batches as `rows`, where it pays."""

    def __init__(self, inbox: Inbox, topics: Topics, rows: type[Rows]) -> None:
        self._inbox = inbox
        self._topics = topics
        self._rows = rows
        #: With what came of its batch in the decoder.
        self._ready: list[tuple[Received, bytes | None]] = []
        self._changed = threading.Condition()
        self._stopping = False
        self._decoder: Decoder | None = None
        #: When it may be started, monotonic, s.
        self._decoder_from = 0.0
        self._thread = threading.Thread(target=self._run, name="reader", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """End the thread and the decoder; what they have read and nobody took is let go."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        self._thread.join()
        self._close_decoder()

    def take(self, timeout: float) -> list[Held]:
        """All that has been read; waits for something, no longer than `timeout` seconds.

        Raises:
            RuntimeError: the thread has ended, which is our fault: better to end than to wait for ever.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._ready, timeout)
            ready, self._ready = self._ready, []
            self._changed.notify_all()
        if not ready and not self._thread.is_alive():
            raise RuntimeError("the reader's thread has ended")
        return [held for received, packed in ready for held in self._read(received, packed)]

    def read(self, most: int, timeout: float) -> list[Held]:
        """What waits in the inbox, decoded on the calling thread."""
        return [held for received in self._inbox.take(most, timeout) for held in self._read(received, None)]

    def _run(self) -> None:
        self._decode([b""])  # which starts the decoder before it is needed
        while not self._stopping:
            some = self._inbox.take(STEP, LOOK_EVERY)
            # Other messages it would find to be no batches, and an empty payload sooner.
            packed = self._decode([received.payload if received.topic.endswith("/history") else b"" for received in some])
            with self._changed:
                self._changed.wait_for(lambda: len(self._ready) < GROUP or self._stopping)
                self._ready += zip(some, packed, strict=True)
                self._changed.notify_all()

    def _decode(self, payloads: list[bytes]) -> list[bytes | None]:
        if payloads and time.monotonic() >= self._decoder_from:
            try:
                self._decoder = self._decoder or Decoder(self._rows)
                return self._decoder.decode(payloads)
            except (OSError, EOFError) as exc:
                log.warning("decoder failed, going on without for %g s error=%s", DECODER_RETRY, str(exc) or type(exc).__name__)
                self._decoder_from = time.monotonic() + DECODER_RETRY
                self._close_decoder()
        return [None] * len(payloads)

    def _close_decoder(self) -> None:
        if self._decoder is not None:
            self._decoder.close()
            self._decoder = None

    def _read(self, received: Received, packed: bytes | None) -> list[Held]:
        now_ms = time.time_ns() // 1_000_000
        device = ""
        try:
            device, kind = self._topics.parse(received.topic)
            message = decode(kind, received.payload) if packed is None else unpack(packed, self._rows)
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
