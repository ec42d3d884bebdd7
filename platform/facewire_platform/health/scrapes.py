"""A small HTTP server for scrapes, on a thread of its own.

It answers one GET per connection and closes it. A client has a few seconds for its request and for
the answer. If there are too many connections, the oldest ends. Scrapes are answered one at a time.
"""

import asyncio
import contextlib
import socket
import threading
from collections.abc import Callable, Mapping
from typing import Any, Final, TypeAlias

from facewire.hosts import is_own_name

#: For a request, and for taking the answer, s.
WITHIN: Final = 5.0
#: Connections at a time.
MAX_CONNECTIONS: Final = 32
#: Bytes of a request.
MAX_HEAD_BYTES: Final = 8_192
_OWN_NAMES: Final = "this Host does not name this machine\n"

#: The headers of an answer, and its body.
Answer: TypeAlias = tuple[dict[str, str], bytes]


class Scrapes:
    """Answers scrapes.

    Args:
        answer: given the headers of a scrape by lower-case name, the answer to it; called on
            another thread.
        own_names_only: refuse a `Host` that is no name of this machine.
    """

    def __init__(self, answer: Callable[[Mapping[str, str]], Answer], *, own_names_only: bool) -> None:
        self._answer_to, self._own_names_only = answer, own_names_only
        #: The oldest first.
        self._open: dict[asyncio.Task[Any], None] = {}
        self._turn = asyncio.Lock()

    def serve_in_thread(self, bound: socket.socket) -> None:
        """Serve until the process ends."""
        threading.Thread(target=lambda: asyncio.run(self._serve(bound)), name="metrics", daemon=True).start()

    async def _serve(self, bound: socket.socket) -> None:
        server = await asyncio.start_server(self._accept, sock=bound, limit=MAX_HEAD_BYTES)
        await server.serve_forever()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while len(self._open) >= MAX_CONNECTIONS:
            oldest = next(iter(self._open))
            del self._open[oldest]
            oldest.cancel()
        task = asyncio.current_task()
        assert task is not None  # noqa: S101  # a coroutine runs in a task
        self._open[task] = None
        # The connection is gone afterwards, however it ends.
        with contextlib.suppress(asyncio.CancelledError, TimeoutError, OSError, EOFError, asyncio.LimitOverrunError):
            try:
                await self._answer(reader, writer)
            finally:
                self._open.pop(task, None)
                writer.transport.abort()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async with asyncio.timeout(WITHIN):
            head = await reader.readuntil(b"\r\n\r\n")
        status, (headers, body) = await self._response(head.decode("latin-1"))
        headers |= {"Content-Length": str(len(body)), "Connection": "close"}
        about = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        writer.write(f"HTTP/1.1 {status}\r\n{about}\r\n".encode() + (b"" if head.startswith(b"HEAD ") else body))
        writer.close()
        async with asyncio.timeout(WITHIN):
            await writer.wait_closed()

    async def _response(self, head: str) -> tuple[str, Answer]:
        request, *lines = head.split("\r\n")
        pairs = (line.partition(":") for line in lines)
        asked = {name.lower(): value.strip() for name, _, value in pairs}
        if not request.startswith(("GET /", "HEAD /")):
            return "405 Method Not Allowed", ({"Allow": "GET"}, b"")
        if self._own_names_only and not is_own_name(asked.get("host", "")):
            return "421 Misdirected Request", ({"Content-Type": "text/plain"}, _OWN_NAMES.encode())
        async with self._turn:
            return "200 OK", await asyncio.to_thread(self._answer_to, asked)
