"""Questions take turns, and end with the client that asked them: on the databases themselves."""

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.types import Message, Receive, Scope, Send
from waiting import wait_until_async

from facewire.errors import StoreError
from facewire_platform.columns import engine
from facewire_platform.history.queries import History
from facewire_platform.store.stopping import STOP, Stop, check_stop
from facewire_platform.store.writer import open_store
from facewire_web import questions
from facewire_web.answers import json_answer
from facewire_web.questions import Questions, client_of, is_question
from facewire_web.turns import MAX_BEGUN_EACH, MAX_RUNNING, MAX_WAITING_EACH, Turns

#: A question that is stopped ends within this time even on a busy machine, s; unstopped it would
#: take hours.
STOPPED_WITHIN = 60.0
FOR_HOURS = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 1000000000000) SELECT count(*) FROM n"


class Client:
    """One question of a client, which may leave."""

    def __init__(self, app: Questions, host: str = "10.0.0.1", path: str = "/api/hourly") -> None:
        self._left = asyncio.Event()
        self.sent: list[Message] = []
        self._scope: Scope = {"type": "http", "path": path, "client": (host, 1)}
        self.task = asyncio.create_task(self._run(app))

    async def _run(self, app: Questions) -> None:
        await app(self._scope, self._receive, self._send)

    async def _receive(self) -> Message:
        await self._left.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Message) -> None:
        self.sent.append(message)

    def leave(self) -> None:
        self._left.set()

    @property
    def status(self) -> int:
        return int(self.sent[0]["status"])


class Asked:
    """An application whose answer takes as long as a function does."""

    def __init__(self, ask: Callable[[], Any]) -> None:
        self._ask = ask
        self.begun = 0
        self.errors: list[str] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.begun += 1
        try:
            answer = json_answer(await asyncio.to_thread(self._ask))
        except StoreError as exc:
            self.errors.append(str(exc))
            answer = json_answer(str(exc))
        await answer(scope, receive, send)


def in_history(location: Any) -> Callable[[], Any]:
    def ask() -> Any:
        with History(location) as history:
            return history.run(FOR_HOURS, ())

    return ask


def in_duckdb() -> Any:
    with engine.opened() as duck:
        return duck.execute("SELECT count(*) FROM range(1000000) a, range(1000000) b WHERE hash(a.range, b.range) = 1").fetchall()


def check_abandoned(ask: Callable[[], Any]) -> None:
    """Ten questions for hours are asked and abandoned; then another one has its turn at once."""

    async def run() -> None:
        turns = Turns()
        app = Asked(ask)
        clients = [Client(Questions(app, turns), f"10.0.0.{number}") for number in range(10)]
        await wait_until_async(lambda: app.begun == MAX_RUNNING)
        for client in clients:
            client.leave()
        _, unstopped = await asyncio.wait({client.task for client in clients}, timeout=STOPPED_WITHIN)
        assert not unstopped
        assert (turns.running, turns.waiting) == (0, 0)
        assert app.begun == MAX_RUNNING  # the others were never asked
        assert len(app.errors) == MAX_RUNNING

    asyncio.run(run())


def test_a_question_to_sqlite_ends_with_its_client(tmp_path: Path) -> None:
    open_store(tmp_path / "x.db").close()
    check_abandoned(in_history(tmp_path / "x.db"))


@pytest.mark.postgresql
def test_a_question_to_postgresql_ends_with_its_client(postgresql: str) -> None:
    open_store(postgresql).close()
    check_abandoned(in_history(postgresql))


def test_a_question_to_column_files_ends_with_its_client() -> None:
    check_abandoned(in_duckdb)


def test_a_question_that_takes_too_long_ends_with_an_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(questions, "ANSWER_WITHIN", 0.2)
    open_store(tmp_path / "x.db").close()

    async def run() -> None:
        app = Asked(in_history(tmp_path / "x.db"))
        client = Client(Questions(app, Turns()))
        await asyncio.wait_for(client.task, STOPPED_WITHIN)
        assert json.loads(client.sent[1]["body"]) == "no answer within 0.2 s: ask for less"

    asyncio.run(run())


def test_a_question_between_two_statements_ends_too() -> None:
    stop = Stop()
    token = STOP.set(stop)
    try:
        stop.ask("the client left")
        with pytest.raises(StoreError, match="the client left"):
            check_stop()
    finally:
        STOP.reset(token)


def test_questions_past_the_queue_are_refused_and_other_clients_are_answered() -> None:
    """400 questions of one client silenced the page for two minutes."""

    async def run() -> None:
        held = asyncio.Event()

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["client"][0] == "flood":
                await held.wait()
            await json_answer("answer")(scope, receive, send)

        app_in_turn = Questions(app, Turns())
        flood = [Client(app_in_turn, "flood") for _ in range(400)]
        await wait_until_async(lambda: sum(client.task.done() for client in flood) == 400 - MAX_BEGUN_EACH - MAX_WAITING_EACH)
        assert {client.status for client in flood if client.task.done()} == {429}
        honest = [Client(app_in_turn, f"10.0.0.{number}") for number in range(50)]
        await wait_until_async(lambda: all(client.task.done() for client in honest))
        assert {client.status for client in honest} == {200}
        held.set()
        await wait_until_async(lambda: all(client.task.done() for client in flood))

    asyncio.run(run())


def test_only_what_reads_the_database_takes_a_turn() -> None:
    assert [path for path in ("/", "/healthz", "/page/x", "/api/stream", "/api/login", "/openapi.json") if is_question(path)] == []
    assert all(map(is_question, ("/api/events", "/api/devices", "/metrics")))


def test_a_client_is_an_address_or_a_network_of_ipv6() -> None:
    assert client_of({"client": ("10.0.0.1", 5)}) == "10.0.0.1"
    assert client_of({"client": ("2001:db8::1", 5)}) == client_of({"client": ("2001:db8::ffff:1", 5)}) == "2001:db8::/64"
    assert client_of({"client": None}) == ""


def test_an_answer_is_whole_and_ends_with_nothing() -> None:
    async def run() -> None:
        transport = httpx.ASGITransport(Questions(Asked(lambda: "x" * 100_000), Turns()))
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            answer = await client.get("/api/events")
        assert (answer.status_code, len(answer.json())) == (200, 100_000)

    asyncio.run(run())
