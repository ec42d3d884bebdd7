"""Fetches from V5 and V6 boxes: realtime over their WebSocket, history over their event API.

    every period:  events after cursor - 2 min ──▶ counts agree ──▶ cursor = newest event
    every hour:    the last 25 hours too: a clock that was set back makes events before the cursor

A range whose count is more than a page is halved by time, because pages shift while events arrive.
We see an event in several periods before it leaves the range. We write nothing to the box.
"""

import asyncio
import contextlib
import json
import logging
import time
from collections.abc import Callable
from typing import Any, Final, NamedTuple, TypeVar

import httpx
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import WebSocketException

from facewire_bridge import sophon
from facewire_bridge.family import Post
from facewire_bridge.member_threads import MemberThreads, Troubles
from facewire_bridge.sophon_source import SophonSource
from facewire_system.clock import now_ms

log = logging.getLogger(__name__)

T = TypeVar("T")

PERIOD: Final = 20.0
#: How far before the cursor each range begins, and the hourly one, ms.
_OVERLAP: Final = 120_000
_DEEP: Final = 25 * 3_600_000
_DEEP_EVERY: Final = 3_600.0
#: How far after now each range ends, because a box's clock may be ahead, ms.
_AHEAD: Final = 10 * 365 * 86_400_000
#: Disagreements in a row before we log one.
_PATIENCE: Final = 3
_TIMEOUT: Final = 10.0
_CAMERAS_EVERY: Final = 60.0
#: The wait after a failure doubles from the first to the second of these, s.
_RETRY: Final = (1.0, 10.0)
_MOST_MESSAGE: Final = 24 << 20
_OUTAGES: Final = (httpx.HTTPError, WebSocketException, OSError, ValueError)


class Walk(NamedTuple):
    """The result of reading a range of the box's events."""

    counted: int
    held: int
    newest_ms: int | None

    @property
    def agrees(self) -> bool:
        return self.counted == self.held


class _BusyError(Exception):
    """Too much waits for the threads, or the store cannot be written to now."""


