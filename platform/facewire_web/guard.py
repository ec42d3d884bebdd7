"""The guard before every route: the rules of `access`, and the headers of every answer."""

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from facewire_web.access import HEADERS, Access
from facewire_web.answers import error_answer


class Guard:
    """Refuses requests that the rules do not allow, and sets the headers of every answer.

    Args:
        app: answers what is allowed.
        access: the rules.
    """

    def __init__(self, app: ASGIApp, access: Access) -> None:
        self._app = app
        self._access = access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers.update(HEADERS)
                headers.setdefault("cache-control", "no-cache" if scope["path"].startswith("/page/") else "no-store")
            await send(message)

        refusal = self._access.refusal(scope["path"], Headers(scope=scope))
        challenge = {"www-authenticate": "Bearer"} if refusal and refusal.status == 401 else None
        answer = error_answer(*refusal, challenge) if refusal else self._app
        await answer(scope, receive, send_with_headers)
