"""The translator of the mqtt/face family, against every shape of it that we have."""

import json
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from facewire.events import event_from_source
from facewire_bridge import mqtt_face
from facewire_bridge.mqtt_face import Presence, PullAnswer, Source, read_record
from facewire_bridge.record import Poison, Record

BOXES = Path(__file__).parent / "data" / "boxes"
SHANGHAI = Source(ZoneInfo("Asia/Shanghai"))
BERLIN = Source(ZoneInfo("Europe/Berlin"))


def shape(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((BOXES / f"mqttface_{name}.json").read_text())
    return found


def rec(**changes: Any) -> bytes:
    message = shape("recpush")
    message["info"] |= changes
    return json.dumps(message).encode()


def read(**changes: Any) -> Record:
    found = read_record("Rec", rec(**changes), SHANGHAI)
    assert isinstance(found, Record), found
    return found


def poison(payload: bytes, kind: str = "Rec") -> Poison:
    found = read_record(kind, payload, SHANGHAI)
    assert isinstance(found, Poison), found
    return found


def test_a_record_as_captured_becomes_an_event_that_may_match() -> None:
    record = read()
    assert (record.form, record.key, record.number, record.realtime) == ("rec", "389", 389, True)
    event = event_from_source(record.event)
    assert event.timestamp == 1764054007000
    assert (event.score, event.identity_id, event.identity_name, event.person_type, event.ep_id) == (
        83.0,
        "emp-00417",
        "Ana Cruz",
        1,
        "1099001",
    )
    assert event.extra == {
        "VerifyStatus": "1",
        "PersonType": "0",
        "RecordID": "389",
        "Sendintime": 1,
        "isNoMask": "1",
        "PushType": 0,
        "targetPosInScene": [346, 0, 1572, 1080],
        "pic": "data:image/jpeg;base64,/9j/4AAQSkZJRg...",
        "source_time": "2025-11-25 15:00:07",
    }


def test_a_stranger_is_history_only() -> None:
    message = shape("strsnappush")
    record = read_record("Snap", json.dumps(message).encode(), SHANGHAI)
    assert isinstance(record, Record)
    assert (record.form, record.key, record.realtime) == ("snap", "946", False)
    event = event_from_source(record.event)
    assert (event.score, event.identity_id, event.person_type, event.timestamp) == (0.0, "snap:946", 4, 1764054030000)


def test_the_manuals_own_spelling_of_the_name_is_read() -> None:
    message = shape("recpush")
    message["info"]["persionName"] = message["info"].pop("personName")
    record = read_record("Rec", json.dumps(message).encode(), SHANGHAI)
    assert isinstance(record, Record)
    assert record.event["identity_name"] == "Ana Cruz"


@pytest.mark.parametrize(
    ("changes", "identity"), [({"customId": ""}, "p:3"), ({"customId": " ", "personId": 3}, "p:3"), ({"customId": 17}, "17")]
)
def test_a_person_who_was_enrolled_at_the_device_has_the_devices_number(changes: dict[str, Any], identity: str) -> None:
    assert read(**changes).event["identity_id"] == identity


@pytest.mark.parametrize(
    "changes",
    [
        {"VerifyStatus": "2"},
        {"VerifyStatus": 22},
        {"VerifyStatus": "0"},
        {"PersonType": "1"},
        {"Sendintime": 0},
        {"Sendintime": "0"},
        {"PushType": 2},
        {"PushType": "2"},
        {"Sendintime": None},
    ],
)
def test_a_record_that_was_refused_or_is_late_never_matches(changes: dict[str, Any]) -> None:
    assert not read(**changes).realtime


def test_numbers_may_be_text_or_numbers() -> None:
    record = read(VerifyStatus=1, PersonType=0, Sendintime="1", PushType="0", similarity1=83, RecordID=389.0)
    assert record.realtime
    assert record.mark == read().mark
    assert record.event["score"] == 83.0


@pytest.mark.parametrize(
    "time", ["2025-11-25 15:00:07.5", "2025/11/25 15:00:07", "2025-11-25T15:00:07", "2025-11-25T15:00:07+08:00", "2025-11-25T07:00:07Z"]
)
def test_a_time_may_have_another_form_and_is_kept_as_it_is(time: str) -> None:
    event = read(time=time).event
    assert (event["timestamp"], event["source_time"]) == (read().event["timestamp"], time)


@pytest.mark.parametrize("name", ["王丽".encode("gbk"), "王丽".encode()[:-1]])
def test_a_name_that_is_no_utf_8_does_not_cost_the_record(name: bytes) -> None:
    found = read_record("Rec", b"\xef\xbb\xbf" + rec(personName="NAME").replace(b"NAME", name), SHANGHAI)
    assert isinstance(found, Record)
    assert (found.number, found.event["identity_id"], "\ufffd" in found.event["identity_name"]) == (389, "emp-00417", True)
    event_from_source(found.event)


def test_a_blocked_person_is_blocklisted() -> None:
    assert read(PersonType="1").event["person_type"] == 3


def test_the_id_stands_behind_a_prefix() -> None:
    assert read(facesluiceId="site@@@x@@@1099001").event["ep_id"] == "1099001"


def test_private_fields_are_kept_only_if_asked_for() -> None:
    assert not mqtt_face.PRIVATE & read(idCard="310", telnum="555").event.keys()
    kept = read_record("Rec", rec(idCard="310", telnum="555"), Source(SHANGHAI.zone, frozenset({"idCard"})))
    assert isinstance(kept, Record)
    assert kept.event["idCard"] == "310"
    assert "telnum" not in kept.event


def test_a_foreign_field_cannot_take_the_place_of_ours() -> None:
    event = read(score=1e9, timestamp=1, seq=4, person_type=5).event
    assert (event["score"], event["timestamp"], event["person_type"]) == (83.0, 1764054007000, 1)


def test_a_record_without_a_similarity_says_so() -> None:
    event = read(similarity1=" ").event
    assert (event["score"], event["score_absent"]) == (0.0, True)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"time": "yesterday"}, "time 'yesterday' is not YYYY-MM-DD hh:mm:ss"),
        ({"time": None}, "time None is not YYYY-MM-DD hh:mm:ss"),
        ({"time": "2025-13-01 00:00:00"}, "month must be in 1..12"),
        ({"similarity1": "high"}, "similarity1 'high' is not a finite number"),
        ({"similarity1": "inf"}, "similarity1 'inf' is not a finite number"),
    ],
)
def test_poison_has_the_number_under_which_to_ack_it(changes: dict[str, Any], reason: str) -> None:
    found = poison(rec(**changes))
    assert (found.number, found.key) == (389, "389")
    assert reason in found.reason


