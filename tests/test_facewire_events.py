import base64
import enum
import json
from fractions import Fraction
from pathlib import Path
from types import MappingProxyType
from typing import Any

import msgpack
import pytest
from any_event import EVENTS, VALUES, nested
from hypothesis import example, given
from hypothesis import strategies as st

from facewire import codec
from facewire.errors import EventError
from facewire.events import MAX_EVENT_BYTES, MAX_INT, Event, columns_from_maps, event_from_map, event_from_source, read_seq, read_source

VENDOR = [json.loads(line) for line in (Path(__file__).parent / "data" / "vendor-events.jsonl").read_text(encoding="utf-8").splitlines()]
GOOD: dict[str, Any] = {
    "seq": 7,
    "timestamp": 1602612036150,
    "score": 82.5,
    "identity_id": "01220615",
    "identity_name": "小明",
    "person_type": 1,
    "group_name": "staff",
    "ep_id": "gate-3",
    "card_id": "",
}


@given(EVENTS, st.booleans())
def test_an_event_comes_back_from_its_map_as_it_was(event: Event, clean: bool) -> None:
    assert event_from_map(codec.unpack(codec.pack(event.to_map())), clean=clean) == event


@given(EVENTS)
@example(event_from_map(GOOD)._replace(extra={"extra": 1, "fields": 2, "_fields": 3}))
def test_a_source_s_event_keeps_every_field_and_gets_no_seq(event: Event) -> None:
    assert event_from_source(event.to_map()) == event._replace(seq=0)


@pytest.mark.parametrize("seq", [0, "7", 2**70, object()])
def test_the_seq_of_a_source_is_ignored(seq: object) -> None:
    assert event_from_source({**GOOD, "seq": seq}).seq == 0


@pytest.mark.parametrize("line", VENDOR, ids=["realtime", "stranger", "photo"])
def test_the_vendors_events_keep_every_field(line: dict[str, Any]) -> None:
    before = json.dumps(line)
    wire = event_from_source(line).to_map()
    assert {name: wire[name] for name in line} == line
    assert set(wire) - set(line) <= {"seq", "person_type", "ep_id"}
    assert json.dumps(line) == before
    again = event_from_map(codec.unpack(codec.pack({**wire, "seq": 1})))
    assert again.to_map() == {**wire, "seq": 1}


def test_there_are_three_events_of_the_vendor() -> None:
    assert [event_from_source(line).person_type for line in VENDOR] == [5, 4, 4]


def test_person_type_is_read_from_ext_data_and_left_there() -> None:
    event = event_from_source(VENDOR[0])
    assert event.person_type == 5
    assert event.extra["ext_data"]["person_type"] == 5
    assert "person_type" not in VENDOR[0]


def test_person_type_has_precedence_over_the_one_in_ext_data() -> None:
    assert event_from_source({**GOOD, "ext_data": {"person_type": 5}}).person_type == 1


def test_on_the_wire_person_type_is_not_looked_for_in_ext_data() -> None:
    fields = {**GOOD, "ext_data": {"person_type": 5}}
    del fields["person_type"]
    with pytest.raises(EventError, match="person_type is missing"):
        event_from_map(fields)


def test_reading_does_not_change_the_map() -> None:
    fields = dict(GOOD)
    event_from_map(fields)
    event_from_source(fields)
    assert fields == GOOD


def test_absent_and_null_optional_fields_are_left_out() -> None:
    fields = {**GOOD, "group_name": None}
    del fields["ep_id"]
    event = event_from_map(fields)
    assert (event.group_name, event.ep_id) == (None, None)
    assert not {"group_name", "ep_id"} & set(event.to_map())


@pytest.mark.parametrize(("given_score", "read"), [(82, 82.0), (0, 0.0), (-3, -3.0), (MAX_INT, float(MAX_INT)), (0.62, 0.62)])
def test_a_whole_score_is_a_score(given_score: float, read: float) -> None:
    score = event_from_map({**GOOD, "score": given_score}).score
    assert score == read
    assert type(score) is float


@pytest.mark.parametrize("name", ["seq", "timestamp", "score", "identity_id", "identity_name", "person_type"])
def test_a_required_field_must_be_there(name: str) -> None:
    fields = dict(GOOD)
    del fields[name]
    with pytest.raises(EventError, match=f"^{name} ") as caught:
        event_from_map(fields)
    assert caught.value.seq == (None if name == "seq" else 7)
    with pytest.raises(EventError, match=f"^{name} None(Type)? is not"):
        event_from_map({**GOOD, name: None})


