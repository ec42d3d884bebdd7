"""The live wall: each match as it arrives, fresh or refused, for any number of streams.

    fresh_matches_async ──▶ Wall ── a chunk of bytes each 200 ms ──▶ Reader (bounded) ──▶ stream

A stream has three kinds of server-sent events
(https://html.spec.whatwg.org/multipage/server-sent-events.html):

    hello     the present wall                 ┐ {now, broker: {up, reason}, accepted,
    wall      the news, or a sign of life      ┘  refused: {reason: n}, skipped, matches: [...]}
    skipped   {matches}: how many this reader missed because it was too slow

Matches are in the order of arrival, the oldest first.

All of it belongs to one event loop.
"""

import asyncio
import json
import logging
import time
from collections import deque
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any, Final

from facewire.errors import BrokerError
from facewire.messages import Match
from facewire.plain import plain
from facewire.topics import Topics
from facewire_gate.freshness import Reason
from facewire_gate.matches import fresh_matches_async
from facewire_mqtt import Address, Connected, Disconnected
from facewire_system.clock import now_ms

log = logging.getLogger(__name__)

#: Between two chunks, s: fast enough for eyes, and a tenth of the writes at 50 matches a second.
TICK: Final = 0.2
#: After this time a chunk goes out even without news, s: a reader can tell that the wall lives.
BEAT: Final = 5.0
#: Matches in a chunk; nobody can see each of more than 120 a second, so the rest is only counted.
MAX_SHOWN: Final = 24
#: Past matches that a new reader gets.
RECENT: Final = 24
#: Chunks that may wait for a reader: 4 s of a busy wall.
MAX_WAITING: Final = 20
#: Bytes in these chunks.
MAX_WAITING_BYTES: Final = 1024 * 1024
#: Open streams at a time, and those of one client.
MAX_READERS: Final = 256
MAX_READERS_EACH: Final = 128
#: Characters of each text on a card, which is for eyes; the history has the rest.
MAX_TEXT: Final = 200
#: The wait after the broker has refused us, s: somebody must change something first.
REFUSED_WAIT: Final = 30.0


@dataclass(slots=True)
class Counters:
    """Counts of streams since the start."""

    streams: int = 0
    refused: int = 0
    #: Matches that slow readers did not get.
    skipped: int = 0
    #: Streams ended because their client read nothing for too long.
    stuck: int = 0


class Reader:
    """The bounded queue of one stream: a slow reader skips the oldest chunks."""

    def __init__(self, counters: Counters, client: str) -> None:
        self._counters = counters
        self.client = client
        self._waiting: deque[tuple[bytes, int]] = deque()
        self._waiting_bytes = 0
        self._skipped = 0
        self._closed = False
        self._changed = asyncio.Event()

    def offer(self, chunk: bytes, matches: int) -> None:
        """Add a chunk, which contains this number of matches."""
        self._waiting.append((chunk, matches))
        self._waiting_bytes += len(chunk)
        while len(self._waiting) > MAX_WAITING or (self._waiting_bytes > MAX_WAITING_BYTES and len(self._waiting) > 1):
            _, lost = self._take()
            self._skipped += lost
            self._counters.skipped += lost
        self._changed.set()

    def close(self) -> None:
        self._closed = True
        self._changed.set()

    async def __aiter__(self) -> AsyncIterator[bytes]:
        """The chunks to send, until the stream is closed."""
        while not self._closed:
            await self._changed.wait()
            self._changed.clear()
            while self._waiting and not self._closed:
                if self._skipped:
                    skipped, self._skipped = self._skipped, 0
                    yield event("skipped", {"matches": skipped})
                yield self._take()[0]

    def _take(self) -> tuple[bytes, int]:
        taken = self._waiting.popleft()
        self._waiting_bytes -= len(taken[0])
        return taken


