"""The translator of the SophonAI family, against every shape of it that we have."""

import copy
import json
import math
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest

from facewire.events import event_from_source
from facewire_bridge import sophon
from facewire_bridge.record import Poison, Record

BOXES = Path(__file__).parent / "data" / "boxes"


def shape(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((BOXES / f"{name}.json").read_text())
    return {name: value for name, value in found.items() if not name.startswith("_client")}


def push(form: str, body: object) -> Record:
    [found] = sophon.read_push(form, body)
    assert isinstance(found, Record), found
    return found


def queried(name: str) -> Record:
    [(found, _)], _ = sophon.read_events(shape(name))
    assert isinstance(found, Record), found
    return found


SHAPES = {
    "se3_v2_realtime_post": (1764054000123, 0.7316, "E-0417", 1, "default_group", "10.20.0.31"),
    "se3_v2_history_post": (1764054003678, 0.16, "13028", 4, "default_group", "DEMOSN000120190101000000__10.20.0.32"),
    "se5_v5_realtime_websocket": (1764054000123, 86.4, "E-0417", 1, "default_group", "10.20.0.31"),
    "se5_v5_history_post": (1764054004150, 6.58, "1764054004.3828533", 4, None, "0xe0a509000001__rtsp://10.20.0.40:554/ch1"),
    "se5_v5_events_query_response": (1764054010701, 10.15, "", 4, "", "0xe0a509000001__10.20.0.31"),
    "se_v6_realtime_websocket": (1764054000123, 94.8, "E-0417", 1, None, "fb4eb129000000000000000000000007"),
    "se_v6_history_post": (1764054000123, 94.8, "E-0417", 1, None, "fb4eb129000000000000000000000007"),
    "se_v6_getevents_response": (1764054006608, 27.69, "", 4, None, None),
}


@pytest.mark.parametrize("name", SHAPES)
def test_every_shape_becomes_the_event_that_the_manual_means(name: str) -> None:
    form = "realtime" if "realtime" in name else "history"
    record = queried(name) if name.endswith("response") else push(form, shape(name))
    event = event_from_source(record.event)
    found = (event.timestamp, event.score, event.identity_id, event.person_type, event.group_name, event.ep_id)
    assert found == SHAPES[name]
    assert record.realtime == (form == "realtime")


def test_a_query_keeps_the_sources_own_time() -> None:
    assert queried("se5_v5_events_query_response").event["source_time"] == "1764054010.7013178"
    assert "source_time" not in push("history", shape("se5_v5_history_post")).event


def test_a_field_that_only_the_vendor_knows_stays() -> None:
    event = push("history", shape("se3_v2_history_post")).event
    assert event["want_action"] == "0"
    assert event["ext_data"]["grab_fiqa_info"]["face_id"] == 1381
    row = queried("se5_v5_events_query_response").event
    assert (row["spot_pic_id"], row["ep_info"]["ep_name"]) == ("1764054010.7370062", "gate 1")


def test_one_event_has_one_key_in_each_form_and_shares_another() -> None:
    realtime = shape("se3_v2_realtime_post")
    history = copy.deepcopy(realtime)
    history["ext_data"] |= {"ep_id": "SN__10.20.0.31", "dev_sno": "SN"}
    history["want_action"] = "0"
    first, second = push("realtime", realtime), push("history", history)
    assert (first.form, second.form) == ("realtime", "history")
    assert first.key == second.key
    assert first.shared == second.shared


def test_a_query_and_a_websocket_share_an_id_and_a_push_shares_what_it_says() -> None:
    row = queried("se_v6_getevents_response")
    socket = push("realtime", shape("se_v6_realtime_websocket"))
    assert (row.form, row.key) == ("id", "1764054006652506")
    assert (socket.form, socket.key) == ("id", "1764054000123456")
    assert push("history", shape("se_v6_history_post")).shared == socket.shared


def test_a_stranger_has_an_id_in_some_forms_and_none_in_others() -> None:
    row = shape("se5_v5_events_query_response")["data"][0]
    posted = shape("se5_v5_history_post")
    posted |= {"timestamp": 1764054010701, "score": 10.15}
    posted["ep_info"]["device_id"] = row["common"]["ep_info"]["device_id"]
    assert set(push("history", posted).shared) <= set(queried("se5_v5_events_query_response").shared)


def test_a_push_may_have_rounded_a_querys_seconds_either_way() -> None:
    answer = shape("se5_v5_events_query_response")
    answer["data"][0]["timestamp"] = 1764054010.7018
    [(row, _)], _ = sophon.read_events(answer)
    assert isinstance(row, Record)
    assert [key.partition("|")[0] for key in row.shared] == ["1764054010701", "1764054010702"]


@pytest.mark.parametrize(("text", "number"), [("employee", 1), ("visitor", 2), ("blacklist", 3), ("stranger", 4), ("vip", 5), ("car", 0)])
def test_user_types_are_the_contracts(text: str, number: int) -> None:
    assert push("history", shape("se_v6_history_post") | {"user_type": text}).event["person_type"] == number


def test_an_absent_person_type_is_an_employee() -> None:
    body = shape("se3_v2_realtime_post")
    del body["ext_data"]["person_type"]
    assert push("realtime", body).event["person_type"] == 1


def test_a_post_may_hold_an_array() -> None:
    body = [shape("se5_v5_history_post"), shape("se_v6_history_post"), "noise"]
    found = sophon.read_push("history", body)
    assert [type(item) for item in found] == [Record, Record, Poison]


def test_numbers_may_be_text_wherever_they_stand() -> None:
    body = shape("se3_v2_realtime_post")
    texts = body | {"timestamp": str(body["timestamp"]), "score": "0.7316", "ext_data": body["ext_data"] | {"person_type": "3"}}
    event = push("realtime", texts).event
    assert (event["timestamp"], event["score"], event["person_type"]) == (body["timestamp"], 0.7316, 3)
    assert push("realtime", texts).key == push("realtime", body).key


def test_an_object_may_hold_the_events_and_a_name_may_be_no_utf_8() -> None:
    body = shape("se3_v2_history_post")
    assert sophon.read_body("", json.dumps({"code": 0, "events": [body]}).encode()) == [body]
    assert sophon.read_body("", json.dumps(shape("se3_device_status_post")).encode()) == shape("se3_device_status_post")
    raw = b"\xef\xbb\xbf" + json.dumps(body | {"identity_name": "NAME"}).encode().replace(b"NAME", "王丽".encode("gbk"))
    event_from_source(push("history", sophon.read_body("", raw)).event)


@pytest.mark.parametrize(
    "change",
    [
        {"timestamp": None},
        {"timestamp": "soon"},
        {"timestamp": True},
        {"score": None},
        {"score": "x"},
        {"score": 10**400},
        {"score": float("nan")},
    ],
)
def test_poison_says_what_is_wrong(change: dict[str, Any]) -> None:
    [found] = sophon.read_push("history", shape("se5_v5_history_post") | change)
    assert isinstance(found, Poison)
    assert next(iter(change)) in found.reason


def test_a_form_carries_json_in_its_fields() -> None:
    body = shape("se3_v2_history_post")
    fields = {name: json.dumps(value) if isinstance(value, dict) else str(value) for name, value in body.items()}
    record = push("history", sophon.read_form(fields))
    assert record.event["timestamp"] == 1764054003678
    assert record.event["ep_id"] == "DEMOSN000120190101000000__10.20.0.32"
    assert record.key == push("history", body).key


def test_a_field_of_a_form_may_hold_all_of_it() -> None:
    body = shape("se5_v5_history_post")
    assert sophon.read_form({"data": json.dumps(body)}) == body
    assert sophon.read_form({"json": json.dumps([body]), "x": "y"}) == [body]


def test_bodies_are_json_or_url_encoded() -> None:
    body = shape("se5_v5_history_post")
    assert sophon.read_body("application/json", json.dumps(body).encode()) == body
    assert sophon.read_body("", json.dumps(body).encode()) == body
    encoded = urlencode({"data": json.dumps(body)}).encode()
    assert sophon.read_body("application/x-www-form-urlencoded", encoded) == body
    for noise in (b"", b"{", b"\xff", b"[" * 100_000):
        with pytest.raises(ValueError, match="body is not JSON"):
            sophon.read_body("application/json", noise)


@pytest.mark.parametrize(
    "answer",
    [None, [], {}, {"events": []}, {"data": {}, "pagination": {"total_count": 1}}, {"events": [], "pagination": {"total_count": -1}}],
)
def test_an_answer_that_is_none_is_refused(answer: object) -> None:
    with pytest.raises(ValueError, match="answer"):
        sophon.read_events(answer)


def test_the_total_comes_with_the_events() -> None:
    assert sophon.read_events(shape("se5_v5_events_query_response"))[1] == 105085


def test_the_threshold_is_the_boxs() -> None:
    assert sophon.threshold({"data": {"THRESHOLD": 82, "THRESHOLD_RANGE": "0,82,100"}}) == 82.0
    assert sophon.threshold({"configs": [{"name": "MATCH_THRESHOLD", "value": "79.5"}]}) == 79.5
    assert sophon.threshold({"data": {"WORK_MODE": "mq"}}) is None


def test_cameras_are_found_in_any_surroundings() -> None:
    assert sophon.cameras({"data": [{"device_id": "a"}, {"device_id": "b"}, {"device_id": "a"}]}) == ["a", "b"]
    assert sophon.cameras({"media_devices": [{"media_device_id": "c"}]}) == ["c"]
    assert sophon.cameras("noise") == []


def test_the_login_answer_has_the_vendors_fields() -> None:
    shown = shape("se3_login_response")
    answer = sophon.login_answer(2, "/h", "/s", shown["rabbitmq"])
    assert answer.keys() >= shown.keys() - {"deviceListInfoAddr"}
    assert (answer["recordAddr"], answer["rabbitmq"]) == ("/h", shown["rabbitmq"])


def test_two_ranges_side_by_side_have_every_event() -> None:
    middle = 1_764_054_000_123
    left, right = sophon.time_range(0, middle, 0.001), sophon.time_range(middle + 1, middle + 500, 0.001)
    assert left["datetime_lte"] < right["datetime_gte"]
    for fraction in (0.0, 0.0005, 0.000999):
        assert left["datetime_gte"] <= middle / 1000 + fraction <= left["datetime_lte"]
    assert math.nextafter(left["datetime_lte"], math.inf) == right["datetime_gte"]
    assert sophon.time_range(1, 2, 1.0) == {"datetime_gte": 1, "datetime_lte": 2}
