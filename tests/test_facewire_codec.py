import math
import tracemalloc
from typing import Any

import msgpack
import pytest
from any_event import FLOATS, TEXT, nested
from hypothesis import example, given
from hypothesis import strategies as st

from facewire import codec
from facewire.codec import Format
from facewire.errors import DecodeError

SCALARS = st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | FLOATS | TEXT
JSON_VALUES = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4), max_leaves=12)
VALUES = st.recursive(
    SCALARS | st.binary(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT | st.integers(-9, 9), inner, max_size=4),
    max_leaves=12,
)


@given(st.dictionaries(TEXT, VALUES, max_size=6))
def test_a_map_comes_back_from_msgpack_as_it_went_in(value: dict[str, Any]) -> None:
    assert codec.decode(codec.encode(value)) == (value, Format.MSGPACK, True)
    assert codec.unpack(codec.pack(value)) == value


@given(st.dictionaries(TEXT, JSON_VALUES, max_size=6))
def test_a_map_comes_back_from_json_as_it_went_in(value: dict[str, Any]) -> None:
    assert codec.decode(codec.encode(value, Format.JSON)) == (value, Format.JSON, False)


def test_the_bytes_are_pinned_in_both_formats() -> None:
    value = {"a": 1, "b": "明", "c": [True, None, -1.5]}
    assert codec.encode(value) == b"\x83\xa1a\x01\xa1b\xa3\xe6\x98\x8e\xa1c\x93\xc3\xc0\xcb\xbf\xf8\0\0\0\0\0\0"
    assert codec.encode(value, Format.JSON) == b'{"a":1,"b":"\xe6\x98\x8e","c":[true,null,-1.5]}'


def test_text_and_photographs_are_told_apart() -> None:
    assert codec.pack({"t": "x", "p": b"x"}) == b"\x82\xa1t\xa1x\xa1p\xc4\x01x"
    assert codec.decode(b"\x82\xa1t\xa1x\xa1p\xc4\x01x").map == {"t": "x", "p": b"x"}


@given(st.binary(max_size=64))
@example(b"")
@example(b"{")
@example(b"\x81\x90\x01")  # a list for a key
@example(b"\x81\xa1a\xd6\xff\0\0\0\0")  # a timestamp
@example(b"\x81\xa1a\xc7\x03\xff\0\0\0")  # a timestamp of a length that there is not
@example(b"\x81\xa1a\xd7\xff\xff\xff\xff\xff\0\0\0\0")  # a timestamp of too many nanoseconds
@example(b"\x81\xa1\xff\x01")
@example(b"{" + b"\xff" * 8)
def test_noise_is_a_map_or_a_decode_error(payload: bytes) -> None:
    try:
        decoded = codec.decode(payload)
    except DecodeError:
        return
    assert all(type(key) is str for key in decoded.map)


@given(st.data(), st.dictionaries(TEXT, JSON_VALUES, min_size=1, max_size=4), st.sampled_from(Format))
def test_a_truncated_map_is_refused(data: st.DataObject, value: dict[str, Any], fmt: Format) -> None:
    payload = codec.encode(value, fmt)
    cut = data.draw(st.integers(0, len(payload) - 1))
    with pytest.raises(DecodeError):
        codec.decode(payload[:cut])


@given(st.dictionaries(TEXT, JSON_VALUES, max_size=4), st.sampled_from(Format), st.binary(min_size=1, max_size=4).filter(bytes.strip))
def test_trailing_bytes_are_refused(value: dict[str, Any], fmt: Format, tail: bytes) -> None:
    with pytest.raises(DecodeError):
        codec.decode(codec.encode(value, fmt) + tail)


@pytest.mark.parametrize("payload", [b"\x01", b"\xa1a", b"\x90", b"\xc0", b"\xc4\x01a", b" {}", b"[]", b"1", b"\xef\xbb\xbf{}"])
def test_a_payload_must_be_a_map(payload: bytes) -> None:
    with pytest.raises(DecodeError):
        codec.decode(payload)