class Wall:
    """The matches to show live, and the readers who see them."""

    def __init__(self) -> None:
        self.counters = Counters()
        self._readers: set[Reader] = set()
        self._recent: deque[dict[str, Any]] = deque(maxlen=RECENT)
        self._new: deque[dict[str, Any]] = deque(maxlen=MAX_SHOWN)
        self._arrived = 0
        self._accepted = 0
        self._refused: dict[Reason, int] = {}
        self._broker: dict[str, Any] = {"up": False, "reason": "not connected yet"}
        self._broker_changed = False
        self._flushed_at = -BEAT
        self._closed = False

    @property
    def up(self) -> bool:
        """Whether there is a connection to the broker."""
        return bool(self._broker["up"])

    @property
    def readers(self) -> int:
        """The number of open streams."""
        return len(self._readers)

    def show(self, device: str, match: Match, reason: Reason | None, age: float | None, at_ms: int) -> None:
        """Add a match: fresh without a reason, refused with one."""
        if reason is None:
            self._accepted += 1
        else:
            self._refused[reason] = self._refused.get(reason, 0) + 1
        self._arrived += 1
        card = _card(device, match, reason, age, at_ms)
        self._new.append(card)
        self._recent.append(card)

    def set_broker(self, *, up: bool, reason: str = "") -> None:
        """Set the state of the connection to the broker."""
        self._broker, self._broker_changed = {"up": up, "reason": plain(reason)}, True

    def flush(self, now: float, now_ms: int) -> None:
        """Give the readers the news, or a sign of life. Call it every `TICK`.

        Args:
            now: monotonic, s.
            now_ms: ms since 1970 UTC.
        """
        if not (self._arrived or self._broker_changed or now - self._flushed_at >= BEAT):
            return
        chunk = event("wall", self._state(list(self._new), self._arrived - len(self._new), now_ms))
        for reader in self._readers:
            reader.offer(chunk, len(self._new))
        self._new.clear()
        self._arrived, self._broker_changed, self._flushed_at = 0, False, now

    def open(self, now_ms: int, client: str = "") -> Reader | None:
        """A new reader; None if the wall has too many, or of this client, or is closed."""
        of_client = sum(reader.client == client for reader in self._readers)
        if self._closed or len(self._readers) >= MAX_READERS or of_client >= MAX_READERS_EACH:
            self.counters.refused += 1
            return None
        reader = Reader(self.counters, client)
        # Matches that are not flushed yet come with the next chunk.
        past = list(self._recent)[: len(self._recent) - len(self._new)]
        reader.offer(event("hello", self._state(past, 0, now_ms)), 0)
        self._readers.add(reader)
        self.counters.streams += 1
        return reader

    def leave(self, reader: Reader) -> None:
        self._readers.discard(reader)

    def close(self) -> None:
        """End every stream; call it on the event loop's thread."""
        self._closed = True
        for reader in self._readers:
            reader.close()

    def _state(self, matches: list[dict[str, Any]], skipped: int, now_ms: int) -> dict[str, Any]:
        counts = {"accepted": self._accepted, "refused": self._refused, "skipped": skipped}
        return {"now": now_ms, "broker": self._broker, **counts, "matches": matches}


async def run_wall(wall: Wall, address: Address, topics: Topics) -> None:
    """Keep the wall fed and its readers served, until cancelled."""
    async with asyncio.TaskGroup() as both:
        both.create_task(_follow(wall, address, topics))
        both.create_task(_flush(wall))


async def _follow(wall: Wall, address: Address, topics: Topics) -> None:
    def on_connection(happening: Connected | Disconnected) -> None:
        match happening:
            case Connected():
                wall.set_broker(up=True)
            case Disconnected(reason):
                wall.set_broker(up=False, reason=reason)

    def not_fresh(device: str, match: Match, reason: Reason) -> None:
        wall.show(device, match, reason, None, now_ms())

    while True:
        try:
            async with fresh_matches_async(address, topics=topics, on_notice=on_connection, not_fresh=not_fresh) as matches:
                async for fresh in matches:
                    wall.show(fresh.device, fresh.match, None, fresh.age, fresh.received_at)
                    # While matches wait, the iteration never yields to the event loop by itself.
                    await asyncio.sleep(0)
        except BrokerError as exc:
            log.error("live wall refused, trying again in %d s: error=%s", REFUSED_WAIT, exc)  # noqa: TRY400  # no bug of ours
            wall.set_broker(up=False, reason=str(exc))
            await asyncio.sleep(REFUSED_WAIT)


async def _flush(wall: Wall) -> None:
    while True:
        wall.flush(time.monotonic(), now_ms())
        await asyncio.sleep(TICK)


def event(name: str, data: object) -> bytes:
    """One server-sent event."""
    return f"event: {name}\ndata: {json.dumps(data, allow_nan=False, separators=(',', ':'))}\n\n".encode()


def _short(text: str) -> str:
    return text if len(text) <= MAX_TEXT else text[:MAX_TEXT] + "…"


def _card(device: str, match: Match, reason: Reason | None, age: float | None, at_ms: int) -> dict[str, Any]:
    """The fields of a card, without the vendor's: those may contain photographs."""
    fields = match.event._asdict()
    del fields["extra"]
    fields = {name: _short(value) if isinstance(value, str) else value for name, value in fields.items()}
    known = {"device": device, "epoch": match.epoch, "sent_at": match.sent_at, "received_at": at_ms, "reason": reason}
    return plain(known | {"age": None if age is None else round(age, 3)} | fields)  # type: ignore[no-any-return]
