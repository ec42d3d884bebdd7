"""The HTTP API and the page.

    /                 the page; its files under /page/
    /api/…            the questions of `queries.History`, and the live stream
    /metrics          Prometheus          /healthz  for whoever restarts things          /openapi.json  all of it, described

Each question opens the database on the thread that answers it, and closes it: one thread owns a connection, and a database that
was restored, or that was away, is found at the next question.
"""

import asyncio
import itertools
import json
import logging
import time
from collections.abc import Iterable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, Final

from fastapi import FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.staticfiles import StaticFiles
from prometheus_client import exposition
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from facewire.errors import StoreError
from facewire.plain import plain
from facewire_platform.health.metrics import metrics_registry
from facewire_platform.history.queries import History, Place, Row
from facewire_platform.store.drivers import Location
from facewire_web import forms
from facewire_web.access import COOKIE, HEADERS, Access
from facewire_web.devices import Devices
from facewire_web.live import Reader, Wall

log = logging.getLogger(__name__)

PAGE: Final = Path(__file__).parent / "page"
#: A page of events ends with the one that passes this, in JSON: photographs are large.
MAX_BYTES: Final = 4 * 1024 * 1024
#: The longest body that a login has.
MAX_LOGIN_BYTES: Final = 4_096
#: A stream whose reader takes nothing for so long is ended, s.
STUCK: Final = 30.0


def create_app(database: Location, wall: Wall, access: Access) -> ASGIApp:
    """The application, of which nothing runs but its answers: whoever serves it also runs the wall (`server`)."""
    app = FastAPI(
        title="facewire", version=version("facewire"), docs_url=None, redoc_url=None, summary="Face-recognition events of a platform."
    )
    _add_errors(app)
    _add_questions(app, database)
    _add_live(app, database, wall)
    _add_page(app, access)
    return _Guard(app, access)


def _add_errors(app: FastAPI) -> None:
    """Every error is {"error": one sentence}."""

    @app.exception_handler(RequestValidationError)
    async def unprocessable(_: Request, exc: RequestValidationError) -> Response:
        return _error(422, "; ".join(forms.sentence(error) for error in exc.errors()))

    @app.exception_handler(HTTPException)
    async def refused(request: Request, exc: HTTPException) -> Response:
        text = f"there is no {request.url.path}" if exc.status_code == 404 else str(exc.detail)
        return _error(exc.status_code, text, exc.headers)

    @app.exception_handler(Exception)
    async def failed(_: Request, exc: Exception) -> Response:
        return _error(500, f"this is a fault of ours, and in the log: {type(exc).__name__}")

    @app.exception_handler(StoreError)
    async def unavailable(_: Request, exc: StoreError) -> Response:
        log.error("question failed error=%s", exc)
        return _error(503, f"the database cannot be read: {exc}")


def _add_questions(app: FastAPI, database: Location) -> None:
    fleet = Devices(database)

    @app.get("/api/events", responses=forms.answers(forms.Events))
    def events(asked: Annotated[forms.EventsForm, Query()]) -> Response:
        """Stored events by device time; page on with `after`, the `next` of the page before."""
        with History(database) as history:
            found = history.events(asked.filter, after=asked.place, limit=asked.limit + 1, newest_first=asked.newest_first)
            return _page_of_events(found, asked.limit)

    @app.get("/api/hourly", responses=forms.answers(forms.Hours))
    def hourly(asked: Annotated[forms.HourlyForm, Query()]) -> Response:
        """Events, strangers and distinct other people of each hour (UTC) of device time."""
        with History(database) as history:
            return _json({"hours": list(history.hourly(asked.filter))})

    @app.get("/api/devices", responses=forms.answers(forms.Devices))
    def devices(asked: Annotated[forms.DevicesForm, Query()]) -> Response:
        """How far each device is stored, and what is missing; by name, `after` that of the last one seen."""
        reading = fleet.read()
        later = (row for row in reading.rows if asked.after is None or row["device"] > asked.after)
        return _list("devices", later, asked.limit, now=reading.at_ms, summary=reading.summary())

    @app.get("/api/gaps", responses=forms.answers(forms.Gaps))
    def gaps(asked: Annotated[forms.GapsForm, Query()]) -> Response:
        """Ranges of seqs that are lost for good."""
        with History(database) as history:
            return _list("gaps", history.gaps(asked.device), asked.limit)

    @app.get("/api/quarantine", responses=forms.answers(forms.Quarantine))
    def quarantine(asked: Annotated[forms.ListForm, Query()]) -> Response:
        """What broke the contract, without the bytes of it: those are for `facewire quarantine show`."""
        with History(database) as history:
            rows = history.quarantine(newest_first=True)
            return _list("quarantine", ({name: row[name] for name in forms.QUARANTINE} for row in rows), asked.limit)