INT_WRONG: tuple[object, ...] = (True, 1.0, "1", b"1", [1], {}, 2**63, -(2**63), 2**64, 10**400)
TEXT_WRONG: tuple[object, ...] = (1, True, b"x", ["x"], {"x": 1}, 0.5)
SCORE_WRONG: tuple[object, ...] = (True, "1", b"1", [1.0], {}, 2**63, 10**400, float("nan"), float("inf"), float("-inf"))
WRONG: list[tuple[str, object]] = [
    *[("seq", value) for value in (*INT_WRONG, 0, -1)],
    *[("timestamp", value) for value in INT_WRONG],
    *[("person_type", value) for value in INT_WRONG],
    *[("score", value) for value in SCORE_WRONG],
    *[(name, value) for name in ("identity_id", "identity_name", "group_name", "ep_id") for value in TEXT_WRONG],
]


@pytest.mark.parametrize("clean", [True, False])
@pytest.mark.parametrize(("name", "value"), WRONG, ids=lambda value: ascii(value)[:20])
def test_a_wrong_field_is_named_with_the_seq(name: str, value: object, clean: bool) -> None:
    with pytest.raises(EventError, match=f"^{name} .* is not ") as caught:
        event_from_map({**GOOD, name: value}, clean=clean)
    assert caught.value.seq == (None if name == "seq" else 7)
    assert len(str(caught.value)) < 120


@pytest.mark.parametrize(
    "value", [None, 1, "x", b"x", [], [GOOD], (), True, MappingProxyType(GOOD), nested(5000)], ids=lambda v: type(v).__name__
)
def test_a_wire_event_must_be_a_map(value: object) -> None:
    with pytest.raises(EventError, match="is not a map") as caught:
        event_from_map(value)
    assert caught.value.seq is None
    assert read_seq(value) is None


@pytest.mark.parametrize("name", ["seq", "timestamp", "score", "identity_id", "ep_id"])
def test_a_field_nested_too_deep_to_be_shown_is_refused_like_any_other(name: str) -> None:
    # Found here: the error's own text ended in a RecursionError.
    with pytest.raises(EventError, match=f"{name} list is not"):
        event_from_map({**GOOD, name: nested(5000)})


@pytest.mark.parametrize("value", ["\ud800", 2**64, 10**400, [{"a": -(2**63) - 1}], {"\udcff": 1}], ids=lambda v: ascii(v)[:20])
def test_an_unstorable_value_is_refused_unless_the_codec_vouches(value: object) -> None:
    with pytest.raises(EventError, match="cannot be kept") as caught:
        event_from_map({**GOOD, "card_id": value})
    assert caught.value.seq == 7
    with pytest.raises(EventError, match="cannot be kept"):
        event_from_source({**GOOD, "card_id": value})
    assert event_from_map({**GOOD, "card_id": value}, clean=True).extra["card_id"] == value


@pytest.mark.parametrize("key", [1, b"k", None, 0.5])
def test_keys_are_text_and_deeper_in_they_are_anything(key: object) -> None:
    fields: dict[object, object] = {key: 1}
    fields.update(GOOD)
    with pytest.raises(EventError, match="key that is not text"):
        event_from_map(fields, clean=True)
    assert event_from_map({**GOOD, "deep": {key: 1}}).extra["deep"] == {key: 1}


def test_nesting_sixteen_deep_is_kept_and_seventeen_is_not() -> None:
    assert event_from_map({**GOOD, "deep": nested(15)}, clean=True).extra["deep"] == nested(15)
    too_deep: list[object] = [nested(16), nested(5000), {"a": nested(15)}, [[[[[[[[[[[[[[[[]]]]]]]]]]]]]]]]]
    for value in too_deep:
        with pytest.raises(EventError, match="nests deeper than 16"):
            event_from_map({**GOOD, "deep": value, "flat": 1}, clean=True)


def read_one_by_one(maps: list[Any]) -> list[Event] | None:
    try:
        return [event_from_map(fields, clean=True) for fields in maps]
    except EventError:
        return None


