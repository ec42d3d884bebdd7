import asyncio
import json
from pathlib import Path
from typing import Any

import httpx
import pytest
from platform_model import BOOT, EPOCH, batch
from platform_store import event_at
from waiting import wait_until

import facewire_web.answers
import facewire_web.streams
from facewire.messages import Status
from facewire_platform.history.queries import History
from facewire_platform.store.drivers import Location
from facewire_platform.store.writer import Message, Unreadable, open_store
from facewire_web.access import HEADERS, Access
from facewire_web.api import PAGE, create_app
from facewire_web.live import Wall
from facewire_web.streams import EventStream

TOKEN = "correct-horse-battery"  # noqa: S105  # of a test
HOUR = 3_600_000
#: An hour's beginning.
AT = 1_764_054_000_000


def fill(location: Location) -> None:
    """Two devices whose events are in the same moments, strangers, a gap, a broken message."""
    people = [{"identity_id": str(n % 3), "identity_name": "小明", "person_type": 1} for n in range(30)]
    strangers = [{"identity_id": f"s{n}", "identity_name": "", "person_type": 4, "score": 0.25} for n in range(10)]
    events = [event_at(seq, AT + (seq // 4) * HOUR // 4, **who) for seq, who in enumerate([*people, *strangers], 1)]
    with open_store(location) as store:
        store.store([Message("box-1", batch(0, 40, *events), 1_000), Message("box-2", batch(0, 25, *events[:10], *events[20:25]), 2_000)])
        store.store([Message("box-1", Status(BOOT, online=True, at=1, epoch=EPOCH, head=43, period=20.0, capacity=10_000), 3_000)])
        store.store(
            [Message("box-1", Unreadable("facewire/v1/box-1/history", f"not msgpack {n}", b"secret %d" % n), 4_000) for n in range(3)]
        )


class Client:
    """A browser without a page: keeps its cookies."""

    def __init__(self, location: Location, token: str | None = None, *, wall: Wall | None = None, url: str = "http://localhost") -> None:
        self._app = create_app(location, wall or Wall(), Access(token))
        self._url = url
        self._cookies = httpx.Cookies()

    def get(self, path: str, **more: Any) -> httpx.Response:
        return asyncio.run(self._ask("GET", path, **more))

    def post(self, path: str, **more: Any) -> httpx.Response:
        return asyncio.run(self._ask("POST", path, **more))

    async def _ask(self, method: str, path: str, **more: Any) -> httpx.Response:
        transport = httpx.ASGITransport(self._app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url=self._url, cookies=self._cookies) as client:
            answer = await client.request(method, path, **more)
            self._cookies.update(answer.cookies)
            return answer


@pytest.fixture(scope="module", params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgresql)])
def client(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Client:
    """A client of a database that no test changes."""
    if request.param == "sqlite":
        location: Location = tmp_path_factory.mktemp("web") / "platform.db"
    else:
        location = request.getfixturevalue("postgresql_server").new_database()
    fill(location)
    return Client(location)


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Client:
    """A client of a new database."""
    path = tmp_path_factory.mktemp("web") / "empty.db"
    open_store(path).close()
    return Client(path)


def get(client: Client, path: str, **parameters: Any) -> Any:
    answer = client.get(path, params=parameters)
    assert answer.status_code == 200, answer.text
    return answer.json()


def error(client: Client, path: str, status: int) -> str:
    answer = client.get(path)
    assert answer.status_code == status, answer.text
    assert answer.json().keys() == {"error"}
    text: str = answer.json()["error"]
    return text


@pytest.mark.parametrize("newest_first", [False, True])
@pytest.mark.parametrize("limit", [1, 7, 55, 56])
def test_paging_by_after_gives_each_event_once_and_in_order(client: Client, limit: int, newest_first: bool) -> None:
    seen: list[tuple[int, str, int]] = []
    after, pages = None, 0
    while pages == 0 or after:
        page = get(client, "/api/events", limit=limit, newest_first=newest_first, **({"after": after} if after else {}))
        seen += [(row["timestamp"], row["device"], row["seq"]) for row in page["events"]]
        after, pages = page["next"], pages + 1
    assert pages == -(-55 // limit)
    assert len(set(seen)) == len(seen) == 55
    assert seen == sorted(seen, reverse=newest_first)


def test_paging_keeps_the_filter(client: Client) -> None:
    first = get(client, "/api/events", device="box-1", person_type=4, limit=6)
    rest = get(client, "/api/events", device="box-1", person_type=4, limit=6, after=first["next"])
    assert [row["seq"] for row in (*first["events"], *rest["events"])] == list(range(31, 41))
    assert rest["next"] is None


@pytest.mark.parametrize(
    ("parameters", "count"),
    [
        ({}, 55),
        ({"device": "box-2"}, 15),
        ({"device": "box-3"}, 0),
        ({"person": "小明"}, 45),
        ({"person": "2", "device": "box-1"}, 10),
        ({"person_type": 4}, 10),
        ({"min_score": 0.5}, 45),
        ({"since": AT + HOUR, "until": AT + 2 * HOUR, "device": "box-1"}, 16),
        ({"since": "2025-11-25T07:00:00Z", "until": "2025-11-25T07:15Z", "device": "box-1"}, 3),
        ({"since": "10m"}, 0),
        ({"group": "staff"}, 0),
    ],
    ids=str,
)
def test_events_are_filtered_as_by_the_command(client: Client, parameters: dict[str, Any], count: int) -> None:
    assert len(get(client, "/api/events", limit=1000, **parameters)["events"]) == count


def test_a_page_with_photographs_ends_early_and_the_next_one_continues(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(facewire_web.answers, "MAX_BYTES", 3_000)
    with open_store(tmp_path / "x.db") as store:
        store.store([Message("box-1", batch(0, 5, *(event_at(seq, seq, extra={"photo": b"\xff" * 900}) for seq in range(1, 6))), 1)])
    client = Client(tmp_path / "x.db")
    first = get(client, "/api/events")
    rest = get(client, "/api/events", after=first["next"])
    assert [[row["seq"] for row in page["events"]] for page in (first, rest)] == [[1, 2, 3], [4, 5]]
    assert first["events"][0]["photo"].startswith("////")


def test_values_that_json_cannot_express_are_replaced(tmp_path: Path) -> None:
    with open_store(tmp_path / "x.db") as store:
        store.store([Message("box-1", batch(0, 1, event_at(1, 1, extra={"nan": float("nan"), "deep": {"b": b"\x00"}, "device": 5})), 1)])
    client = Client(tmp_path / "x.db")
    (row,) = get(client, "/api/events")["events"]
    assert (row["nan"], row["deep"], row["device"], row["event.device"]) == (None, {"b": "AA=="}, "box-1", 5)


def test_hours_count_events_strangers_and_distinct_others(client: Client) -> None:
    hours = get(client, "/api/hourly", since=AT, until=AT + 3 * HOUR, device="box-1")["hours"]
    assert hours == [
        {"hour": AT, "events": 15, "strangers": 0, "people": 3},
        {"hour": AT + HOUR, "events": 16, "strangers": 1, "people": 3},
        {"hour": AT + 2 * HOUR, "events": 9, "strangers": 9, "people": 0},
    ]
    assert sum(hour["events"] for hour in get(client, "/api/hourly", since=AT, until=AT + 3 * HOUR)["hours"]) == 55


def test_a_month_of_hours_is_answered(client: Client) -> None:
    assert len(get(client, "/api/hourly", since="31d")["hours"]) in {744, 745}
    assert len(get(client, "/api/hourly", since=AT, until=AT + 744 * HOUR)["hours"]) == 744


def test_the_first_and_last_hour_are_cut_at_since_and_until(client: Client) -> None:
    hours = get(client, "/api/hourly", since=AT + HOUR // 4, until=AT + HOUR + 1, device="box-1")["hours"]
    assert [(hour["hour"], hour["events"]) for hour in hours] == [(AT, 12), (AT + HOUR, 4)]


def test_hours_are_those_of_the_last_day_by_default(client: Client) -> None:
    assert len(get(client, "/api/hourly")["hours"]) in {24, 25}
    assert len(get(client, "/api/hourly", until=AT)["hours"]) == 24
    assert get(client, "/api/hourly", since=AT, until=AT)["hours"] == []


def test_devices_are_assessed_and_summed_up(client: Client) -> None:
    answer = get(client, "/api/devices")
    assert [(row["device"], row["state"], row["lag"], row["gaps"]) for row in answer["devices"]] == [
        ("box-1", "silent", 3, 0),
        ("box-2", "offline", 0, 10),
    ]
    assert answer["summary"] == {"online": 0, "silent": 1, "offline": 1, "devices": 2, "lag": 3, "gaps": 10, "quarantined": 0}
    assert answer["more"] is False


def test_devices_are_paged_by_name(client: Client) -> None:
    first = get(client, "/api/devices", limit=1)
    rest = get(client, "/api/devices", limit=1, after=first["devices"][-1]["device"])
    assert [row["device"] for row in (*first["devices"], *rest["devices"])] == ["box-1", "box-2"]
    assert (first["more"], rest["more"]) == (True, False)


def test_gaps_are_ranges(client: Client) -> None:
    assert get(client, "/api/gaps") == {
        "gaps": [{"device": "box-2", "epoch": EPOCH, "first": 11, "last": 20, "events": 10, "declared_at": 2_000, "reason": "missing"}],
        "more": False,
    }
    assert get(client, "/api/gaps", device="box-1")["gaps"] == []


def test_quarantine_is_listed_newest_first_and_without_bytes(client: Client) -> None:
    answer = get(client, "/api/quarantine", limit=2)
    assert [item["reason"] for item in answer["quarantine"]] == ["not msgpack 2", "not msgpack 1"]
    assert answer["more"] is True
    assert "secret" not in json.dumps(answer)


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("/api/events?limit=ten", "limit 'ten': input should be a valid integer"),
        ("/api/events?limit=0", "limit '0': input should be greater than or equal to 1"),
        ("/api/events?limit=1001", "limit '1001': input should be less than or equal to 1000"),
        ("/api/events?since=yesterday", "since: 'yesterday' is not a moment: 10m (ago)"),
        ("/api/events?device=a%20b", "device: device 'a b' is not 1 to 64 of"),
        ("/api/events?min_score=nan", "min_score 'nan': input should be a finite number"),
        ("/api/events?person_type=9999999999999999999999", "person_type '9999999999999999999999'"),
        ("/api/events?person=a%00b", "person 'a\\x00b': contains NUL"),
        ("/api/events?after=12", "after: '12' is not TIMESTAMP:DEVICE:EPOCH:SEQ"),
        ("/api/events?after=1:box-1:0123456789abcdef:9999999999999999999", "is not TIMESTAMP:DEVICE:EPOCH:SEQ"),
        ("/api/events?persn=a", "there is no parameter 'persn'"),
        ("/api/events?limit=1&limit=x", "limit 'x'"),
        ("/api/hourly?since=2020-01-01", "days, at most 31 are answered: ask for one month at a time"),
        ("/api/hourly?since=32d", "from since to until are 32.00 days, at most 31"),
        (f"/api/hourly?since={AT}&until={AT + 31 * 24 * HOUR + 15 * 60_000}", "31.01 days, at most 31"),
        ("/api/hourly?since=1h&until=2h", "since is 1.00 hours after until"),
        ("/api/gaps?device=%2B", "device: device '+' is not"),
        ("/api/quarantine?limit=-1", "limit '-1'"),
        ("/api/devices?epochs=all", "there is no parameter 'epochs'"),
    ],
)
def test_a_bad_parameter_is_named_with_its_value(empty: Client, path: str, words: str) -> None:
    assert words in error(empty, path, 422)


def test_a_place_in_an_unknown_stream_still_works_as_after(client: Client) -> None:
    page = get(client, "/api/events", after=f"{AT + HOUR}:gone:{EPOCH}:9", device="box-1")
    assert page["events"][0]["timestamp"] == AT + HOUR


@pytest.mark.parametrize(
    "path", ["/nothing", "/api/", "/api/nothing", "/page/", "/page/nothing.js", "/page/../web.py", "/page/%2e%2e/web.py", "/docs"]
)
def test_a_missing_path_is_named(empty: Client, path: str) -> None:
    assert error(empty, path, 404).startswith("there is no /")


def test_a_post_to_a_question_is_refused(empty: Client) -> None:
    answer = empty.post("/api/events")
    assert (answer.status_code, answer.json()) == (405, {"error": "Method Not Allowed"})


@pytest.mark.parametrize("path", ["/api/events", "/api/devices", "/api/hourly", "/api/gaps", "/api/quarantine"])
def test_a_missing_database_is_an_outage_until_it_is_back(tmp_path: Path, path: str) -> None:
    client = Client(tmp_path / "x.db")
    assert "there is no database" in error(client, path, 503)
    assert error(client, "/healthz", 503) == "cannot read the database"
    open_store(tmp_path / "x.db").close()
    assert client.get(path).status_code == 200
    wait_until(lambda: client.get("/healthz").status_code == 200)  # a look is good for a second
    assert get(client, "/healthz") == {"database": True, "broker": False}


def test_a_bug_is_reported_without_its_data(empty: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("a name of a person")

    monkeypatch.setattr(History, "gaps", fail)
    assert error(empty, "/api/gaps", 500) == "the server has a bug (RuntimeError); see its log"


def test_every_answer_has_the_headers(empty: Client) -> None:
    for path in ("/", "/page/page.js", "/page/page.css", "/api/events", "/nothing", "/healthz", "/api/events?limit=x"):
        headers = empty.get(path).headers
        assert {name: headers[name] for name in HEADERS} == HEADERS
        assert headers["cache-control"] == ("no-cache" if path == "/" or path.startswith("/page") else "no-store")
    assert empty.get("/", headers={"host": "evil.example"}).headers["x-content-type-options"] == "nosniff"


def test_the_page_has_no_inline_code_and_loads_nothing_from_elsewhere() -> None:
    assert sorted(path.name for path in PAGE.iterdir()) == ["index.html", "page.css", "page.js"]
    html, css, script = ((PAGE / name).read_text() for name in ("index.html", "page.css", "page.js"))
    for text in (html.replace("xmlns='http://www.w3.org/2000/svg'", ""), css, script.replace("http://www.w3.org/2000/svg", "")):
        assert "http:" not in text
        assert "https:" not in text
        assert "//cdn" not in text
    assert "<style" not in html
    assert "style=" not in html
    assert "onclick" not in html
    assert not any(word in script for word in ("innerHTML", "insertAdjacentHTML", "outerHTML", "document.write", "eval("))


def test_metrics_are_of_the_database_and_of_the_streams(client: Client) -> None:
    text = client.get("/metrics").text
    assert 'facewire_device_lag_events{device="box-1"} 3.0' in text or 'facewire_device_lag{device="box-1"} 3.0' in text, text
    assert "facewire_web_streams 0.0" in text
    assert "facewire_web_matches_skipped_total 0.0" in text


def test_openapi_describes_every_answer(empty: Client) -> None:
    answer = get(empty, "/openapi.json")
    assert set(answer["paths"]) == {
        *("/api/events", "/api/hourly", "/api/devices", "/api/gaps", "/api/quarantine", "/api/stream", "/api/login"),
        *("/metrics", "/healthz"),
    }
    since = next(parameter for parameter in answer["paths"]["/api/events"]["get"]["parameters"] if parameter["name"] == "since")
    assert "10m (ago)" in json.dumps(since)


@pytest.mark.parametrize("path", ["/api/events", "/api/hourly", "/api/devices", "/api/gaps", "/api/quarantine", "/healthz"])
def test_answers_are_as_openapi_says(client: Client, path: str) -> None:
    import jsonschema

    answer = get(client, "/openapi.json")
    schema = answer["paths"][path]["get"]["responses"]["200"]["content"]["application/json"]["schema"]
    jsonschema.validate(get(client, path), {**schema, "components": answer["components"]})


def test_the_api_asks_for_the_token_and_the_page_signs_in(tmp_path: Path) -> None:
    open_store(tmp_path / "x.db").close()
    client = Client(tmp_path / "x.db", TOKEN)
    assert "this needs a token" in error(client, "/api/events", 401)
    assert client.get("/api/events").headers["www-authenticate"] == "Bearer"
    assert client.get("/api/events", headers={"authorization": f"Bearer {TOKEN}"}).status_code == 200
    assert client.get("/").status_code == 200
    assert client.post("/api/login", json={"token": "a-wrong-token-as-long"}).status_code == 401
    assert client.get("/api/events").status_code == 401
    done = client.post("/api/login", json={"token": TOKEN})
    assert done.status_code == 204
    cookie = done.headers["set-cookie"]
    assert all(word in cookie for word in ("HttpOnly", "SameSite=strict", "Path=/"))
    assert "Secure" not in cookie
    assert TOKEN not in cookie
    assert client.get("/api/events").status_code == 200


def test_behind_tls_the_cookie_is_secure(tmp_path: Path) -> None:
    client = Client(tmp_path / "x.db", TOKEN, url="https://platform.example")
    assert "Secure" in client.post("/api/login", json={"token": TOKEN}).headers["set-cookie"]


@pytest.mark.parametrize(
    ("body", "status"), [(b"", 400), (b"[]", 400), (b"{}", 400), (b"\xff", 400), (b"x" * 5_000, 413), (b'{"token": null}', 401)]
)
def test_a_malformed_login_is_refused(tmp_path: Path, body: bytes, status: int) -> None:
    client = Client(tmp_path / "x.db", TOKEN)
    assert client.post("/api/login", content=body).status_code == status


def test_a_server_without_a_token_refuses_every_login(empty: Client) -> None:
    assert empty.post("/api/login", json={"token": ""}).status_code == 401


def stream(send: Any, receive: Any) -> Wall:
    """Serve a stream of a wall to a client with these functions."""
    wall = Wall()

    async def run() -> None:
        reader = wall.open(1)
        assert reader is not None
        async with asyncio.timeout(10):
            await EventStream(wall, reader)({"type": "http"}, receive, send)

    asyncio.run(run())
    return wall


def test_a_client_that_reads_nothing_is_dropped_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(facewire_web.streams, "STUCK", 0.01)

    async def take(message: Any) -> None:
        if message["type"] == "http.response.body":
            await asyncio.Event().wait()

    async def stay() -> None:
        await asyncio.Event().wait()

    wall = stream(take, stay)
    assert (wall.readers, wall.counters.stuck) == (0, 1)


def test_a_stream_ends_when_its_client_leaves() -> None:
    took: list[str] = []

    async def take(message: Any) -> None:
        took.append(message["type"])

    async def leave() -> Any:
        return {"type": "http.disconnect"}

    wall = stream(take, leave)
    assert (wall.readers, wall.counters.stuck) == (0, 0)
    assert took[0] == "http.response.start"


def test_too_many_streams_are_refused(tmp_path: Path) -> None:
    wall = Wall()
    wall.close()
    client = Client(tmp_path / "x.db", wall=wall)
    assert error(client, "/api/stream", 503) == "too many streams are open"