@pytest.mark.parametrize("key", [b"\x01", b"\xc4\x01a", b"\xc0", b"\xc3", b"\xcb\0\0\0\0\0\0\0\0"])
def test_a_map_must_be_keyed_by_text(key: bytes) -> None:
    with pytest.raises(DecodeError, match="key that is not text"):
        codec.decode(b"\x81" + key + b"\x01")


def test_keys_of_any_kind_are_kept_deep_in_a_map() -> None:
    assert codec.decode(b"\x81\xa1a\x82\x01\xa1x\xc4\x01b\x02").map == {"a": {1: "x", b"b": 2}}


def test_an_unhashable_key_is_refused() -> None:
    with pytest.raises(DecodeError, match="not msgpack"):
        codec.decode(b"\x81\xa1a\x81\x91\x01\x01")


def test_bad_text_is_read_and_not_vouched_for() -> None:
    decoded = codec.decode(b"\x82\xa1a\xa2\xff\xfe\xa1b\xa1x")
    assert decoded.map == {"a": "\udcff\udcfe", "b": "x"}
    assert not decoded.clean
    with pytest.raises(ValueError, match="surrogates"):
        codec.pack(decoded.map["a"])


@pytest.mark.parametrize("bad", [b"\xff", b"\xc0\x80", b"\xed\xa0\x80", b"\\ud800", b"\\udfff"])
def test_bad_text_in_json_is_read_and_not_vouched_for(bad: bytes) -> None:
    decoded = codec.decode(b'{"a":"' + bad + b'","b":"x"}')
    assert decoded.map["b"] == "x"
    assert not decoded.clean
    with pytest.raises(ValueError, match="surrogates"):
        codec.pack(decoded.map["a"])


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-32-le"])
def test_json_is_utf8_and_nothing_else(encoding: str) -> None:
    payload = '{"a":1}'.encode(encoding)
    assert payload[:1] == b"{"
    with pytest.raises(DecodeError, match="not JSON"):
        codec.decode(payload)


@pytest.mark.parametrize("constant", [b"NaN", b"Infinity", b"-Infinity"])
def test_one_nan_does_not_spoil_its_batch(constant: bytes) -> None:
    assert not math.isfinite(codec.decode(b'{"a":' + constant + b"}").map["a"])


def test_a_huge_number_in_json_is_decoded_and_not_vouched_for() -> None:
    value = codec.decode(b'{"a":1' + b"0" * 400 + b"}").map["a"]
    assert value == 10**400
    with pytest.raises(ValueError, match=r"."):
        codec.pack(value)


def test_a_number_too_long_for_python_is_refused() -> None:
    with pytest.raises(DecodeError, match="not JSON"):
        codec.decode(b'{"a":1' + b"0" * 5000 + b"}")


@pytest.mark.parametrize(
    "value", [2**64, -(2**63) - 1, "\ud800", {"\udfff": 1}, {1, 2}, object(), nested(2000)], ids=lambda value: type(value).__name__
)
def test_a_value_outside_msgpack_is_a_value_error(value: object) -> None:
    with pytest.raises(ValueError, match=r"."):
        codec.pack(value)


@pytest.mark.parametrize("value", [b"photo", float("nan"), float("inf"), "\ud800", type, {(1, 2): 3}], ids=ascii)
def test_a_value_outside_json_is_a_value_error(value: object) -> None:
    with pytest.raises(ValueError, match=r"."):
        codec.encode({"a": value}, Format.JSON)


@given(st.dictionaries(TEXT, SCALARS, max_size=3), st.lists(VALUES, max_size=20))
def test_a_spliced_list_is_what_encode_would_have_written(head: dict[str, Any], values: list[Any]) -> None:
    head.pop("events", None)
    assert codec.splice(head, "events", [codec.pack(value) for value in values]) == codec.encode({**head, "events": values})


@given(st.dictionaries(TEXT, SCALARS, max_size=3), VALUES)
def test_a_spliced_value_is_what_encode_would_have_written(head: dict[str, Any], value: Any) -> None:
    head.pop("event", None)
    assert codec.splice(head, "event", codec.pack(value)) == codec.encode({**head, "event": value})