@pytest.mark.parametrize(
    "payload", [b"", b"\xff\xfe", b"[]", b'{"info": 3}', b'{"operator": "RecPush"}', b"[" * 100_000, rec(RecordID="x")]
)
def test_poison_without_a_number_cannot_be_acked(payload: bytes) -> None:
    assert poison(payload).number is None


def test_the_same_record_pushed_again_or_pulled_has_the_same_mark() -> None:
    first = read()
    again = read(PushType=2, Sendintime=0, personName="Ana Maria Cruz", pic="", similarity1="83.0")
    assert again.mark == first.mark
    assert read(time="2025-11-25 15:00:08").mark != first.mark
    assert read(customId="emp-00418").mark != first.mark


def test_the_hour_that_happens_twice_is_told_by_the_record_before_it() -> None:
    def at(text: str, after_ms: int | None = None, now_ms: int | None = None, **changes: Any) -> int:
        found = read_record("Rec", rec(time=text, **changes), BERLIN, made_before=lambda _: after_ms, now_ms=now_ms)
        assert isinstance(found, Record)
        return int(found.event["timestamp"])

    first = at("2025-10-26 02:50:00")
    second = at("2025-10-26 02:10:00", after_ms=first)
    assert second - first == 20 * 60 * 1000
    assert at("2025-10-26 02:11:00", after_ms=second) - second == 60_000
    # The order of records counts for more than the time now.
    assert at("2025-10-26 02:10:00", after_ms=first, now_ms=first - 40 * 60_000) == second
    # If nothing comes before it, a fresh record belongs to the pass that is under way.
    assert at("2025-10-26 02:50:00", now_ms=first + 3_600_000 + 500) == first + 3_600_000
    assert at("2025-10-26 02:50:00", now_ms=first + 3_600_000, Sendintime=0) == first
    assert at("2025-10-26 03:00:00", after_ms=second) - first == 70 * 60 * 1000


