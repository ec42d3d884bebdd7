"""`facewire bridge sophon` and `http`: an event loop on a thread, for posts and fetching."""

import asyncio
import contextlib
import logging
import socket
import threading
from collections.abc import Callable, Sequence
from typing import Final

import httpx
import uvicorn

from facewire.endpoint import Endpoint
from facewire.errors import FacewireError
from facewire_bridge.fetcher import PERIOD, Fetcher
from facewire_bridge.member_threads import MemberThreads, Troubles
from facewire_bridge.post_app import PostApp
from facewire_bridge.push_source import Posting
from facewire_bridge.sophon_source import SophonSource
from facewire_system.failures import reason_of

log = logging.getLogger(__name__)

#: Most connections; boxes keep theirs open.
_MOST_CONNECTIONS: Final = 2_000
_KEEP_ALIVE: Final = 60


class HttpBridge:
    """Serves boxes that post, and fetches from those that are asked.

    Args:
        listen: where boxes post to.
        sources: the boxes, in the order of their members.
        threads: the members' threads.
        on_failure: called if the event loop fails.
        period: from one question of an event API to the next, s.

    Raises:
        FacewireError: the address cannot be listened on.
    """

    def __init__(
        self,
        listen: Endpoint,
        sources: Sequence[Posting],
        threads: MemberThreads,
        *,
        on_failure: Callable[[], None] = lambda: None,
        period: float = PERIOD,
    ) -> None:
        self.sources = sources
        self._threads, self._troubles, self._period = threads, Troubles(), period
        self._on_failure = on_failure
        self._failure: BaseException | None = None
        try:
            family = socket.AF_INET6 if ":" in listen.host else socket.AF_INET
            self._socket = socket.create_server(listen, family=family)
        except OSError as exc:
            raise FacewireError(f"cannot listen on {listen}: {reason_of(exc)}") from exc
        self.port: int = self._socket.getsockname()[1]
        # It tells of itself, and warns of each bad request, so that anybody could fill the log.
        logging.getLogger("uvicorn").setLevel(max(logging.ERROR, logging.getLogger().level))
        config = uvicorn.Config(
            PostApp(sources, threads, self._troubles),
            access_log=False,  # paths hold secrets
            log_config=None,
            lifespan="off",
            limit_concurrency=_MOST_CONNECTIONS,
            timeout_keep_alive=_KEEP_ALIVE,
            ws="none",
        )
        self._server = uvicorn.Server(config)
        self._loop_thread = threading.Thread(target=self._run, name="http", daemon=True)

    def start(self) -> None:
        self._loop_thread.start()
        log.info("listens port=%d boxes=%d", self.port, len(self.sources))

    def stop(self) -> None:
        """Answer the requests under way, and end. Raises `FacewireError` if the loop has failed."""
        self._server.should_exit = True
        self._loop_thread.join()
        if self._failure is not None:
            raise FacewireError(f"the bridge has failed: {self._failure!r}") from self._failure

    def _run(self) -> None:
        try:
            asyncio.run(self._serve())
        except BaseException as exc:
            log.exception("bridge failed")
            self._failure = exc
            self._on_failure()

    async def _serve(self) -> None:
        async with httpx.AsyncClient(trust_env=False, follow_redirects=False) as client:
            fetchers = [
                asyncio.create_task(Fetcher(number, source, client, self._threads, self._troubles, self._period).run())
                for number, source in enumerate(self.sources)
                if isinstance(source, SophonSource) and (source.device.api or source.device.websocket)
            ]
            try:
                await self._server.serve(sockets=[self._socket])
            finally:
                for task in fetchers:
                    task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await asyncio.gather(*fetchers)