@pytest.mark.parametrize(
    ("value", "levels"), [(1, 0), ([], 1), ({}, 1), ([1], 1), ({"a": 1}, 1), ([[]], 2), ({"a": {}}, 2), ([1, [2, {"a": [3]}]], 4)]
)
def test_each_container_is_one_level_be_it_empty_or_not(value: object, levels: int) -> None:
    assert not codec.is_deeper(value, levels)
    assert levels == 0 or codec.is_deeper(value, levels - 1)


@pytest.mark.parametrize("levels", [16, 17, 100])
def test_depth_is_counted_without_recursion(levels: int) -> None:
    assert codec.is_deeper(nested(levels), 16) == (levels > 16)
    assert codec.is_deeper(nested(50_000), levels)


def test_a_payload_at_the_limit_is_decoded_and_one_byte_more_is_refused() -> None:
    room = codec.MAX_PAYLOAD_BYTES - len(b"\x81\xa1a\xc6....")
    assert len(codec.decode(codec.pack({"a": b"x" * room})).map["a"]) == room
    with pytest.raises(DecodeError, match="over the limit of 4194304"):
        codec.decode(codec.pack({"a": b"x" * (room + 1)}))
    with pytest.raises(DecodeError, match="over the limit of 4194304"):
        codec.decode(b'{"a":"' + b"x" * codec.MAX_PAYLOAD_BYTES + b'"}')


def test_maps_and_lists_and_extensions_are_read_up_to_their_limits() -> None:
    for most, make in (
        (codec.MAX_MAP, lambda n: {"a": dict.fromkeys(range(n))}),
        (codec.MAX_MAP, lambda n: {str(i): i for i in range(n)}),
        (codec.MAX_ARRAY, lambda n: {"a": [0] * n}),
        (codec.MAX_MAP, lambda n: {"a": msgpack.ExtType(5, b"x" * n)}),
    ):
        assert codec.decode(codec.pack(make(most))).map == make(most)
        with pytest.raises(DecodeError, match=r"\d+ exceeds max_(map|array|ext)_len"):
            codec.decode(codec.pack(make(most + 1)))


@pytest.mark.parametrize(
    "payload",
    [
        b"\xdf\xff\xff\xff\xff",
        b"\x81\xa1a\xdf\xff\xff\xff\xff",
        b"\x81\xa1a\xdd\xff\xff\xff\xff",
        b"\x81\xa1a\xdb\xff\xff\xff\xff",
        b"\x81\xa1a\xc6\xff\xff\xff\xff",
        b"\x81\xa1a\xc9\xff\xff\xff\xff\x01",
        b"\x81\xa1a" + b"\xdd\x00\x01\x00\x00" * 1000,  # lists in lists, each said to be 65,536 long: was 82 MB
        b"\x81\xa1a" + b"\xdc\x10\x00" * 1500,
        b"\x81\xa1a" + b"\xde\x04\x00\xa1a" * 900,
        b"\x81\xa1a" + b"\x91" * 100_000,
        b"\x81\xa1a" + b"\x81\xa1a" * 100_000,
        b'{"a":' + b"[" * 100_000,
        b'{"a":' * 100_000,
        b'{"a":1' + b"0" * 100_000 + b"}",
    ],
    ids=lambda payload: f"{payload[:12]!r}",
)
def test_a_hostile_header_is_refused_without_a_large_allocation(payload: bytes) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(DecodeError):
            codec.decode(payload)
        assert tracemalloc.get_traced_memory()[1] < 40_000_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    "payload", [b"\x81\xa1a" + b"\x91" * 900 + b"\x90", b'{"a":' + b"[" * 500 + b"]" * 500 + b"}"], ids=["msgpack", "json"]
)
def test_deep_nesting_within_the_limit_does_no_harm(payload: bytes) -> None:
    assert codec.is_deeper(codec.decode(payload).map, codec.MAX_DEPTH)
