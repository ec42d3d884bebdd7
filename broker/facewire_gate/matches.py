"""Fresh matches for gates and greeters: iterate, and act on each. It refuses and counts all others.

    paho's thread ── (moment, happening) ──▶ DropOldestInbox
        ──▶ consumer's thread: decode ──▶ Freshness judges ──▶ match
        ──▶ pushed out: decode ──▶ Freshness only hears

    with fresh_matches(Address("broker", username="gate-1", password=...)) as matches:
        for fresh in matches:
            open_door(fresh.match.event.identity_id)

It subscribes to matches at QoS 0 in clean sessions, and to statuses if the broker allows it: they
tell of a restart before its first match, and of the clock while there are no matches. The iteration
survives the end of a broker; `stop` ends it, from any thread.
"""

import logging
import queue
import secrets
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Final, Literal, Self, TypeAlias

from facewire.errors import BrokerError, CredentialsRefused, DecodeError, ProtocolError
from facewire.messages import Match, Status, decode
from facewire.topics import QOS, Kind, Topics
from facewire_gate.freshness import Freshness, Limits, Moment
from facewire_gate.freshness import Reason as Unfit
from facewire_gate.memory import Acted, Memory
from facewire_mqtt import Address, Connected, Connection, Disconnected, Happening, Received, Refused
from facewire_system.clock import elapsed_ms, now_ms

if TYPE_CHECKING:
    import asyncio

log = logging.getLogger(__name__)

#: Messages that may wait for the consumer: two seconds of 100 devices with 5 matches a second.
INBOX_MESSAGES: Final = 1_000
#: Bytes of them. One device's large messages would otherwise take 4 GB.
INBOX_BYTES: Final = 64 * 1024 * 1024
#: unreadable: not a message of the contract. overrun: newer ones pushed it out of a full inbox.
Reason: TypeAlias = Unfit | Literal["unreadable", "overrun"]


@dataclass(frozen=True, slots=True)
class FreshMatch:
    """A match to act on now: it is not yielded again."""

    device: str
    match: Match
    #: Time since the comparison, at most, s.
    age: float
    #: The message as received.
    received: Received = field(repr=False)
    #: When it was received, ms since 1970 UTC, our clock.
    received_at: int


class DropOldestInbox:
    """Holds what paho's thread reports for the thread that acts on it.

    Args:
        most: messages that may wait. A further one pushes out the oldest, since the newest may
            still be fresh.
        wake: called on paho's thread when something arrives.
        pushed_out: called on paho's thread with each message that was pushed out, the oldest first.
        most_bytes: bytes of their payloads that may wait.
    """

    def __init__(
        self, most: int, wake: Callable[[], None], pushed_out: Callable[[Moment, Received], None], most_bytes: int = INBOX_BYTES
    ) -> None:
        self._most, self._most_bytes, self._size_bytes = most, most_bytes, 0
        self._wake, self._pushed_out = wake, pushed_out
        self._waiting: deque[tuple[Moment, Received]] = deque()
        #: There are few, and only the last ones count.
        self._news: deque[Happening] = deque(maxlen=16)
        self._lock = threading.Lock()

    def put(self, happening: Happening) -> None:
        excess = []
        with self._lock:
            if not isinstance(happening, Received):
                self._news.append(happening)
            else:
                self._waiting.append((_now(), happening))
                self._size_bytes += len(happening.payload)
                while len(self._waiting) > self._most or self._size_bytes > self._most_bytes:
                    excess.append(self._remove_oldest())
        for item in excess:
            self._pushed_out(*item)
        self._wake()

    def take(self) -> Happening | tuple[Moment, Received] | None:
        """News of the connection first, then the oldest message."""
        with self._lock:
            if self._news:
                return self._news.popleft()
            return self._remove_oldest() if self._waiting else None

    def forget_news(self) -> None:
        with self._lock:
            self._news.clear()

    def _remove_oldest(self) -> tuple[Moment, Received]:
        item = self._waiting.popleft()
        self._size_bytes -= len(item[1].payload)
        return item