def _add_live(app: FastAPI, database: Location, wall: Wall) -> None:
    @app.get("/api/stream", response_class=Response, responses={200: {"content": {"text/event-stream": {}}}, 503: {"model": forms.Error}})
    async def stream() -> Response:
        """Matches as they come, as server-sent events: `hello`, then `wall`, and `skipped` for who is slow."""
        reader = wall.open(_now_ms())
        return _error(503, "too many streams are open") if reader is None else _Stream(wall, reader)

    metrics = metrics_registry(database)
    metrics.register(_OfStreams(wall))

    @app.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
    def prometheus() -> Response:
        """Prometheus."""
        return Response(exposition.generate_latest(metrics), media_type=exposition.CONTENT_TYPE_LATEST)

    @app.get("/healthz", responses=forms.answers(forms.Health))
    def healthz() -> Response:
        """Whether the database can be read, and whether the broker is there for the live wall."""
        try:
            History(database).close()
        except StoreError as exc:
            log.error("unhealthy error=%s", exc)  # noqa: TRY400  # an outage, no fault of ours
            return _error(503, "the database cannot be read")
        return _json({"database": True, "broker": wall.up})


def _add_page(app: FastAPI, access: Access) -> None:
    @app.api_route("/", methods=["GET", "HEAD"], include_in_schema=False)
    async def page() -> Response:
        return FileResponse(PAGE / "index.html", headers={"cache-control": "no-cache"})

    @app.post("/api/login", status_code=204, response_class=Response, responses={401: {"model": forms.Error}})
    async def login(request: Request) -> Response:
        """Give the token, {"token": …}, for a cookie that stands for it."""
        if not access.admits(await _token_of(request)):
            return _error(401, "this is not the token")
        done = Response(status_code=204)
        done.set_cookie(COOKIE, access.cookie, httponly=True, samesite="strict", secure=request.url.scheme == "https")
        return done

    app.mount("/page", StaticFiles(directory=PAGE))


async def _token_of(request: Request) -> str:
    body = b""
    try:
        async for part in request.stream():
            body += part
            if len(body) > MAX_LOGIN_BYTES:
                raise HTTPException(413, f"a login is over the limit of {MAX_LOGIN_BYTES} bytes")
        return str(json.loads(body)["token"])
    except (ClientDisconnect, ValueError, KeyError, TypeError) as exc:
        raise HTTPException(400, 'a login is {"token": …}') from exc


def _page_of_events(rows: Iterable[Row], limit: int) -> Response:
    texts: list[str] = []
    last, size, more = None, 0, None
    for row in rows:
        if len(texts) == limit or size > MAX_BYTES:
            more = last
            break
        texts.append(_to_json(row))
        last, size = Place.of(row), size + len(texts[-1])
    return _json_text(f'{{"events":[{",".join(texts)}],"next":{_to_json(more and str(more))}}}')


def _list(name: str, rows: Iterable[Row], limit: int, **beside: Any) -> Response:
    shown = list(itertools.islice(rows, limit + 1))
    return _json({**beside, name: shown[:limit], "more": len(shown) > limit})


def _json(value: Any) -> Response:
    return _json_text(_to_json(value))


def _to_json(value: Any) -> str:
    return json.dumps(plain(value), ensure_ascii=False, separators=(",", ":"))


def _json_text(text: str) -> Response:
    return Response(text, media_type="application/json")


def _error(status: int, text: str, headers: Any = None) -> Response:
    return JSONResponse({"error": text}, status, headers)


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


class _Guard:
    """Lets in who may come in, and sets the headers of every answer."""

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
        answer = _error(*refusal, challenge) if refusal else self._app
        await answer(scope, receive, send_with_headers)


class _Stream(Response):
    """The answer that does not end before its reader does, or the server.

    Starlette's own waits for a reader that takes nothing for as long as that one likes.
    """

    def __init__(self, wall: Wall, reader: Reader) -> None:
        self._wall, self._reader = wall, reader
        self.status_code, self.background = 200, None
        self.raw_headers = [(b"content-type", b"text/event-stream"), (b"x-accel-buffering", b"no")]  # nginx would hold it back

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        watching = asyncio.create_task(self._close_when_gone(receive))
        try:
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            async for chunk in self._reader:
                async with asyncio.timeout(STUCK):
                    await send({"type": "http.response.body", "body": chunk, "more_body": True})
            await send({"type": "http.response.body", "body": b""})
        except TimeoutError:
            # uvicorn closes the connection of an answer that is left without its end.
            self._wall.counters.stuck += 1
            log.warning("stream ended, as its reader took nothing seconds=%d", STUCK)
        finally:
            watching.cancel()
            self._wall.leave(self._reader)

    async def _close_when_gone(self, receive: Receive) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        self._reader.close()


class _OfStreams(Collector):
    """What became of the streams, for Prometheus."""

    def __init__(self, wall: Wall) -> None:
        self._wall = wall

    def collect(self) -> Iterator[Metric]:
        counters = self._wall.counters
        yield GaugeMetricFamily("facewire_web_streams", "Streams that are open.", value=self._wall.readers)
        yield CounterMetricFamily("facewire_web_streams_opened", "Streams that were opened.", value=counters.streams)
        yield CounterMetricFamily("facewire_web_streams_refused", "Streams refused, as too many were open.", value=counters.refused)
        yield CounterMetricFamily("facewire_web_streams_stuck", "Streams ended, as their reader took nothing.", value=counters.stuck)
        yield CounterMetricFamily("facewire_web_matches_skipped", "Matches that slow readers were not sent.", value=counters.skipped)
