"""The routes of the HTTP API and the page.

    /                 the page; its files under /page/
    /api/…            the questions of `queries.History`, and the live stream
    /metrics          Prometheus          /healthz  for supervisors          /openapi.json  the API

Each question opens the database on the thread that answers it, and closes it: one thread owns a
connection, and the next question finds a database that was restored or came back.
"""

import json
import logging
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Final

from fastapi import FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.staticfiles import StaticFiles
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import FileResponse, Response
from starlette.types import ASGIApp

from facewire.errors import StoreError
from facewire_platform.health.readings import Readings
from facewire_platform.history.queries import History
from facewire_platform.store.drivers import Location
from facewire_platform.store.stopping import STOP
from facewire_system.clock import now_ms
from facewire_web import forms
from facewire_web.access import COOKIE, Access
from facewire_web.answers import error_answer, events_answer, json_answer, list_answer
from facewire_web.guard import Guard
from facewire_web.healthz import Health
from facewire_web.live import Wall
from facewire_web.metrics import CONTENT_TYPE, WebMetrics
from facewire_web.questions import Questions, client_of
from facewire_web.streams import EventStream
from facewire_web.turns import Turns

log = logging.getLogger(__name__)

PAGE: Final = Path(__file__).parent / "page"
#: The longest body that a login may have.
MAX_LOGIN_BYTES: Final = 4_096


def create_app(database: Location, wall: Wall, access: Access) -> ASGIApp:
    """The application; its server also has to run the wall (`server`)."""
    app = FastAPI(
        title="facewire", version=version("facewire"), docs_url=None, redoc_url=None, summary="Face-recognition events of a platform."
    )
    readings = Readings(database)
    _add_errors(app)
    _add_questions(app, database, readings)
    _add_live(app, wall)
    turns = Turns()
    _add_health(app, wall, WebMetrics(readings, wall, turns), Health(database))
    _add_page(app, access)
    return Guard(Questions(app, turns), access)


def _add_errors(app: FastAPI) -> None:
    @app.exception_handler(RequestValidationError)
    async def unprocessable(_: Request, exc: RequestValidationError) -> Response:
        return error_answer(422, "; ".join(forms.sentence(error) for error in exc.errors()))

    @app.exception_handler(HTTPException)
    async def refused(request: Request, exc: HTTPException) -> Response:
        text = f"there is no {request.url.path}" if exc.status_code == 404 else str(exc.detail)
        return error_answer(exc.status_code, text, exc.headers)

    @app.exception_handler(Exception)
    async def failed(_: Request, exc: Exception) -> Response:
        return error_answer(500, f"the server has a bug ({type(exc).__name__}); see its log")

    @app.exception_handler(StoreError)
    async def unavailable(_: Request, exc: StoreError) -> Response:
        stop = STOP.get()
        if stop is not None and stop.reason is not None:
            log.debug("question stopped reason=%s", stop.reason)
            return error_answer(503, stop.reason)
        log.error("question failed error=%s", exc)
        return error_answer(503, f"cannot read the database: {exc}")


def _add_questions(app: FastAPI, database: Location, readings: Readings) -> None:
    @app.get("/api/events", responses=forms.answers(forms.Events))
    def events(asked: Annotated[forms.EventsForm, Query()]) -> Response:
        """Stored events by device time. For the next page, give this page's `next` as `after`."""
        with History(database) as history:
            rows = history.events(asked.filter, after=asked.place, limit=asked.limit + 1, newest_first=asked.newest_first)
            return events_answer(rows, asked.limit)

    @app.get("/api/hourly", responses=forms.answers(forms.Hours))
    def hourly(asked: Annotated[forms.HourlyForm, Query()]) -> Response:
        """Events, strangers and distinct other people of each hour (UTC) of device time."""
        with History(database) as history:
            return json_answer({"hours": list(history.hourly(asked.filter))})

    @app.get("/api/devices", responses=forms.answers(forms.Devices))
    def devices(asked: Annotated[forms.DevicesForm, Query()]) -> Response:
        """How far each device is stored, and what is missing, by name.

        For the next page, give the last name as `after`.
        """
        reading = readings.read()
        later = (row for row in reading.devices if asked.after is None or row["device"] > asked.after)
        return list_answer("devices", later, asked.limit, now=reading.at_ms, summary=reading.summary)

    @app.get("/api/gaps", responses=forms.answers(forms.Gaps))
    def gaps(asked: Annotated[forms.GapsForm, Query()]) -> Response:
        """Ranges of seqs that are lost for good."""
        with History(database) as history:
            return list_answer("gaps", history.gaps(asked.device), asked.limit)

    @app.get("/api/quarantine", responses=forms.answers(forms.Quarantine))
    def quarantine(asked: Annotated[forms.ListForm, Query()]) -> Response:
        """Messages and events that broke the contract, newest first.

        Their bytes are left out; `facewire quarantine show` has them.
        """
        with History(database) as history:
            rows = history.quarantine(newest_first=True)
            return list_answer("quarantine", ({name: row[name] for name in forms.QUARANTINE} for row in rows), asked.limit)


def _add_live(app: FastAPI, wall: Wall) -> None:
    @app.get("/api/stream", response_class=Response, responses={200: {"content": {"text/event-stream": {}}}, 503: {"model": forms.Error}})
    async def stream(request: Request) -> Response:
        """Matches as they arrive, as server-sent events.

        First `hello`, then `wall`, and `skipped` if the client reads too slowly.
        """
        reader = wall.open(now_ms(), client_of(request.scope))
        return error_answer(503, "too many streams are open") if reader is None else EventStream(wall, reader)


def _add_health(app: FastAPI, wall: Wall, metrics: WebMetrics, health: Health) -> None:
    @app.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
    def prometheus() -> Response:
        """Prometheus."""
        return Response(metrics.text(), media_type=CONTENT_TYPE)

    @app.get("/healthz", responses=forms.answers(forms.Health))
    async def healthz() -> Response:
        """Whether the server can read the database, and has a connection to the broker."""
        if not await health.is_readable():
            return error_answer(503, "cannot read the database")
        return json_answer({"database": True, "broker": wall.up})


def _add_page(app: FastAPI, access: Access) -> None:
    @app.api_route("/", methods=["GET", "HEAD"], include_in_schema=False)
    async def page() -> Response:
        return FileResponse(PAGE / "index.html", headers={"cache-control": "no-cache"})

    @app.post("/api/login", status_code=204, response_class=Response, responses={401: {"model": forms.Error}})
    async def login(request: Request) -> Response:
        """Exchange the token, {"token": …}, for a cookie."""
        if not access.admits(await _token_of(request)):
            return error_answer(401, "this is not the token")
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
                raise HTTPException(413, f"a login may have {MAX_LOGIN_BYTES} bytes, this one has more")
        return str(json.loads(body)["token"])
    except (ClientDisconnect, ValueError, KeyError, TypeError, RecursionError) as exc:
        raise HTTPException(400, 'a login looks like this: {"token": …}') from exc
