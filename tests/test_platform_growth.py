"""A question costs what its answer needs, however long the history is.

SQLite counts its steps, and PostgreSQL the pages that it reads.

Each question of the API and of the command line is here, or is named with the reason why it is not.
"""

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import httpx
import pytest
from broker_engines import free_port
from click.testing import CliRunner
from fastapi.routing import APIRoute
from platform_model import BOOT
from platform_store import event_at, run, store_events

from facewire.messages import Status
from facewire_cli.main import COMMANDS, cli
from facewire_platform.columns.builder import Builder
from facewire_platform.store.database import dialect_of
from facewire_platform.store.drivers import Location
from facewire_platform.store.postgresql import PostgresqlDialect
from facewire_platform.store.sqlite import SqliteDialect
from facewire_platform.store.writer import Message, Unreadable, open_store
from facewire_web.access import Access
from facewire_web.api import create_app
from facewire_web.live import Wall

HOUR, DAY = 3_600_000, 86_400_000
#: The history ends here, 2025-11-25 06:00 UTC, and begins the earlier the longer it is.
END = 1_764_050_400_000
#: Each device records an event in every so many ms.
STEP = 20_000
#: Events of each device: more than the rate of a device needs, two hundred pages of the file.
SHORT, LONG = 1_500, 15_000
DEVICES = ("box-1", "box-2", "box-3")

API = {
    "/api/events": "/api/events?limit=50&newest_first=true",
    "/api/hourly": f"/api/hourly?since={END - 2 * HOUR}&until={END}",
    "/api/devices": "/api/devices",
    "/api/gaps": "/api/gaps",
    "/api/quarantine": "/api/quarantine",
    "/metrics": "/metrics",
}
NOT_ASKED_OF_THE_HISTORY = {"/api/stream", "/api/login", "/healthz"}

COMMAND = {
    "status": "status --all-epochs",
    "doctor": "doctor",
    "events": f"events --since {END - 2 * HOUR} --limit 50",
    "gaps": "gaps",
    "report attendance": "report attendance --day 2025-11-25 --tz UTC",
    "report traffic": "report traffic --day 2025-11-25 --by hour --tz UTC",
    "quarantine list": "quarantine list",
}
#: Questions that only column files answer without reading the whole table.
BY_COLUMNS = {
    "report person": "report person 100000 --tz UTC",
    "last of a type": "events --person-type 3 --limit 50 --newest-first -o json",
    "last of a group": "events --group nobody --limit 50 --newest-first -o json",
    "last above a score": "events --min-score 99 --limit 50 --newest-first -o json",
    "all of a person": "events --person 100000 -o json",
    "last of a device and type": "events --device box-1 --person-type 3 --limit 50 -o json",
    "attendance": "report attendance --day 2025-11-25 --tz UTC",
    "traffic": "report traffic --day 2025-11-25 --by hour --tz UTC",
}
#: They write, read all, or ask about one entry of the quarantine or the column files.
NOT_A_QUESTION = {
    *("simulate", "export", "quarantine drop", "quarantine retry", "quarantine show"),
    *(f"platform {name}" for name in ("run", "migrate", "backup", "restore", "purge", "forget", "web")),
    *(f"platform columns {name}" for name in ("build", "list", "drop")),
}


def history(location: Location, events: int, kind: str) -> Location:
    """Devices with a status and a gap, a purged first hour, a message in quarantine."""
    with open_store(location) as store:
        for number, device in enumerate(DEVICES):
            epoch = f"{number:016x}"
            made = (
                event_at(seq, END - (events - seq) * STEP, identity_id=str(seq % 7), person_type=1)
                for seq in range(1, events + 1)
                if seq != events - 5
            )
            store_events(store, device, *made, epoch=epoch, now_ms=END)
            # The first box has a wrong clock, so attendance looks up the bridge's times.
            status = Status(BOOT, True, END, epoch, head=events, oldest=1, cursor=0, capacity=10_000, source_offset=0 if number else HOUR)
            store.store([Message(device, status, END)])
            store.store([Message(device, Unreadable(f"facewire/v1/{device}/history", "not msgpack", b"?"), END)])
    run(location, f"DELETE FROM event WHERE timestamp < {END - events * STEP + HOUR}")
    if kind == "analyzed":
        run(location, "ANALYZE")
    if kind == "with column files":
        with Builder(location) as builder:
            list(builder.build())
    return location


def both(kind: str, new: Callable[[], Location]) -> tuple[Location, Location]:
    return history(new(), SHORT, kind), history(new(), LONG, kind)


def new_file(factory: pytest.TempPathFactory) -> Callable[[], Location]:
    return lambda: factory.mktemp("growth") / "x.db"


@pytest.fixture(scope="module", params=["as it is", "analyzed", pytest.param("postgresql", marks=pytest.mark.postgresql)])
def histories(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Location, Location]:
    if request.param == "postgresql":
        return both("analyzed", request.getfixturevalue("postgresql_server").new_database)
    return both(request.param, new_file(tmp_path_factory))


