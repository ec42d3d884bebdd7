"""`bridge sophon` against boxes that know nothing of it: SE3 posts, V5 and V6 are asked."""

import base64
import gzip
import hashlib
import http.client
import json
import logging
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from box_sophon import Se3, Server
from bridge_scene import Stores, sophon_bridge, write_settings
from waiting import wait_until

from facewire.errors import StoreError
from facewire_bridge import fetcher, post_app
from facewire_bridge.member import Member
from facewire_bridge.settings import read_settings
from facewire_broker import embedded
from facewire_mqtt.address import Address

pytestmark = pytest.mark.network

BOXES = Path(__file__).parent / "data" / "boxes"


@pytest.fixture(scope="module")
def broker() -> Iterator[Address]:
    with embedded.running() as address:
        yield address


Make = Callable[[str], tuple[Path, Stores]]


@pytest.fixture
def make(broker: Address, tmp_path: Path) -> Make:
    def made(tables: str) -> tuple[Path, Stores]:
        path = write_settings(tmp_path, broker, f'[sophon]\nlisten = "127.0.0.1:0"\n{tables}')
        return path, Stores(read_settings(path))

    return made


SE3 = '[sophon.device.hall-1]\nid = "box-1"\n'


def url(port: int, rest: str = "box-1") -> str:
    return f"http://127.0.0.1:{port}/sophon/{rest}"


def post(port: int, path: str, body: bytes, **headers: str) -> tuple[int, Any]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("POST", path, body, {name.replace("_", "-"): value for name, value in headers.items()})
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())
    finally:
        connection.close()


@pytest.mark.parametrize(("form", "batch"), [("json", 1), ("json", 7), ("form-data", 1)])
def test_an_se3s_events_are_recorded_once_whichever_lane_brings_them(make: Make, form: str, batch: int) -> None:
    path, stores = make(SE3)
    with sophon_bridge(path) as (port, _sources), Se3(url(port), period=0.05, form=form, batch=batch, lose_answer=0.3) as box:
        for number in range(20):
            box.compare(0.73 if number % 2 else 0.16, 1 if number % 2 else 4)
        box.wait_uploaded()
        assert box.status() in {0, 200}
    events = stores.events("hall-1")
    assert sorted(event["identity_id"] for event in events) == sorted(one.identity_id for one in box.passed)
    assert {event["identity_id"] for event in stores.matches("hall-1")} == {one.identity_id for one in box.passed if one.score > 0.62}
    assert {json.dumps(json.loads(content)) for _, status, content in box.answers if status == 200} == {
        '{"status": 0, "code": 0, "message": "SUCCESS", "data": null}'
    }


def test_a_history_copy_that_comes_first_is_history_only(make: Make) -> None:
    path, stores = make(SE3)
    with sophon_bridge(path) as (port, _sources), Se3(url(port), period=60) as box:
        one = box.compare(0.9, realtime=False)
        assert box.post("history", box.body(one, history=True)) == 200
        assert box.post("realtime", box.body(one)) == 200
    assert len(stores.events("hall-1")) == 1
    assert stores.matches("hall-1") == []


@pytest.mark.parametrize("shape", ["se3_v2_realtime_post", "se3_v2_history_post", "se5_v5_history_post", "se_v6_history_post"])
def test_every_shape_that_is_posted_is_recorded(make: Make, shape: str) -> None:
    path, stores = make(SE3)
    kind = "realtime" if "realtime" in shape else "history"
    with sophon_bridge(path) as (port, _sources):
        body = (BOXES / f"{shape}.json").read_bytes()
        for _ in range(2):
            assert post(port, f"/sophon/box-1/{kind}", body)[0] == 200
        assert post(port, "/sophon/box-1/history", gzip.compress(body), Content_Encoding="gzip")[0] == 200
    assert len(stores.events("hall-1")) == 1


def test_three_photographs_of_any_size_are_named_by_their_hashes(make: Make) -> None:
    path, stores = make(SE3)
    data = b"\xff\xd8\xff" + os.urandom(300_000)
    with sophon_bridge(path) as (port, _sources), Se3(url(port), period=0.05, picture=base64.b64encode(data).decode()) as box:
        box.compare(0.9)
        box.wait_uploaded()
    (event,) = stores.events("hall-1")
    named: dict[str, Any] = {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data), "kind": "image/jpeg"}
    assert [event["reg_pic"], event["ext_data"]["spot_pic"], event["ext_data"]["recognize_face"]] == [named] * 3
    assert (stores.folder / "hall-1.db.photos" / named["sha256"][:2] / named["sha256"]).read_bytes() == data


def test_a_status_is_kept_and_answered(make: Make) -> None:
    path, _ = make(SE3)
    with sophon_bridge(path) as (port, sources):
        body = (BOXES / "se3_device_status_post.json").read_bytes()
        assert post(port, "/sophon/box-1/status", body)[0] == 200
        assert sources[0].status["gateway_status"] == "online"