def test_presence_is_read_as_captured() -> None:
    acks = shape("acks_and_presence")

    def presence(name: str) -> Presence | None:
        return mqtt_face.read_presence(json.dumps(acks[name]).encode())

    assert presence("topic_mqtt/face/basic_online") == Presence("Online", "1099001", "2025-11-25 14:43:25", "1099001")
    assert presence("topic_mqtt/face/basic_last_will") == Presence("Offline", "1099001", "", "1099001")
    assert presence("topic_mqtt/face/heartbeat") == Presence("HeartBeat", "1099001", "2025-11-25 14:44:25", "1099001")
    assert presence("platform_answers_online") is None
    assert mqtt_face.read_presence(b"noise") is None


def test_our_answers_are_those_of_the_vendors_document() -> None:
    acks, manual = shape("acks_and_presence"), shape("manual_push_and_config")
    assert json.loads(mqtt_face.push_ack("rec", 389, "fw-1")) == acks["platform_to_device_topic_mqtt/face/1099001"]
    assert json.loads(mqtt_face.push_ack("snap", 946, "fw-9"))["info"] == {"PushAckType": 1, "SnapOrRecordID": 946}
    assert json.loads(mqtt_face.online_ack("1099001", "fw-2")) == acks["platform_answers_online"]
    asked = mqtt_face.pull("rec", "1099001", "2025-11-25 00:00:00", "2025-11-25 23:59:59", "fw-3")
    assert json.loads(asked) == manual["request_range"]
    assert json.loads(mqtt_face.pull("snap", "1", "a", "b", "m"))["operator"] == "ManualPushSnaps"


def test_the_answer_to_a_pull_has_either_name() -> None:
    answer = shape("manual_push_and_config")["answer"]
    assert mqtt_face.read_answer(json.dumps(answer).encode()) == PullAnswer("fw-3", 17)
    answer["operator"] = "ManualPushRecords-Ack"
    answer["info"]["RecordNum"] = "4"
    assert mqtt_face.read_answer(json.dumps(answer).encode()) == PullAnswer("fw-3", 4)
    assert mqtt_face.read_answer(b"noise") is None
    ack = shape("acks_and_presence")["device_to_platform_topic_mqtt/face/1099001/Ack"]
    assert mqtt_face.read_answer(json.dumps(ack).encode()) is None


def test_a_topic_has_a_device_and_a_kind() -> None:
    assert mqtt_face.parse_topic("mqtt/face", "mqtt/face/1099001/Rec") == ("1099001", "Rec")
    assert mqtt_face.parse_topic("mqtt/device/face", "mqtt/device/face/7/Snap") == ("7", "Snap")
    assert mqtt_face.parse_topic("mqtt/face", "mqtt/face/heartbeat") == ("", "heartbeat")
    for other in ("mqtt/face/7", "mqtt/face/7/Rec/x", "x/7/Rec", "mqtt/face/7/Other"):
        assert mqtt_face.parse_topic("mqtt/face", other) == ("", "")
