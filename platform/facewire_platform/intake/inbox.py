"""The messages that wait for the worker. They are bounded: overload costs time, never memory.

Each device has a line of its own, and the lines take turns. So a device that floods the platform
fills only its own line, and another device's batch waits for one message of each device at most.

    lobby-1  m m m m m m m m ─┐
    lobby-2  b ───────────────┼─▶ m b m │ m m …
    lobby-3  m ───────────────┘   one turn
"""

import math
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from logging import LogRecord
from typing import Final, NamedTuple, TypeAlias

from facewire_mqtt.happenings import Connected, Disconnected, Happening, Received, Refused

#: At most so many messages, and bytes of messages, may wait.
INBOX_MESSAGES: Final = 50_000
INBOX_BYTES: Final = 256 * 1024 * 1024
#: One device has at most this part of both.
SHARE: Final = 1 / 16
#: At most so much news may wait; newer news pushes out the oldest.
INBOX_NEWS: Final = 1_000
#: After this many bytes, `take` adds no more messages.
TAKEN_BYTES: Final = 16 * 1024 * 1024
#: Messages are taken at intervals of at least this, s: one commit for many costs less than many.
GATHER: Final = 0.02

#: Changes of the connection, and log records of the receiver's process.
News: TypeAlias = Connected | Disconnected | Refused | LogRecord


class Queued(NamedTuple):
    """A message as it waits in the inbox."""

    topic: str
    payload: bytes
    #: A retained message: nobody knows how old it is.
    retained: bool
    #: A packed batch, for `decoder.unpack`.
    packed: bytes | None

    @property
    def size_bytes(self) -> int:
        return len(self.payload) + len(self.packed or b"")


class Delivery(NamedTuple):
    """The messages and news that an inbox gives at once."""

    messages: list[Queued]
    news: list[News]
    #: Messages that did not fit.
    dropped: int
    #: How full the inbox was, from 0 to 1.
    fill: float


class _Line(deque[Queued]):
    """The messages of one device, oldest first."""

    size_bytes = 0


def device_of(topic: str) -> str:
    """The device that a topic names, which need not be a valid one."""
    return topic.rpartition("/")[0].rpartition("/")[2]


class Inbox:
    """Lines from paho's thread to the receiver's main thread, bounded in messages and bytes.

    Args:
        pack: packs a batch, see `Queued.packed`.
        most_messages: at most so many may wait.
        most_bytes: the same for their bytes.
        gather: see `GATHER`.
        share: see `SHARE`.
    """

    def __init__(
        self,
        pack: Callable[[Received], bytes | None],
        most_messages: int = INBOX_MESSAGES,
        most_bytes: int = INBOX_BYTES,
        gather: float = GATHER,
        share: float = SHARE,
    ) -> None:
        self._pack = pack
        self._most_messages, self._most_bytes, self._gather, self._share = most_messages, most_bytes, gather, share
        #: The lines that are not empty, by device; the first is next.
        self._lines: OrderedDict[str, _Line] = OrderedDict()
        self._waiting = self._size_bytes = 0
        self._news: deque[News] = deque(maxlen=INBOX_NEWS)
        self._dropped = 0
        #: The time of the last `take` that had messages, monotonic, s.
        self._taken_at = -math.inf
        self._changed = threading.Condition()
        #: `put` wakes `take` for so many messages, no fewer.
        self._wanted = 1

    def put(self, item: Happening | LogRecord) -> None:
        """Add news or a message; a message without room is counted. One thread puts messages."""
        if isinstance(item, Received):
            self._put_message(item)
            return
        with self._changed:
            self._news.append(item)
            self._changed.notify()

    def take(self, most: int, timeout: float) -> Delivery:
        """Up to `most` messages, one of each device in turn, and all news. Waits up to `timeout` s.

        If `most` is 0, it returns the news at once.
        """
        with self._changed:
            if most:
                self._wait_for(1, timeout)
            if self._waiting:
                self._wait_for(most, min(timeout, self._taken_at + self._gather - time.monotonic()))
            fill = max(self._waiting / self._most_messages, self._size_bytes / self._most_bytes)
            delivery = Delivery(self._take_messages(most), list(self._news), self._dropped, fill)
            self._news.clear()
            self._dropped = 0
        return delivery

    def _put_message(self, message: Received) -> None:
        device = device_of(message.topic)
        with self._changed:
            if not self._has_room(device, len(message.payload)):
                self._dropped += 1
                return
        # Pack without the lock, so that `take` need not wait.
        queued = Queued(message.topic, message.payload, message.retain, self._pack(message))
        with self._changed:
            line = self._lines.setdefault(device, _Line())
            line.append(queued)
            line.size_bytes += queued.size_bytes
            self._waiting += 1
            self._size_bytes += queued.size_bytes
            if self._waiting >= self._wanted:
                self._changed.notify()

    def _has_room(self, device: str, size_bytes: int) -> bool:
        if self._waiting >= self._most_messages or self._size_bytes + size_bytes > self._most_bytes:
            return False
        line = self._lines.get(device, _Line())
        return len(line) < self._most_messages * self._share and line.size_bytes + size_bytes <= self._most_bytes * self._share

    def _take_messages(self, most: int) -> list[Queued]:
        taken: list[Queued] = []
        size_bytes = 0
        while self._lines and len(taken) < most and size_bytes < TAKEN_BYTES:
            device, line = self._lines.popitem(last=False)
            taken.append(line.popleft())
            size_bytes += taken[-1].size_bytes
            line.size_bytes -= taken[-1].size_bytes
            if line:
                self._lines[device] = line  # behind all others
        if taken:
            self._taken_at = time.monotonic()
        self._waiting -= len(taken)
        self._size_bytes -= size_bytes
        return taken

    def _wait_for(self, count: int, seconds: float) -> None:
        self._wanted = count
        self._changed.wait_for(lambda: self._news or self._waiting >= count, max(0.0, seconds))
