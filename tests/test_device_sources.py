import os
import re
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from facewire.errors import EventError
from facewire.events import MAX_EVENT_BYTES, Event
from facewire_device.identity import machine_identity
from facewire_device.sources import CHUNK_BYTES, MAX_LINE_BYTES, BadLine, read_event, read_events

LINE = b'{"timestamp": 1, "score": 82, "identity_id": "p", "identity_name": "n", "person_type": 1}'
EVENT = Event(0, 1, 82.0, "p", "n", 1, None, None, {})


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    reader, writer = os.pipe()
    yield reader, writer
    for fd in (reader, writer):
        try:
            os.close(fd)
        except OSError:
            continue


def read(content: bytes, tmp_path: Path) -> tuple[list[Event], list[BadLine]]:
    file = tmp_path / "source"
    file.write_bytes(content)
    with file.open("rb") as opened:
        steps = list(read_events(opened.fileno()))
    return [event for events, _ in steps for event in events], [line for _, bad in steps for line in bad]


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\n\n \n"])
def test_each_line_is_an_event_however_it_ends(end: bytes, tmp_path: Path) -> None:
    assert read(LINE + end + LINE + end, tmp_path) == ([EVENT, EVENT], [])


def test_the_last_line_needs_no_newline(tmp_path: Path) -> None:
    assert read(LINE + b"\n" + LINE, tmp_path) == ([EVENT, EVENT], [])


def test_an_empty_source_has_no_events(tmp_path: Path) -> None:
    assert read(b"", tmp_path) == ([], [])


def test_a_byte_order_mark_is_not_part_of_the_first_line(tmp_path: Path) -> None:
    assert read(b"\xef\xbb\xbf" + LINE + b"\n\xef\xbb\xbf" + LINE, tmp_path)[0] == [EVENT]


def test_a_bad_line_is_reported_with_its_number_counting_blank_ones_and_the_others_are_read(tmp_path: Path) -> None:
    events, bad = read(LINE + b"\n\n{bad\n" + LINE + b"\r\n[1]\n" + LINE.replace(b"82", b"NaN") + b"\n" + LINE, tmp_path)
    assert events == [EVENT] * 3
    assert [line.number for line in bad] == [3, 5, 6]
    assert bad[1].reason == "line begins with '[', not with '{': it is not a JSON object"


def test_an_error_does_not_repeat_a_line_that_may_hold_a_name(tmp_path: Path) -> None:
    _, (bad,) = read(b"John Smith,82.4\n", tmp_path)
    assert "ohn" not in bad.reason


@pytest.mark.parametrize("line", [b"\xff\xfe{\x00}\x00", b"\x00", b"{}", b"{" * 10_000, b'"{"', b'{"a":' * 5_000])
def test_noise_is_just_a_bad_line(line: bytes, tmp_path: Path) -> None:
    events, bad = read(line + b"\n" + LINE, tmp_path)
    assert events == [EVENT]
    assert [found.number for found in bad] == [1]


@pytest.mark.parametrize("size_bytes", [MAX_LINE_BYTES + 1, MAX_LINE_BYTES + CHUNK_BYTES + 1, 10_000_000])
def test_a_too_long_line_is_skipped_completely(size_bytes: int, tmp_path: Path) -> None:
    events, (bad,) = read(LINE + b"\n{" + b"x" * size_bytes + b"\n" + LINE, tmp_path)
    assert events == [EVENT, EVENT]
    assert bad.number == 2
    assert f"over the limit of {MAX_LINE_BYTES}" in bad.reason


def test_a_too_long_line_is_not_held_in_memory(pipe: tuple[int, int]) -> None:
    reader, writer = pipe

    def feed() -> None:
        for _ in range(100):
            os.write(writer, bytes(CHUNK_BYTES))
        os.write(writer, b"\n")
        os.close(writer)

    threading.Thread(target=feed).start()
    (bad,) = (line for _, lines in read_events(reader) for line in lines)
    found = re.match(r"line of (\d+) bytes", bad.reason)
    assert found
    assert int(found[1]) <= MAX_LINE_BYTES + CHUNK_BYTES


def test_the_largest_allowed_event_is_read_and_a_larger_one_is_bad(tmp_path: Path) -> None:
    picture = '"picture": "' + "!" * (MAX_EVENT_BYTES - 1000) + '"'
    large = LINE[:-1] + b", " + picture.encode() + b"}"
    larger = large[:-2] + b"x" * 1000 + b'"}'
    events, bad = read(large + b"\n" + larger, tmp_path)
    assert len(events) == 1
    assert [line.number for line in bad] == [2]


def test_a_seq_given_by_the_source_is_ignored() -> None:
    assert read_event(LINE[:-1] + b', "seq": 77}') == EVENT


def test_the_vendors_nested_person_type_is_read() -> None:
    event = read_event(LINE.replace(b', "person_type": 1', b', "ext_data": {"person_type": 3}'))
    assert event.person_type == 3


def test_a_field_that_is_missing_is_named() -> None:
    with pytest.raises(EventError, match="score is missing"):
        read_event(LINE.replace(b"score", b"scor"))


def test_an_event_is_yielded_as_soon_as_its_line_is_complete(pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    steps = read_events(reader)
    os.write(writer, LINE + b"\n" + LINE[:10])
    assert next(steps) == ([EVENT], [])
    os.write(writer, LINE[10:] + b"\n")
    assert next(steps) == ([EVENT], [])


def test_the_source_is_read_no_further_than_asked(pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    os.set_blocking(writer, False)
    steps = read_events(reader)
    os.write(writer, LINE + b"\n")
    next(steps)
    with pytest.raises(BlockingIOError):
        fill(writer)


def fill(fd: int) -> None:
    for _ in range(1_000):
        os.write(fd, LINE * 10 + b"\n")


def test_the_first_existing_source_identifies_the_machine(tmp_path: Path) -> None:
    serial, card = tmp_path / "serial", tmp_path / "machine-id"
    card.write_text("0123\n")
    by_card = machine_identity([serial, card])
    serial.write_bytes(b"10000000abcdef\0")
    by_serial = machine_identity([serial, card])
    assert by_card
    assert by_serial
    assert by_card != by_serial
    assert len(by_serial) == 16
    assert machine_identity([tmp_path / "missing"]) is None
