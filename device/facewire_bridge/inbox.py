"""The HTTP inbox: boxes post to it, and an answer of 200 says that all of a post is durable.

    POST /sophon/{id}/realtime | history | status      POST /sophon/{id}/{secret}/…      GET /sophon/{id}/login

Boxes can send no header, so device and secret stand in the path, which nobody logs. What cannot be taken
now, of an unknown device too, is answered with 503: then the box keeps it.
"""

import asyncio
import hmac
import logging
import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from facewire_bridge import sophon
from facewire_bridge.lanes import Lanes, Troubles
from facewire_bridge.sophon_source import SophonSource

log = logging.getLogger(__name__)

#: Three photographs of 4 MB, in base64, and then some.
MOST_BODY: Final = 24 << 20
#: All bodies that are being read or worked on.
_MOST_BODIES: Final = 96 << 20
_KINDS: Final = frozenset({"realtime", "history", "status", "login"})
_UNAVAILABLE: Final = {"status": 1, "code": 503, "message": "UNAVAILABLE", "data": None}


class _TooLargeError(ValueError):
    """A body is larger than `MOST_BODY`."""


class Inbox:
    """The ASGI application.

    Args:
        sources: the boxes; each on the lane of its place.
        lanes: where they are worked on.
        troubles: says what fails.
    """

    def __init__(self, sources: Sequence[SophonSource], lanes: Lanes, troubles: Troubles) -> None:
        self._sources = {source.device.id: (number, source) for number, source in enumerate(sources)}
        self._lanes, self._troubles = lanes, troubles
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
        levels = request.url.path.strip("/").split("/")
        if len(levels) not in {3, 4} or levels[0] != "sophon" or levels[-1] not in _KINDS:
            return JSONResponse({"status": 404, "message": "no such path"}, 404)
        found = self._sources.get(levels[1])
        secret = levels[2] if len(levels) == 4 else ""
        if found is None or not hmac.compare_digest(secret.encode(), found[1].device.secret.encode()):
            log.warning("refused a post: no such device, or not its secret id=%s kind=%s", ascii(levels[1])[:80], levels[-1])
            return JSONResponse(_UNAVAILABLE, 503)
        if levels[-1] == "login":
            return _login(found[1], request.query_params)
        if request.method != "POST":
            return JSONResponse({"status": 405, "message": "POST only"}, 405)
        return await self._take(request, *found, levels[-1])

    async def _take(self, request: Request, number: int, source: SophonSource, kind: str) -> Response:
        size = int(request.headers.get("content-length") or MOST_BODY)
        if self._reading and self._reading + size > _MOST_BODIES:
            return JSONResponse(_UNAVAILABLE, 503)
        self._reading += size
        try:
            raw = await _read_body(request)
            parse = await _parser(request, raw)
            work = self._status(source, parse) if kind == "status" else self._post(source, kind, parse, raw)
            return await self._on_lane(number, source, work, len(raw))
        except _TooLargeError as exc:
            log.warning("refused a post device=%s reason=%s", source.member.name, exc)
            return JSONResponse({"status": 413, "message": "too large"}, 413)
        finally:
            self._reading -= size

    async def _on_lane(self, number: int, source: SophonSource, work: Callable[[], None], size: int) -> Response:
        future = self._lanes.run(number, lambda: self._troubles.guard(source.member.name, work, writes=True), size)
        if future is None or not await asyncio.wrap_future(future):
            return JSONResponse(_UNAVAILABLE, 503)
        return Response(sophon.STORED, media_type="application/json")

    def _post(self, source: SophonSource, kind: str, parse: Callable[[], object], raw: bytes) -> Callable[[], None]:
        return lambda: source.post(kind, parse, raw, now_ms=time.time_ns() // 1_000_000)

    def _status(self, source: SophonSource, parse: Callable[[], object]) -> Callable[[], None]:
        def work() -> None:
            try:
                status = parse()
            except ValueError:
                return
            if isinstance(status, dict):
                source.status = status

        return work


def _login(source: SophonSource, query: Mapping[str, str]) -> Response:
    device = source.device
    if not device.login:
        return JSONResponse({"status": 404, "message": "login is not served"}, 404)
    log.info("box logs in device=%s dev_sno=%s", source.member.name, ascii(query.get("dev_sno", ""))[:80])
    base = f"{device.login}/sophon/{device.id}" + (f"/{device.secret}" if device.secret else "")
    return JSONResponse(sophon.login_answer(device.version, f"{base}/history", f"{base}/status", device.rabbitmq))


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


async def _parser(request: Request, raw: bytes) -> Callable[[], object]:
    """What reads the body, on the lane."""
    content_type = request.headers.get("content-type", "")
    if not content_type.lower().startswith("multipart/form-data"):
        return lambda: sophon.read_body(content_type, raw)
    try:
        form = await _form(content_type, raw)
    except (ValueError, KeyError) as exc:
        reason = f"form cannot be read: {exc}"
        return lambda: _fail(reason)
    return lambda: sophon.read_form(form)


def _fail(reason: str) -> object:
    raise ValueError(reason)


async def _form(content_type: str, raw: bytes) -> dict[str, str | bytes]:
    """The fields of a multipart body: texts, and files as bytes."""

    async def receive() -> dict[str, object]:
        return {"type": "http.request", "body": raw, "more_body": False}

    request = Request({"type": "http", "method": "POST", "headers": [(b"content-type", content_type.encode("latin-1"))]}, receive)
    try:
        async with request.form(max_files=100, max_fields=1000, max_part_size=MOST_BODY) as form:
            return {name: await value.read() if isinstance(value, UploadFile) else value for name, value in form.items()}
    except (HTTPException, MultiPartException) as exc:
        raise ValueError(str(getattr(exc, "detail", exc))) from exc