class _Matches:
    """The common part of the iterators. For one thread, except `stop` and the counters.

    Args:
        address: the broker, with our credential.
        topics: where the devices publish.
        devices: only these; empty for all.
        limits: the limits of a fresh match.
        inbox: messages that may wait for the consumer.
        on_notice: called on the iterating thread when a session begins or ends.
        not_fresh: called on the iterating thread with each refused match, its device and the
            reason.
        told: the former name of `on_notice`.
        memory: a file in which to remember, across restarts, the matches that were yielded.

    Raises:
        BrokerError: the file cannot be opened, or another gate has it.
    """

    def __init__(
        self,
        address: Address,
        *,
        topics: Topics | None = None,
        devices: Sequence[str] = (),
        limits: Limits | None = None,
        inbox: int = INBOX_MESSAGES,
        on_notice: Callable[[Connected | Disconnected], None] | None = None,
        not_fresh: Callable[[str, Match, Unfit], None] | None = None,
        told: Callable[[Connected | Disconnected], None] | None = None,
        memory: Path | str | None = None,
    ) -> None:
        self._address = address
        self._topics = topics or Topics()
        self._devices = tuple(dict.fromkeys(devices))
        self._freshness = Freshness(limits)
        #: Both threads hear messages: the consumer's, and paho's those that were pushed out.
        self._hearing = threading.Lock()
        self._memory = None if memory is None else Memory(Path(memory))
        for acted in self._memory.before if self._memory else ():
            self._freshness.remember(*acted, _now().monotonic)
        self._on_notice = on_notice or told
        self._not_fresh = not_fresh
        self._unreadable = self._overrun = 0
        self._inbox = DropOldestInbox(inbox, self._wake, self._hear_only)
        self._stopping = False
        #: Holds an item if there is something to do. Unlike an Event, a signal handler may use it.
        self._wakes: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._kinds: tuple[Kind, ...] = ("match", "status")
        self._connection = self._connect()

    @property
    def refused(self) -> "Counter[Reason]":
        """The number of messages that were not yielded, by reason."""
        refused: Counter[Reason] = Counter(self._freshness.refused)
        refused.update({"unreadable": self._unreadable, "overrun": self._overrun})
        return +refused

    @property
    def accepted(self) -> int:
        """The number of matches that were yielded."""
        return self._freshness.accepted

    def stop(self) -> None:
        """End the iteration, from any thread or a signal handler."""
        self._stopping = True
        self._wake()

    def _close(self) -> None:
        self._connection.close(timeout=1.0)
        if self._memory is not None:
            self._memory.close()

    def _wake(self) -> None:
        if self._wakes.empty():
            self._wakes.put(None)

    def _connect(self) -> Connection:
        filters = [
            (self._topics.all(kind) if device is None else self._topics.of(device, kind), QOS[kind])
            for device in self._devices or (None,)
            for kind in self._kinds
        ]
        # 22 characters: a broker may refuse more than 23 (MQTT 3.1.1 section 3.1.3.1).
        return Connection(self._address, f"facewire-gate-{secrets.token_hex(4)}", filters, self._inbox.put)

    def _next(self) -> FreshMatch | None:
        """The next waiting fresh match, if there is one.

        Raises:
            CredentialsRefused: the broker refused our credentials.
            BrokerError: it refused a subscription.
        """
        while not self._stopping and (item := self._inbox.take()) is not None:
            if not isinstance(item, tuple):
                self._handle(item)
            elif (fresh := self._judge(*item)) is not None:
                return fresh
        return None

    def _judge(self, arrived: Moment, received: Received) -> FreshMatch | None:
        with self._hearing:
            if (read := self._read(received)) is None:
                return None
            device, message = read
            if not isinstance(message, Match):
                self._freshness.hear(device, message, retained=received.retain, arrived=arrived)
                return None
            reason, age = self._freshness.match(device, message, retained=received.retain, arrived=arrived, now=_now())
        if reason is not None or age is None:
            log.debug("refused device=%s epoch=%s seq=%d reason=%s", device, message.epoch, message.event.seq, reason)
            if self._not_fresh is not None:
                self._not_fresh(device, message, reason or "unproven")
            return None
        if self._memory is not None:
            self._memory.add(Acted(device, message.epoch, message.event.seq))
        return FreshMatch(device, message, age, received, arrived.wall_ms)

    def _hear_only(self, arrived: Moment, received: Received) -> None:
        """Learn from a message that was pushed out: it may show that a clock is ahead."""
        with self._hearing:
            if (read := self._read(received)) is not None:
                self._overrun += isinstance(read[1], Match)
                self._freshness.hear(*read, retained=received.retain, arrived=arrived)

    def _read(self, received: Received) -> tuple[str, Match | Status] | None:
        try:
            device, kind = self._topics.parse(received.topic)
            message = decode(kind, received.payload)
        except (DecodeError, ProtocolError) as exc:
            self._unreadable += 1
            log.debug("unreadable topic=%r error=%s", received.topic, exc)
            return None
        return (device, message) if isinstance(message, Match | Status) else None

    def _handle(self, happening: Happening) -> None:
        match happening:
            case Connected() | Disconnected():
                if self._on_notice is not None:
                    self._on_notice(happening)
            case Refused(reason, credentials=True):
                raise CredentialsRefused(f"{self._address} refused our credentials: {reason}")
            case Refused() if "status" in self._kinds:
                # One refused subscription ends a session (`Connection`). Go on with matches alone.
                log.info("going on without statuses broker=%s", self._address)
                self._kinds = ("match",)
                before, self._connection = self._connection, self._connect()
                before.close(timeout=1.0)
                self._inbox.forget_news()
                self._connection.start()
            case Refused(reason):
                raise BrokerError(f"{self._address}: {reason}")


