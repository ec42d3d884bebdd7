"""Packets, lengths and strings, against section 2.2.3 and an encoder written for the tests."""

import mqtt_probe
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from facewire_mqtt.framing import Malformed, body_bounds, fixed_header, length_prefixed, packet

LONGEST = 268_435_455


@given(size=st.integers(0, LONGEST))
@example(127)
@example(128)
@example(16_383)
@example(16_384)
@example(2_097_151)
@example(2_097_152)
def test_a_length_is_written_as_section_2_2_3_says(size: int) -> None:
    assert fixed_header(0x30, size) == b"\x30" + mqtt_probe.length(size)


@given(size=st.integers(0, LONGEST), before=st.binary(max_size=3), cut=st.integers(0, 5))
def test_a_too_long_packet_is_refused_once_its_length_is_known(size: int, before: bytes, cut: int) -> None:
    header = fixed_header(0x30, size)
    bounds = body_bounds(before + header[:cut], len(before), LONGEST)
    start = len(before) + len(header)
    assert bounds == ((start, start + size) if cut >= len(header) else None)


def test_a_body_over_the_limit_is_malformed() -> None:
    assert body_bounds(packet(0x30, bytes(200)), 0, 200) == (3, 203)
    with pytest.raises(Malformed, match="packet of 201 bytes is over the limit of 200"):
        body_bounds(packet(0x30, bytes(201)), 0, 200)


def test_a_length_of_five_bytes_is_malformed_before_the_fifth_arrives() -> None:
    with pytest.raises(Malformed, match="more than four bytes"):
        body_bounds(b"\x30\x80\x80\x80\x80", 0, LONGEST)


@pytest.mark.parametrize("value", ["", "é", "a" * 300, b"\xff\x00"])
def test_text_and_data_have_their_length_before_them(value: str | bytes) -> None:
    assert length_prefixed(value) == mqtt_probe.text(value)