class Fetcher:
    """Fetches from one box.

    Args:
        number: its member's.
        source: the box.
        client: all boxes share it.
        threads: the members' threads.
        troubles: logs failures.
        period: from one question to the next, s.
    """

    def __init__(
        self,
        number: int,
        source: SophonSource,
        client: httpx.AsyncClient,
        threads: MemberThreads,
        troubles: Troubles,
        period: float = PERIOD,
    ) -> None:
        self._number, self._source, self._client = number, source, client
        self._threads, self._troubles, self._period = threads, troubles, period
        self._disagreements = 0
        self._said_threshold = False
        self._deep_at = time.monotonic() + _DEEP_EVERY
        #: The box's units of time in a ms; None until a V6 box has shown it. V5 has seconds.
        self._unit: float | None = 0.001 if source.device.version == 5 else None

    async def run(self) -> None:
        """Fetch until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            if self._source.device.api:
                tasks.create_task(self._forever(self._reconcile, "event API", wait=self._period))
            if self._source.device.websocket:
                tasks.create_task(self._forever(self._listen, "websocket", wait=_RETRY[0]))

    async def _forever(self, step: Callable[[], Any], what: str, wait: float) -> None:
        """Repeat a step. A failure is logged if its reason is new; each one doubles the wait."""
        said, retry = "", _RETRY[0]
        while True:
            delay = wait
            try:
                await step()
                said, retry = "", _RETRY[0]
            except _OUTAGES as exc:
                reason = str(exc) or type(exc).__name__
                if reason != said:
                    log.warning("cannot fetch device=%s from=%s reason=%s", self._source.member.name, what, reason)
                said, delay, retry = reason, retry, min(retry * 2, _RETRY[1])
            except _BusyError:
                delay = _RETRY[0]
            except Exception:
                log.exception("internal error device=%s from=%s", self._source.member.name, what)
                delay = _RETRY[1]
            await asyncio.sleep(delay)

    async def _reconcile(self) -> None:
        """Look once for new history."""
        await self._read_threshold()
        at_ms, deep = now_ms(), time.monotonic() >= self._deep_at
        cursor = await self._on_thread(self._source.cursor, writes=False)
        if self._unit is None and not await self._find_unit():
            await self._on_thread(lambda: self._source.agreed(cursor or 0, at_ms))
            return
        first = 0 if cursor is None else cursor - (_DEEP if deep else _OVERLAP)
        walk = await self._walk(max(0, first), at_ms + _AHEAD)
        if deep:
            self._deep_at = time.monotonic() + _DEEP_EVERY
        if walk.agrees:
            self._disagreements = 0
            newest = walk.newest_ms if walk.newest_ms is not None else cursor or 0
            await self._on_thread(lambda: self._source.agreed(newest, at_ms))
            return
        self._disagreements += 1
        if self._disagreements == _PATIENCE:
            log.error("unreconciled device=%s the box counts %d, we hold %d", self._source.member.name, walk.counted, walk.held)
            await self._on_thread(lambda: self._source.disagreed(walk.counted, walk.held))

    async def _walk(self, first_ms: int, last_ms: int) -> Walk:
        """Record all events of a range."""
        keys, counted, newest = await self._page(first_ms, last_ms, 0)
        if counted <= sophon.PAGE:
            return Walk(counted, len(keys), newest)
        if last_ms - first_ms > 2_000:
            middle = (first_ms + last_ms) // 2
            left, right = await self._walk(first_ms, middle), await self._walk(middle + 1, last_ms)
            return Walk(left.counted + right.counted, left.held + right.held, _later(left.newest_ms, right.newest_ms))
        for page in range(1, -(-counted // sophon.PAGE)):
            more, counted, newer = await self._page(first_ms, last_ms, page)
            keys |= more
            newest = _later(newest, newer)
        return Walk(counted, len(keys), newest)

    async def _page(self, first_ms: int, last_ms: int, page: int) -> tuple[set[str], int, int | None]:
        answer = await self._ask_events(first_ms, last_ms, page, self._unit or 1.0)
        return await self._on_thread(lambda: self._source.queried(answer, now_ms=now_ms()))

    async def _ask_events(self, first_ms: int, last_ms: int, page: int, unit: float) -> Any:
        span = sophon.time_range(first_ms, last_ms, unit)
        if self._source.device.version == 5:
            return await self._get("/SophonFace/api/events", span | {"per_page": sophon.PAGE, "page": page})
        return await self._post("/sophon/v2/face/getevents", {"filters": span, "page_limit": sophon.PAGE, "page_index": page})

    async def _find_unit(self) -> bool:
        """Find whether a V6 box's ranges are in s or ms: its manual says one, and shows the other.

        Returns whether that is known now: without an event the box does not show it.
        """
        until = now_ms() + _AHEAD
        counts = {unit: sophon.read_events(await self._ask_events(0, until, 0, unit))[1] for unit in (0.001, 1.0)}
        if not counts[1.0]:
            return False
        # To a box that reads seconds, a range in milliseconds never ends; to one that reads
        # milliseconds, one in seconds ends in 1970.
        self._unit = 0.001 if counts[0.001] else 1.0
        return True

    async def _read_threshold(self) -> None:
        """Adopt the box's threshold, unless the settings have one."""
        realtime = self._source.member.agent.realtime
        if self._source.device.threshold is not None:
            return
        v5 = self._source.device.version == 5
        try:
            answer = await (self._get("/SophonConfig/api/Configs", {}) if v5 else self._post("/sophon/v2/face/getconfigs", {}))
        except _OUTAGES as exc:
            # History needs no threshold.
            if realtime.threshold is None and not self._said_threshold:
                log.warning("no matches: the box does not tell its threshold device=%s reason=%s", self._source.member.name, exc)
            self._said_threshold = True
            return
        threshold = sophon.threshold(answer)
        if threshold is not None and threshold != realtime.threshold:
            log.info("threshold of the box device=%s threshold=%g before=%s", self._source.member.name, threshold, realtime.threshold)
            realtime.threshold = threshold

    async def _listen(self) -> None:
        """Hear realtime events for one session of the WebSocket."""
        cameras = await self._cameras()
        async with connect(self._source.device.websocket, max_size=_MOST_MESSAGE, open_timeout=_TIMEOUT) as socket:
            await socket.send(sophon.websocket_request(self._source.device.version, cameras).decode())
            log.info("listens device=%s cameras=%d", self._source.member.name, len(cameras))
            watcher = asyncio.create_task(self._watch_cameras(socket, cameras))
            try:
                async for message in socket:
                    await self._hear(message.encode() if isinstance(message, str) else message)
            finally:
                watcher.cancel()

    async def _hear(self, raw: bytes) -> None:
        def work() -> None:
            self._source.receive(Post("realtime", "application/json", raw), now_ms=now_ms())

        await self._on_thread(work, len(raw))

    async def _watch_cameras(self, socket: ClientConnection, cameras: list[str]) -> None:
        while True:
            await asyncio.sleep(_CAMERAS_EVERY)
            # `_listen` notices that a session has ended, `_reconcile` that an API is away.
            with contextlib.suppress(*_OUTAGES):
                if (found := await self._cameras()) != cameras:
                    cameras = found
                    await socket.send(sophon.websocket_request(self._source.device.version, cameras).decode())
                    log.info("cameras changed device=%s cameras=%d", self._source.member.name, len(cameras))

    async def _cameras(self) -> list[str]:
        if self._source.device.cameras:
            return list(self._source.device.cameras)
        v5 = self._source.device.version == 5
        answer = await (self._get(sophon.V5_CAMERAS, {}) if v5 else self._post(sophon.V6_CAMERAS, {}))
        return sophon.cameras(answer)

    async def _get(self, path: str, params: dict[str, Any]) -> Any:
        return _json(await self._client.get(self._source.device.api + path, params=params, timeout=_TIMEOUT))

    async def _post(self, path: str, body: dict[str, Any]) -> Any:
        return _json(await self._client.post(self._source.device.api + path, json=body, timeout=_TIMEOUT))

    async def _on_thread(self, work: Callable[[], T], size: int = 0, *, writes: bool = True) -> T:
        """Do `work` on the thread of the box's member.

        Raises:
            _BusyError: it cannot be done now.
            ValueError: as `work` does.
        """
        results: list[T] = []
        errors: list[ValueError] = []

        def guarded() -> None:
            try:
                results.append(work())
            except ValueError as exc:
                errors.append(exc)

        future = self._threads.run(self._number, lambda: self._troubles.guard(self._source.member.name, guarded, writes=writes), size)
        if future is None or not await asyncio.wrap_future(future):
            raise _BusyError
        if errors:
            raise errors[0]
        return results[0]


def _json(response: httpx.Response) -> Any:
    response.raise_for_status()
    try:
        return json.loads(response.content)
    except ValueError as exc:
        raise ValueError(f"{response.url.path} is not answered in JSON") from exc


def _later(one: int | None, other: int | None) -> int | None:
    return max((value for value in (one, other) if value is not None), default=None)
