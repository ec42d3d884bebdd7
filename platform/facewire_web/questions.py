"""Questions to the database take turns, and end when nobody waits for the answer any more."""

import asyncio
import contextlib
import ipaddress
from collections.abc import AsyncIterator, Awaitable
from typing import Any, Final

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from facewire_platform.store.stopping import STOP, Stop
from facewire_web.answers import error_answer
from facewire_web.turns import MAX_WAITING_EACH, Turn, Turns

#: A question ends after this time, s.
ANSWER_WITHIN: Final = 60.0
#: A driver forgets an interruption that came between two statements, so it is repeated, s.
STOP_EVERY: Final = 0.2

#: Paths that are no questions, although they lie in the API.
_NONE: Final = frozenset(("/api/login", "/api/stream"))


class Questions:
    """Lets a question through to `app` when it is its turn."""

    def __init__(self, app: ASGIApp, turns: Turns) -> None:
        self._app, self._turns = app, turns

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not is_question(scope["path"]):
            await self._app(scope, receive, send)
            return
        if (turn := self._turns.ask(client_of(scope))) is None:
            answer = error_answer(429, f"{MAX_WAITING_EACH} of your questions wait already: ask later", {"retry-after": "1"})
            await answer(scope, receive, send)
            return
        try:
            async with _leaving(receive) as gone:
                await self._answer(turn, gone, scope, send)
        finally:
            self._turns.end(turn)

    async def _answer(self, turn: Turn, gone: asyncio.Task[Any], scope: Scope, send: Send) -> None:
        async with _task(turn.begun.wait()) as begun:
            await asyncio.wait({begun, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not turn.begun.is_set():
            return
        stop = Stop()
        STOP.set(stop)  # the task gets a copy of our context
        asking = self._app(scope, _nothing(gone), self._taken(turn, send))
        async with _task(asking) as answering, _task(turn.answered.wait()) as answered:
            await asyncio.wait({answering, answered, gone}, timeout=ANSWER_WITHIN, return_when=asyncio.FIRST_COMPLETED)
            reason = "the client left" if gone.done() else f"no answer within {ANSWER_WITHIN:g} s: ask for less"
            while not (answering.done() or turn.answered.is_set()):
                # In a thread: PostgreSQL is told over a connection.
                await asyncio.to_thread(stop.ask, reason)
                await asyncio.wait({answering}, timeout=STOP_EVERY)
            await answering

    def _taken(self, turn: Turn, send: Send) -> Send:
        """A `send` whose last part is nothing, so that it waits until the client took the rest."""

        async def send_all(message: Message) -> None:
            if message["type"] == "http.response.body" and not message.get("more_body"):
                self._turns.answer(turn)
                await send({**message, "more_body": True})
                message = {"type": "http.response.body", "body": b""}
            await send(message)

        return send_all


def is_question(path: str) -> bool:
    """Whether a request reads the database."""
    return path == "/metrics" or (path.startswith("/api/") and path not in _NONE)


def client_of(scope: Scope) -> str:
    """Whose turn a request takes: its address, or the network of an IPv6 address."""
    host: str = (scope.get("client") or ("",))[0]
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host
    return str(ipaddress.ip_network((address, 64), strict=False)) if address.version == 6 else host


@contextlib.asynccontextmanager
async def _leaving(receive: Receive) -> AsyncIterator[asyncio.Task[Any]]:
    """A task that is done once the client has left."""

    async def watch() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass

    async with _task(watch()) as task:
        yield task


@contextlib.asynccontextmanager
async def _task(work: Awaitable[Any]) -> AsyncIterator[asyncio.Task[Any]]:
    async def working() -> Any:
        return await work

    task = asyncio.create_task(working())
    try:
        yield task
    finally:
        task.cancel()


def _nothing(gone: asyncio.Task[Any]) -> Receive:
    """The body of a question: none."""

    async def receive() -> Message:
        await asyncio.wait({gone})
        return {"type": "http.disconnect"}

    return receive