@pytest.fixture(scope="module")
def copied(tmp_path_factory: pytest.TempPathFactory) -> tuple[Location, Location]:
    return both("with column files", new_file(tmp_path_factory))


class Cost:
    """Counts what the databases do, in every connection that is opened."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._counted = 0
        open_lite, open_server = SqliteDialect.open, PostgresqlDialect.open
        monkeypatch.setattr(SqliteDialect, "open", lambda dialect, mode: self._stepped(open_lite(dialect, mode)))
        monkeypatch.setattr(PostgresqlDialect, "open", lambda dialect, mode: self._explained(open_server(dialect, mode)))

    def of(self, question: Callable[[], object]) -> int:
        self._counted = 0
        question()
        return self._counted

    def _stepped(self, database: Any) -> Any:
        def step() -> None:
            self._counted += 1

        database.connection().set_progress_handler(step, 1)
        return database

    def _explained(self, database: Any) -> Any:
        execute = database.execute_sql

        def explain(sql: str, *more: Any) -> Any:
            if sql.startswith(("SELECT", "WITH")) and "event" in sql:
                ((found,),) = execute(f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {sql}", *more).fetchall()
                self._counted += sum(found[0]["Plan"][f"Shared {kind} Blocks"] for kind in ("Hit", "Read"))
            return execute(sql, *more)

        database.execute_sql = explain
        return database


@pytest.fixture
def cost(monkeypatch: pytest.MonkeyPatch) -> Cost:
    return Cost(monkeypatch)


def check(histories: tuple[Location, Location], cost: Cost, ask: Callable[[Location], str]) -> None:
    answers: list[str] = []
    short, long = (cost.of(lambda: answers.append(ask(location))) for location in histories)  # noqa: B023
    assert all(answers)
    # The index of the longer history is a level deeper, which is one more page of three.
    factor = 1.3 if isinstance(histories[0], Path) else 1.6
    assert short * 0.5 <= long <= short * factor + 100, f"{short} in {SHORT} events of a device, {long} in {LONG}"


def get(location: Location, url: str) -> str:
    async def ask() -> httpx.Response:
        transport = httpx.ASGITransport(create_app(location, Wall(), Access(None)))
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            return await client.get(url)

    answer = asyncio.run(ask())
    assert answer.status_code == 200, answer.text
    return answer.text


def call(location: Location, command: str) -> str:
    # A broker may run at the default port, and would be examined.
    port = ["-p", str(free_port())] if command == "doctor" else []
    arguments = [*command.split(), *port, "--database", dialect_of(location).url]
    result = CliRunner().invoke(cli, arguments)
    assert result.exit_code in {0, 3 if command == "doctor" else 0}, result.output
    return result.output


@pytest.mark.parametrize("url", API.values())
def test_an_answer_of_the_api_costs_the_same_in_a_longer_history(histories: tuple[Location, Location], cost: Cost, url: str) -> None:
    check(histories, cost, lambda location: get(location, url))


@pytest.mark.parametrize("command", COMMAND.values())
def test_an_answer_of_a_command_costs_the_same_in_a_longer_history(histories: tuple[Location, Location], cost: Cost, command: str) -> None:
    check(histories, cost, lambda location: call(location, command))


@pytest.mark.parametrize("command", BY_COLUMNS.values())
def test_an_answer_from_column_files_costs_the_same_in_a_longer_history(
    copied: tuple[Location, Location], cost: Cost, command: str
) -> None:
    short, long = (cost.of(lambda: call(location, command)) for location in copied)  # noqa: B023
    # A file is a row of the table that names them; the short history has one.
    assert long < short * 1.3 + 100, f"{short} in {SHORT} events of a device, {long} in {LONG}"


def test_each_question_of_the_api_is_measured(tmp_path: Path) -> None:
    open_store(tmp_path / "x.db").close()
    app: Any = create_app(tmp_path / "x.db", Wall(), Access(None))
    while not hasattr(app, "routes"):
        app = app._app
    routes = {route.path for route in app.routes if isinstance(route, APIRoute) and route.include_in_schema}
    assert routes == set(API) | NOT_ASKED_OF_THE_HISTORY


def test_each_question_of_the_command_line_is_measured() -> None:
    context = click.Context(cli)
    found = {name for top in COMMANDS for name in leaves(cli.get_command(context, top), top)}
    assert found == set(COMMAND) | {"report person"} | NOT_A_QUESTION


def leaves(command: click.Command | None, name: str) -> Iterator[str]:
    """The commands that are given a platform's database."""
    if isinstance(command, click.Group):
        for sub, below in command.commands.items():
            yield from leaves(below, f"{name} {sub}")
    elif command and any(parameter.name == "database" for parameter in command.params):
        yield name