def test_poison_is_kept_raw_and_answered_with_success(make: Make) -> None:
    path, stores = make(SE3)
    with sophon_bridge(path) as (port, sources):
        for body in (b"noise", b'{"timestamp": "never"}', b"noise"):
            assert post(port, "/sophon/box-1/history", body)[0] == 200
        assert sources[0].member.counts | {} == {"recorded": 0, "repeated": 1, "too_old": 0, "poison": 2, "refused": 0}
    assert stores.head("hall-1") == 2
    assert b"noise" in [file.read_bytes() for file in (stores.folder / "hall-1.db.poison").glob("??/*")]


def test_a_post_that_cannot_be_recorded_now_is_answered_with_503(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    path, stores = make(SE3)
    record, full = Member.record, [True]

    def fail(self: Member, *args: Any, **more: Any) -> Any:
        if full[0]:
            raise StoreError("disk is full")
        return record(self, *args, **more)

    monkeypatch.setattr(Member, "record", fail)
    with sophon_bridge(path) as (port, _sources), Se3(url(port), period=0.05) as box:
        box.compare(0.9)
        wait_until(lambda: len(box.answers) > 3)
        assert {status for _, status, _ in box.answers} == {503}
        full[0] = False
        box.wait_uploaded()
    assert len(stores.events("hall-1")) == 1


def test_the_path_says_which_box_and_holds_its_secret(make: Make, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    path, stores = make(SE3 + 'secret = "s3cret-of-the-hall"\n')
    body = (BOXES / "se3_v2_history_post.json").read_bytes()
    with sophon_bridge(path) as (port, _sources):
        for wrong in ("box-1", "box-1/other", "box-2/s3cret-of-the-hall"):
            assert post(port, f"/sophon/{wrong}/history", body)[0] == 503
        assert post(port, "/sophon/box-1/s3cret-of-the-hall/other", body)[0] == 404
        assert post(port, "/sophon/box-1/s3cret-of-the-hall/history", body)[0] == 200
    assert len(stores.events("hall-1")) == 1
    assert "s3cret" not in caplog.text


def test_a_body_over_the_limit_is_refused(make: Make) -> None:
    path, _ = make(SE3)
    with sophon_bridge(path) as (port, _sources):
        packed = gzip.compress(bytes(25 << 20))
        assert post(port, "/sophon/box-1/history", packed, Content_Encoding="gzip")[0] == 413


def test_a_login_is_answered_if_the_settings_say_so(make: Make) -> None:
    path, _ = make(SE3 + 'login = "http://10.0.0.5:8088"\nrabbitmq = { host = "10.0.0.6" }\n')
    with sophon_bridge(path) as (port, _sources):
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        connection.request("GET", "/sophon/box-1/login?dev_sno=DEMOSN&hex_mac=0x00")
        answer = json.loads(connection.getresponse().read())
        connection.close()
    assert answer["recordAddr"] == "http://10.0.0.5:8088/sophon/box-1/history"
    assert answer["rabbitmq"] == {"host": "10.0.0.6"}


@pytest.mark.parametrize("version", [5, 6])
def test_realtime_comes_by_the_websocket_and_history_by_the_event_api(make: Make, version: int) -> None:
    with Server(version) as box:
        path, stores = make(_table(version, box))
        before = [box.compare(90.0 + n) for n in range(3)]
        with sophon_bridge(path) as (_port, sources):
            realtime = sources[0].member.agent.realtime
            wait_until(lambda: bool(box.clients) and realtime.threshold == 82.0)
            wait_until(lambda: len(stores.events("hall-1")) == 3)
            box.listed = 3  # the WebSocket comes first
            live = [box.compare(score, 4 if score < 82 else 1) for score in (95.0, 12.0, 82.0)]
            wait_until(lambda: len(stores.events("hall-1")) == 6)
            box.listed = None
            missed = [box.compare(91.0, realtime=False)]
            wait_until(lambda: len(stores.events("hall-1")) == 7, what=lambda: str(stores.events("hall-1")))
            wait_until(lambda: int(stores.note("hall-1", "sophon.cursor") or 0) >= missed[0].ms)
            time.sleep(0.3)  # several periods: nothing comes twice
    assert len(stores.events("hall-1")) == 7
    matches = [event["score"] for event in stores.matches("hall-1") if event["score"] > 82.0]
    assert matches == [95.0]
    assert len({event["timestamp"] for event in stores.events("hall-1")}) <= len(before + live + missed)
    assert stores.note("hall-1", "sophon.reconciled")
    assert not stores.note("hall-1", "sophon.unreconciled")


def _table(version: int, box: Server) -> str:
    return SE3 + f'version = {version}\napi = "http://127.0.0.1:{box.api_port}"\nwebsocket = "ws://127.0.0.1:{box.ws_port}"\n'


@pytest.mark.parametrize("version", [5, 6])
def test_a_long_history_is_walked_by_time(make: Make, version: int) -> None:
    start = time.time() - 86_400
    with Server(version) as box:
        path, stores = make(_table(version, box))
        box.clock = lambda: start + len(box.events) * 7
        for number in range(730):
            box.compare(10.0 + number / 100, 4)
        with sophon_bridge(path):
            wait_until(lambda: bool(stores.note("hall-1", "sophon.reconciled")), 60)
    assert len(stores.events("hall-1")) == 730
    assert stores.matches("hall-1") == []


def test_many_events_in_one_moment_are_walked_by_pages(make: Make) -> None:
    moment = time.time() - 3600
    with Server(5) as box:
        path, stores = make(_table(5, box))
        box.clock = lambda: moment
        for number in range(250):
            box.compare(10.0 + number / 100)
        with sophon_bridge(path):
            wait_until(lambda: bool(stores.note("hall-1", "sophon.reconciled")), 60)
    assert len(stores.events("hall-1")) == 250


def test_counts_that_never_agree_are_said_and_the_cursor_stays(make: Make, caplog: pytest.LogCaptureFixture) -> None:
    with Server(5) as box:
        path, stores = make(_table(5, box))
        box.compare(90.0)
        box.uncounted = 2
        with sophon_bridge(path):
            wait_until(lambda: bool(stores.note("hall-1", "sophon.unreconciled")), 60)
            assert stores.note("hall-1", "sophon.unreconciled") == "the box counts 3, we hold 1"
            assert stores.note("hall-1", "sophon.cursor") is None
            box.uncounted = 0
            wait_until(lambda: stores.note("hall-1", "sophon.unreconciled") == "", 60)
    assert len(stores.events("hall-1")) == 1
    assert caplog.text.count("unreconciled device=hall-1") == 1


def test_an_event_that_a_clock_set_back_hides_is_found_within_the_hour(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetcher, "_DEEP_EVERY", 0.3)
    with Server(5) as box:
        path, stores = make(_table(5, box))
        box.compare(90.0)
        with sophon_bridge(path):
            wait_until(lambda: bool(stores.note("hall-1", "sophon.reconciled")))
            box.clock = lambda: time.time() - 3600
            box.compare(91.0, realtime=False)
            wait_until(lambda: len(stores.events("hall-1")) == 2)


def test_a_box_that_is_away_is_waited_for(make: Make, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(fetcher, "_RETRY", (0.05, 0.2))
    with Server(5) as box:
        ports = box.api_port, box.ws_port
        path, stores = make(_table(5, box))
    with sophon_bridge(path):
        wait_until(lambda: "cannot fetch device=hall-1 from=event API" in caplog.text)
        with Server(5, *ports) as again:
            again.compare(90.0)
            wait_until(lambda: len(stores.events("hall-1")) == 1)
            wait_until(lambda: bool(again.clients))


def test_the_status_has_the_class_of_proof(make: Make) -> None:
    with Server(5) as box:
        path, _ = make(_table(5, box) + '[sophon.device.hall-2]\nid = "box-2"\n')
        with sophon_bridge(path) as (_port, sources):
            asked, posting = sources
            wait_until(lambda: asked.describe()["proof_at"] is not None)
            assert asked.describe()["proof"] == "reconciled"
            assert (posting.describe()["proof"], posting.describe().get("proof_at")) == ("best effort", None)


def test_a_box_that_tells_neither_threshold_nor_cameras_is_served_all_the_same(
    make: Make, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    answer = Server.answer

    def partly(self: Server, path: str, body: Any) -> Any:
        return answer(self, path, body) if "events" in path else None

    monkeypatch.setattr(Server, "answer", partly)
    with Server(5) as box:
        path, stores = make(_table(5, box) + 'cameras = ["cam-1"]\n')
        box.compare(90.0)
        with sophon_bridge(path) as (_port, sources):
            wait_until(lambda: bool(stores.note("hall-1", "sophon.reconciled")) and bool(box.clients))
            box.compare(95.0)
            wait_until(lambda: len(stores.events("hall-1")) == 2)
            assert sources[0].member.agent.realtime.threshold is None
    assert caplog.text.count("no matches: the box does not tell its threshold") == 1


def test_a_box_without_events_is_reconciled(make: Make) -> None:
    with Server(6) as box:
        path, _ = make(_table(6, box))
        with sophon_bridge(path) as (_port, sources):
            wait_until(lambda: sources[0].describe()["proof_at"] is not None)


def test_a_box_that_stalls_does_not_hold_the_room_of_the_others(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(post_app, "READ_TIMEOUT", 0.3)
    path, stores = make(SE3)
    with sophon_bridge(path) as (port, _sources):
        stalled = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        stalled.putrequest("POST", "/sophon/box-1/history")
        stalled.putheader("Content-Length", str(20 << 20))
        stalled.endheaders(b"{")
        assert stalled.getresponse().status == 408
        stalled.close()
        assert post(port, "/sophon/box-1/history", (BOXES / "se3_v2_history_post.json").read_bytes())[0] == 200
    assert len(stores.events("hall-1")) == 1