def read_at_once(maps: list[Any]) -> list[Event] | None:
    try:
        columns = columns_from_maps([dict(fields) if isinstance(fields, dict) else fields for fields in maps])
    except EventError:
        return None
    return [Event(*values) for values in zip(*columns, strict=True)]


WIRE_EVENTS = EVENTS.map(Event.to_map)
#: Events of which a field, or the whole, may be anything that a codec gives.
ALMOST_EVENTS = (
    WIRE_EVENTS
    | VALUES
    | st.builds(
        lambda fields, name, value: {**fields, name: value}, WIRE_EVENTS, st.sampled_from(["x", *Event._fields]) | st.integers(), VALUES
    )
)


@given(st.lists(ALMOST_EVENTS, max_size=4))
@example([{**GOOD, "score": 82}, GOOD])
def test_events_are_read_at_once_as_one_by_one(maps: list[Any]) -> None:
    assert read_at_once(maps) == read_one_by_one(maps)


CANNOT_BE: list[Any] = [
    *({**GOOD, name: value} for name, value in WRONG if not (type(value) is int and not -(2**63) <= value < 2**64)),
    *({key: value for key, value in GOOD.items() if key != name} for name in GOOD if name not in {"group_name", "ep_id", "card_id"}),
    *({**GOOD, "deep": value} for value in (nested(16), {"a": nested(15)})),
    {**GOOD, 1: 1},
    None,
    [GOOD],
]


@pytest.mark.parametrize("bad", CANNOT_BE, ids=range(len(CANNOT_BE)))
@pytest.mark.parametrize("good", [[], [GOOD]], ids=["alone", "among good ones"])
def test_one_wrong_event_fails_the_fast_reader(bad: Any, good: list[Any]) -> None:
    assert read_one_by_one([bad]) is None
    assert read_at_once([*good, bad]) is None
    assert read_at_once([bad, *good]) is None


@pytest.mark.parametrize(
    "fields",
    [
        {"score": 7},
        {"score": MAX_INT},
        {"score": -MAX_INT},
        {"seq": 1},
        {"seq": MAX_INT},
        {"timestamp": -MAX_INT},
        {"deep": nested(15)},
        {"group_name": None},
    ],
)
def test_a_good_batch_is_read_by_the_fast_reader(fields: dict[str, Any]) -> None:
    assert read_at_once([{**GOOD, **fields}, GOOD]) == [event_from_map({**GOOD, **fields}, clean=True), event_from_map(GOOD)]
    [event] = read_at_once([{**GOOD, **fields}]) or []
    assert type(event.score) is float


def test_tuples_of_a_source_are_kept_as_the_lists_that_readers_will_see() -> None:
    assert event_from_source({**GOOD, "box": (1, (2, 3))}).extra["box"] == [1, [2, 3]]
    deep: Any = 1
    for _ in range(17):
        deep = (deep,)
    with pytest.raises(EventError, match="nests deeper than 16"):
        event_from_source({**GOOD, "deep": deep})


def test_a_source_may_change_its_map_afterwards() -> None:
    box = [1, 2]
    event = event_from_source({**GOOD, "box": box})
    box.append(3)
    assert event.extra["box"] == [1, 2]


@pytest.mark.parametrize(
    "value",
    [[0] * (codec.MAX_ARRAY + 1), dict.fromkeys(map(str, range(codec.MAX_MAP + 1))), msgpack.ExtType(5, b"x" * 2000), {(1, 2): 3}],
    ids=["list", "map", "extension", "key"],
)
def test_an_event_that_the_codec_would_refuse_is_refused_at_its_source(value: object) -> None:
    # Found here: one such event in the store made each of its batches unreadable, and history
    # stood still.
    with pytest.raises(EventError, match="cannot be kept: not msgpack"):
        event_from_source({**GOOD, "feature": value})


def test_an_event_may_be_as_large_as_the_limit_and_no_larger() -> None:
    room = MAX_EVENT_BYTES - len(codec.pack({**event_from_source(GOOD).to_map(), "note": "!" * 70_000})) + 70_000
    assert len(event_from_source({**GOOD, "note": "!" * room}).extra["note"]) == room
    with pytest.raises(EventError, match="of 196609 bytes is over the limit of 196608"):
        event_from_source({**GOOD, "note": "!" * (room + 1)})


@pytest.mark.parametrize("value", [None, 1, "x", [GOOD], nested(5000)], ids=lambda v: type(v).__name__)
def test_a_source_event_must_be_a_map(value: object) -> None:
    with pytest.raises(EventError, match="is not a map"):
        event_from_source(value)


