import itertools
from pathlib import Path

import pytest

from facewire.errors import DecodeError
from facewire.events import event_from_source
from facewire_device.recordings import read_badges, read_file

HEADER = "timestamp, type, prox-id, floor, zone\n"
VENDOR = Path(__file__).parent / "data" / "vendor-events.jsonl"


def row(minute: str = "2016-06-01 07:00", person: str = "earpa001", zone: str = "1") -> str:
    return f"{minute}, fixed-prox, {person},1,{zone}\n"


def test_each_zone_is_a_device_and_each_badge_a_person() -> None:
    first, second = read_badges([HEADER, row(), row(person="vawelon001", zone="6")])
    assert (first.device, second.device) == ("floor-1-zone-1", "floor-1-zone-6")
    assert first.fields["identity_id"] == "earpa001"
    assert first.fields["ep_id"] == "floor-1-zone-1"


def test_readings_that_share_a_minute_are_spread_over_it_in_their_order() -> None:
    times = [reading.timestamp for reading in read_badges([HEADER, row(), row(), row(), row(minute="2016-06-01 07:01")])]
    assert [later - earlier for earlier, later in itertools.pairwise(times)] == [20_000, 20_000, 20_000]


def test_scores_come_from_the_row_and_stay_in_their_range() -> None:
    lines = [HEADER, *(row(person=f"p{number}") for number in range(200))]
    scores = [reading.fields["score"] for reading in read_badges(lines)]
    assert scores == [reading.fields["score"] for reading in read_badges(lines)]
    assert 0.6 <= min(scores) < 0.65 < 0.95 < max(scores) < 1.0


def test_a_reading_is_an_event() -> None:
    (reading,) = read_badges([HEADER, row()])
    assert event_from_source(reading.fields).identity_id == "earpa001"


@pytest.mark.parametrize(
    ("lines", "complaint"),
    [
        (["a,b\n"], r"^line 1: columns \['a', 'b'\] are not "),
        ([HEADER, row(), "2016-06-01 07:00, fixed-prox\n"], r"^line 3: not 5 columns$"),
        ([HEADER, row() + "x"], r"^line 3: not 5 columns$"),
        ([HEADER, row(minute="yesterday")], r"^line 2: time data 'yesterday' does not match"),
    ],
)
def test_a_bad_line_is_named(lines: list[str], complaint: str) -> None:
    with pytest.raises(DecodeError, match=complaint):
        list(read_badges("".join(lines).splitlines(keepends=True)))


def test_vendor_events_keep_their_fields(tmp_path: Path) -> None:
    readings = list(read_file(VENDOR, "box"))
    assert {reading.device for reading in readings} == {"box"}
    assert readings[0].fields["ext_data"]["person_type"] == readings[0].fields["person_type"] == 5
    assert "seq" not in readings[0].fields
    bad = tmp_path / "bad.jsonl"
    bad.write_bytes(VENDOR.read_bytes() + b"{}\n")
    with pytest.raises(DecodeError, match=r"^line 4: "):
        list(read_file(bad, "box"))


def test_the_excerpt_that_the_demo_replays_is_three_devices_in_order() -> None:
    excerpt = Path(__file__).parent.parent / "broker" / "facewire_cli" / "badge-excerpt.csv"
    readings = list(read_file(excerpt))
    assert {reading.device for reading in readings} == {"floor-1-zone-1", "floor-1-zone-4", "floor-2-zone-1"}
    assert len(readings) == 1308
    assert all(earlier.timestamp <= later.timestamp for earlier, later in itertools.pairwise(readings))
