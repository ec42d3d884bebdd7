"""The web application to which boxes post. Its answer 200 says that all of a post is durable.

    POST /{family}/{id}/{kind}               such as /sophon/box-1/history
    POST /{family}/{id}/{secret}/{kind}

Boxes can send no header, so device and secret stand in the path, which nobody logs. If a post
cannot be recorded now, or its device is unknown, the answer is 503: then the box keeps the post.
"""

import asyncio
import hmac
import logging
import zlib
from collections.abc import Sequence
from typing import Final

from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from facewire_bridge.family import Post
from facewire_bridge.member_threads import MemberThreads, Troubles
from facewire_bridge.push_source import Posting
from facewire_system.clock import now_ms

log = logging.getLogger(__name__)

#: Room for three photographs of 4 MB in base64.
MOST_BODY: Final = 24 << 20
#: Bytes of all bodies that are being read or recorded.
_MOST_BODIES: Final = 96 << 20
#: How long a box may take to send a body, s: one that stalls must not hold the room of the others.
READ_TIMEOUT: Final = 20.0
_UNAVAILABLE: Final = {"status": 1, "code": 503, "message": "UNAVAILABLE", "data": None}


class _TooLargeError(ValueError):
    """A body is larger than `MOST_BODY`."""


class PostApp:
    """The ASGI application to which boxes post.

    Args:
        sources: the boxes, in the order of their members.
        threads: the members' threads.
        troubles: logs failures.
    """

    def __init__(self, sources: Sequence[Posting], threads: MemberThreads, troubles: Troubles) -> None:
        self._sources = {source.path: (number, source) for number, source in enumerate(sources)}
        self._families = {source.path[0] for source in sources}
        self._threads, self._troubles = threads, troubles
        self._reading = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        request = Request(scope, receive)
        try:
            response = await self._answer(request)
        except ClientDisconnect:
            return
        await response(scope, receive, send)

    async def _answer(self, request: Request) -> Response:
        family, *rest = request.url.path.strip("/").split("/")
        if family not in self._families or len(rest) not in {2, 3}:
            return JSONResponse({"status": 404, "message": "no such path"}, 404)
        box_id, secret, kind = rest[0], "" if len(rest) == 2 else rest[1], rest[-1]
        number, source = self._sources.get((family, box_id), (0, None))
        if source is None or not hmac.compare_digest(secret.encode(), source.secret.encode()):
            log.warning("refused a post: no such device, or not its secret family=%s id=%s", family, ascii(box_id)[:80])
            return JSONResponse(_UNAVAILABLE, 503)
        if (answer := source.ask(kind, request.query_params)) is not None:
            return JSONResponse(answer)
        if kind not in source.kinds:
            return JSONResponse({"status": 404, "message": "no such path"}, 404)
        if request.method != "POST":
            return JSONResponse({"status": 405, "message": "POST only"}, 405)
        return await self._receive(request, number, source, kind)

    async def _receive(self, request: Request, number: int, source: Posting, kind: str) -> Response:
        length = request.headers.get("content-length", "")
        size = min(int(length), MOST_BODY) if length.isdecimal() else MOST_BODY
        if self._reading and self._reading + size > _MOST_BODIES:
            return JSONResponse(_UNAVAILABLE, 503)
        self._reading += size
        try:
            async with asyncio.timeout(READ_TIMEOUT):
                post = await _read_post(request, kind)
            return await self._on_thread(number, source, post)
        except TimeoutError:
            return JSONResponse({"status": 408, "message": "too slow"}, 408)
        except _TooLargeError as exc:
            log.warning("refused a post device=%s reason=%s", source.member.name, exc)
            return JSONResponse({"status": 413, "message": "too large"}, 413)
        finally:
            self._reading -= size

    async def _on_thread(self, number: int, source: Posting, post: Post) -> Response:
        def work() -> None:
            source.receive(post, now_ms=now_ms())

        name, size = source.member.name, len(post.body)
        future = self._threads.run(number, lambda: self._troubles.guard(name, work, writes=True), size)
        if future is None or not await asyncio.wrap_future(future):
            return JSONResponse(_UNAVAILABLE, 503)
        content, media_type = source.answer
        return Response(content, media_type=media_type)


async def _read_post(request: Request, kind: str) -> Post:
    raw, content_type = await _read_body(request), request.headers.get("content-type", "")
    form = await _form(content_type, raw) if content_type.lower().startswith("multipart/form-data") else None
    return Post(kind, content_type, raw, form)


async def _read_body(request: Request) -> bytes:
    parts, size = [], 0
    async for part in request.stream():
        size += len(part)
        if size > MOST_BODY:
            raise _TooLargeError(f"body is over the limit of {MOST_BODY} bytes")
        parts.append(part)
    raw = b"".join(parts)
    if request.headers.get("content-encoding", "").lower() == "gzip":
        raw = await asyncio.to_thread(_gunzip, raw)
    return raw


def _gunzip(raw: bytes) -> bytes:
    try:
        opened = zlib.decompressobj(zlib.MAX_WBITS | 16)
        plain = opened.decompress(raw, MOST_BODY)
    except zlib.error:
        return raw  # kept as poison
    if opened.unconsumed_tail:
        raise _TooLargeError(f"body is over the limit of {MOST_BODY} bytes, unpacked")
    return plain


async def _form(content_type: str, raw: bytes) -> dict[str, str | bytes] | None:
    """The fields of a multipart body: texts, and files as bytes.

    None if the body cannot be read: then it is poison as it stands.
    """

    async def receive() -> dict[str, object]:
        return {"type": "http.request", "body": raw, "more_body": False}

    request = Request({"type": "http", "method": "POST", "headers": [(b"content-type", content_type.encode("latin-1"))]}, receive)
    try:
        async with request.form(max_files=100, max_fields=1000, max_part_size=MOST_BODY) as form:
            return {name: await value.read() if isinstance(value, UploadFile) else value for name, value in form.items()}
    except (HTTPException, MultiPartException):
        return None