class FreshMatches(_Matches):
    """Fresh matches for a thread: a context manager to iterate over."""

    def __enter__(self) -> Self:
        self._connection.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()
        self._close()

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> FreshMatch:
        while not self._stopping:
            if (fresh := self.take(None)) is not None:
                return fresh
        raise StopIteration

    def take(self, timeout: float | None) -> FreshMatch | None:
        """The next fresh match; None if none arrives within `timeout`, or after `stop`."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while (fresh := self._next()) is None and not self._stopping:
            try:
                self._wakes.get(timeout=None if deadline is None else max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                return None
        return fresh


class AsyncFreshMatches(_Matches):
    """Fresh matches for an event loop: an asynchronous context manager to iterate over."""

    _loop: "asyncio.AbstractEventLoop | None" = None

    async def __aenter__(self) -> Self:
        import asyncio

        self._awake, self._loop = asyncio.Event(), asyncio.get_running_loop()
        self._connection.start()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        import asyncio

        self.stop()
        await asyncio.to_thread(self._close)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> FreshMatch:
        while (fresh := self._next()) is None and not self._stopping:
            await self._awake.wait()
            self._awake.clear()
        if fresh is None:
            raise StopAsyncIteration
        return fresh

    def _wake(self) -> None:
        if self._loop is None:
            return
        try:
            self._loop.call_soon_threadsafe(self._awake.set)
        except RuntimeError:  # the loop has ended, so nobody waits
            log.debug("event loop is closed")


#: Iterate over fresh matches: `with fresh_matches(address) as matches: for fresh in matches: ...`
fresh_matches: Final = FreshMatches
#: The same for asyncio: `async with …`, and `async for fresh in matches: ...`
fresh_matches_async: Final = AsyncFreshMatches


def _now() -> Moment:
    return Moment(elapsed_ms() / 1000, now_ms())
