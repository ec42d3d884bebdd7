"""The answer to /api/stream: the chunks of one reader of the wall, as server-sent events."""

import asyncio
import logging
from typing import Final

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from facewire_web.live import Reader, Wall

log = logging.getLogger(__name__)

#: A stream ends if its client reads nothing for this long, s.
STUCK: Final = 30.0


class EventStream(Response):
    """Ends when its client leaves, when the client reads nothing, or when the wall closes.

    Starlette's own streaming response would wait for a client that reads nothing as long as that
    client likes.
    """

    def __init__(self, wall: Wall, reader: Reader) -> None:
        self._wall, self._reader = wall, reader
        self.status_code, self.background = 200, None
        # Without the second header nginx would buffer the stream.
        self.raw_headers = [(b"content-type", b"text/event-stream"), (b"x-accel-buffering", b"no")]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        watching = asyncio.create_task(self._close_when_gone(receive))
        try:
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            async for chunk in self._reader:
                async with asyncio.timeout(STUCK):
                    await send({"type": "http.response.body", "body": chunk, "more_body": True})
            await send({"type": "http.response.body", "body": b""})
        except TimeoutError:
            # The answer stays without its end, so uvicorn closes the connection.
            self._wall.counters.stuck += 1
            log.warning("stream ended because its reader took nothing seconds=%d", STUCK)
        finally:
            watching.cancel()
            self._wall.leave(self._reader)

    async def _close_when_gone(self, receive: Receive) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        self._reader.close()