def test_a_source_may_give_any_mapping_and_a_seq_of_its_own() -> None:
    assert event_from_source(MappingProxyType({**GOOD, "seq": "its own"})) == event_from_map(GOOD)._replace(seq=0)


@pytest.mark.parametrize(
    ("seq", "read"), [(1, 1), (MAX_INT, MAX_INT), (0, None), (-1, None), (2**63, None), (True, None), (1.0, None), ("1", None)]
)
def test_a_seq_is_read_if_it_is_valid(seq: object, read: int | None) -> None:
    assert read_seq({"seq": seq}) == read


@given(st.dictionaries(st.sampled_from([*GOOD, "ext_data", 1]), VALUES | st.floats() | st.text(max_size=3)))
def test_noise_is_an_event_or_an_event_error(noise: dict[Any, Any]) -> None:
    for fields in (noise, {**GOOD, **noise}):
        for read in (event_from_map, event_from_source):
            try:
                event = read(fields)
            except EventError:
                continue
            assert event_from_map({**event.to_map(), "seq": 1}) == event._replace(seq=1)


class Kind(enum.IntEnum):
    EMPLOYEE = 1


@pytest.mark.parametrize("number", [Kind.EMPLOYEE, Fraction(1)])
def test_a_source_may_give_numbers_that_are_not_pythons_own(number: Any) -> None:
    event = event_from_source(GOOD | {"person_type": Kind.EMPLOYEE, "score": number})
    assert (type(event.person_type), event.person_type) == (int, 1)
    assert (type(event.score), event.score) == (float, 1.0)


def test_a_reason_shows_no_name() -> None:
    with pytest.raises(EventError, match=r"^identity_name list is not text$"):
        event_from_map(GOOD | {"identity_name": ["Ada Lovelace"]})


def test_photographs_of_any_size_cost_no_event() -> None:
    pictures = {name: bytes([number]) * 300_000 for number, name in enumerate(("reg_pic", "spot_pic", "recognize_face"))}
    encoded = {name: base64.b64encode(data).decode() for name, data in pictures.items()}
    event, photographs = read_source({**GOOD, "ext_data": encoded})
    assert [photograph.data for photograph in photographs] == list(pictures.values())
    assert event.extra["ext_data"] == {photograph[0]: photograph[1].named() for photograph in zip(pictures, photographs, strict=True)}
    assert event_from_source({**GOOD, "ext_data": encoded}) == event


BOXES = Path(__file__).parent / "data" / "boxes"


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("se3_v2_realtime_post", (1764054000123, 1, "10.20.0.31")),
        ("se3_v2_history_post", (1764054003678, 4, "DEMOSN000120190101000000__10.20.0.32")),
        ("se5_v5_history_post", (1764054004150, 4, "0xe0a509000001__rtsp://10.20.0.40:554/ch1")),
        ("se_v6_history_post", (1764054000123, 1, "fb4eb129000000000000000000000007")),
        ("se_v6_realtime_websocket", (1764054000123, 1, "fb4eb129000000000000000000000007")),
    ],
)
def test_every_form_of_the_vendors_is_read(name: str, wanted: tuple[int, int, str]) -> None:
    event = event_from_source(json.loads((BOXES / f"{name}.json").read_text()))
    assert (event.timestamp, event.person_type, event.ep_id) == wanted


def test_rows_of_the_vendors_queries_are_read() -> None:
    v5 = json.loads((BOXES / "se5_v5_events_query_response.json").read_text())["data"][0]
    v6 = json.loads((BOXES / "se_v6_getevents_response.json").read_text())["events"][0]
    found = [event_from_source(row) for row in (v5, v6)]
    assert [(event.timestamp, event.person_type) for event in found] == [(1764054010701, 4), (1764054006608, 4)]


def test_a_missing_person_type_follows_from_the_user_type_and_a_given_ep_id_stays() -> None:
    fields = dict(GOOD)
    del fields["person_type"]
    assert event_from_source(fields).person_type == 1
    assert event_from_source(fields | {"user_type": "vip"}).person_type == 5
    assert event_from_source(fields | {"user_type": "car"}).person_type == 0
    assert event_from_source(fields | {"ep_info": {"ep_id": "door"}, "ep_id": "mine"}).ep_id == "mine"
