"""Attendance and traffic on either database, and what is said of how complete they are."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from platform_model import EPOCH, batch
from platform_store import event_at, store_batches, store_match

import facewire_platform.history.reports
from facewire.events import Event
from facewire.messages import Status
from facewire_cli.main import cli
from facewire_platform.filter import Filter
from facewire_platform.history.periods import Period
from facewire_platform.history.queries import History
from facewire_platform.history.reports import Completeness, Coverage, attendance, traffic
from facewire_platform.history.retention import Retention
from facewire_platform.store.drivers import Location
from facewire_platform.store.writer import Message, Store, open_store

HOUR = 3_600_000
DAY = Period(0, 24 * HOUR)


@pytest.fixture
def store(location: Location) -> Iterator[Store]:
    with open_store(location) as opened:
        yield opened


def event_at_hour(seq: int, hour: float, who: str = "7", kind: int = 1, ep: str | None = None, **more: Any) -> Event:
    return event_at(seq, int(hour * HOUR), identity_id=who, identity_name=f"name {who}", person_type=kind, ep_id=ep, **more)


def coverage(location: Location, *, device: str | None = None, period: Period = DAY) -> list[Coverage]:
    with History(location) as history:
        return list(Completeness(history, device).of(period))


@pytest.mark.parametrize("page", [1, 10_000])
def test_attendance_has_first_and_last_seen_and_passes_without_strangers(
    store: Store, location: Location, page: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(facewire_platform.history.reports, "PEOPLE", page)
    events = (
        event_at_hour(1, -0.1),
        event_at_hour(2, 0, "8"),
        event_at_hour(3, 8, ep="in"),
        event_at_hour(4, 7, ep="side"),
        event_at_hour(5, 12, ep="out"),
        event_at_hour(6, 13, ep="in"),
        event_at_hour(7, 18, ep="side"),
        event_at_hour(8, 9, "s1", 4),
        event_at_hour(9, 24, "8"),
        event_at_hour(10, 10, "nul\0"),
    )
    store_batches(store, batch(0, 10, *events))
    with History(location) as history:
        rows = list(attendance(history, Filter(), DAY))
        directed = list(attendance(history, Filter(), DAY, entrances=["in", "door"], exits=["out"]))
        scored = list(attendance(history, Filter(min_score=0.9), DAY))
    assert rows == [
        {"identity_id": "7", "identity_name": "name 7", "first_seen": 7 * HOUR, "last_seen": 18 * HOUR, "passes": 5},
        {"identity_id": "8", "identity_name": "name 8", "first_seen": 0, "last_seen": 0, "passes": 1},
        {"identity_id": "nul\0", "identity_name": "name nul\0", "first_seen": 10 * HOUR, "last_seen": 10 * HOUR, "passes": 1},
    ]
    assert directed[0] == rows[0] | {"first_in": 8 * HOUR, "last_out": 12 * HOUR}
    assert directed[1] == rows[1] | {"first_in": None, "last_out": None}
    assert scored == []


def test_traffic_counts_events_people_and_strangers_of_each_period(store: Store, location: Location) -> None:
    events = (
        event_at_hour(1, 0),
        event_at_hour(2, 0.5),
        event_at_hour(3, 0.9, "8"),
        event_at_hour(4, 0.9, "s1", 4),
        event_at_hour(5, 1, "s2", 4),
        event_at_hour(6, 3, "8"),
    )
    store_batches(store, batch(0, 6, *events))
    with History(location) as history:
        rows = list(traffic(history, Filter(), [Period(hour * HOUR, (hour + 1) * HOUR) for hour in range(4)]))
    assert [(row["events"], row["people"], row["strangers"]) for row in rows] == [(4, 2, 1), (1, 0, 1), (0, 0, 0), (1, 1, 0)]


def test_a_device_without_lag_is_complete_up_to_its_last_message(store: Store, location: Location) -> None:
    store_batches(store, batch(0, 1, event_at_hour(1, 8)), now_ms=9 * HOUR)
    assert coverage(location) == [Coverage("d", 9 * HOUR, 8 * HOUR, 0)]
    with History(location) as history:
        complete = Completeness(history)
        assert complete.covers(Period(0, 9 * HOUR))
        assert not complete.covers(Period(0, 9 * HOUR + 1))


def test_a_device_with_lag_is_complete_up_to_its_watermark(store: Store, location: Location) -> None:
    store_batches(store, batch(0, 1, event_at_hour(1, 8), head=5), now_ms=9 * HOUR)
    store.store([Message("late", Status("00000000000000b9", True, 1, EPOCH, head=7, oldest=1, cursor=0), 9 * HOUR)])
    assert coverage(location) == [Coverage("d", 8 * HOUR, 8 * HOUR, 4), Coverage("late", None, None, 7)]
    assert coverage(location, device="late") == [Coverage("late", None, None, 7)]
    with History(location) as history:
        assert not Completeness(history).covers(Period(0, HOUR))
        assert Completeness(history, "d").covers(Period(0, HOUR))


def test_a_match_that_overtook_its_history_copy_counts_as_lag(store: Store, location: Location) -> None:
    store_batches(store, batch(0, 1, event_at_hour(1, 8)), now_ms=9 * HOUR)
    store_match(store, 4, now_ms=10 * HOUR)
    assert coverage(location) == [Coverage("d", 8 * HOUR, 8 * HOUR, 3)]


def test_a_gap_counts_in_the_periods_that_it_may_reach_into(store: Store, location: Location) -> None:
    store_batches(store, batch(0, 6, event_at_hour(1, 8), event_at_hour(5, 10), event_at_hour(6, 11)), now_ms=30 * HOUR)
    for since, until, gaps in ((0, 8, 0), (0, 8.1, 1), (9, 9.5, 1), (10, 24, 1), (10.1, 24, 0)):
        period = Period(int(since * HOUR), int(until * HOUR))
        [found] = coverage(location, period=period)
        assert (found.gaps, found.lost) == (gaps, 3 * gaps), period
        with History(location) as history:
            assert Completeness(history).covers(period) == (not gaps)


def test_a_gap_at_the_end_counts_until_its_declaration_and_after_a_purge_at_any_time(store: Store, location: Location) -> None:
    store_batches(store, batch(0, 3, event_at_hour(1, 8)), now_ms=12 * HOUR)
    assert [coverage(location, period=Period(since * HOUR, 24 * HOUR))[0].lost for since in (9, 12, 13)] == [2, 2, 0]
    assert coverage(location, period=Period(0, 8 * HOUR))[0].lost == 0
    with Retention(location, rest=lambda _: None) as retention:
        list(retention.older_than(20 * HOUR))
    assert coverage(location, period=Period(0, 8 * HOUR))[0].lost == 2


def test_the_gaps_of_an_earlier_epoch_count_and_what_it_never_sent_is_one(store: Store, location: Location) -> None:
    store_batches(store, batch(0, 3, event_at_hour(1, 8), event_at_hour(3, 10), head=9), now_ms=11 * HOUR)
    store_batches(store, batch(0, 1, event_at_hour(1, 10), epoch="00000000000000e2"), now_ms=24 * HOUR)
    assert coverage(location) == [Coverage("d", 24 * HOUR, 10 * HOUR, 0, gaps=2, lost=7)]


# The commands


def run(path: Path, *arguments: str) -> Result:
    return CliRunner().invoke(cli, ["report", *arguments, "--database", f"sqlite:///{path}"])


@pytest.fixture
def berlin(tmp_path: Path) -> Path:
    """The day in 2026 that has 25 hours in Berlin: from 2026-10-24T22:00Z on."""
    midnight = 1_792_879_200_000 / HOUR
    with open_store(tmp_path / "x.db") as store:
        events = (
            event_at_hour(1, midnight - 1),
            event_at_hour(2, midnight + 2.5),
            event_at_hour(3, midnight + 3.5, ep="gate"),
            event_at_hour(4, midnight + 24.5, "s", 4),
        )
        store_batches(store, batch(0, 4, *events), now_ms=int((midnight + 24) * HOUR))
    return tmp_path / "x.db"


def test_traffic_of_a_day_of_25_hours(berlin: Path) -> None:
    done = run(berlin, "traffic", "--day", "2026-10-25", "--tz", "Europe/Berlin", "-o", "json")
    *rows, device = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(rows) == 25
    assert [(row["since"][11:], row["events"]) for row in rows if row["events"]] == [
        ("02:00:00.000+02:00", 1),
        ("02:00:00.000+01:00", 1),
        ("23:00:00.000+01:00", 1),
    ]
    assert [row["complete"] for row in rows] == [True] * 24 + [False]
    assert device["record"] == "device"
    assert (device["complete"], device["lag"], device["complete_until"]) == (False, 0, "2026-10-25T23:00:00.000+01:00")
    assert done.stderr == "incomplete: 1 of 1 device\n  d: complete until 2026-10-25 23:00:00\n"


def test_a_report_of_several_days_ends_with_the_given_day(berlin: Path) -> None:
    done = run(berlin, "traffic", "--by", "day", "--day", "2026-10-25", "--days", "3", "--tz", "Europe/Berlin", "-o", "csv")
    assert done.stdout.splitlines() == [
        "since,until,events,people,strangers,complete",
        "2026-10-23T00:00:00.000+02:00,2026-10-24T00:00:00.000+02:00,0,0,0,true",
        "2026-10-24T00:00:00.000+02:00,2026-10-25T00:00:00.000+02:00,1,1,0,true",
        "2026-10-25T00:00:00.000+02:00,2026-10-26T00:00:00.000+01:00,3,1,1,false",
    ]


def test_attendance_with_directions_from_the_settings(berlin: Path, tmp_path: Path) -> None:
    (tmp_path / "settings.toml").write_text('[report.attendance]\ntz = "Europe/Berlin"\nday = 2026-10-25\nentrances = ["gate"]\n')
    arguments = ["--config", str(tmp_path / "settings.toml"), "report", "attendance", "--database", f"sqlite:///{berlin}", "-o", "json"]
    [person, device] = [json.loads(line) for line in CliRunner().invoke(cli, arguments).stdout.splitlines()]
    assert person == {
        "record": "attendance",
        "day": "2026-10-25",
        "identity_id": "7",
        "identity_name": "name 7",
        "first_seen": "2026-10-25T02:30:00.000+02:00",
        "last_seen": "2026-10-25T02:30:00.000+01:00",
        "passes": 2,
        "first_in": "2026-10-25T02:30:00.000+01:00",
        "complete": False,
    }
    assert device["device"] == "d"


def test_the_moments_of_one_column_have_one_precision(tmp_path: Path) -> None:
    with open_store(tmp_path / "x.db") as store:
        store_batches(store, batch(0, 2, event_at_hour(1, 7, "1"), event_at_hour(2, 7 + 7 / 3600, "2")))
    lines = run(tmp_path / "x.db", "attendance", "--day", "1970-01-01", "--tz", "UTC", "-o", "pretty").stdout.splitlines()
    assert [line.split()[5] for line in lines[1:]] == ["07:00:00", "07:00:07"]
    hour = run(tmp_path / "x.db", "traffic", "--day", "1970-01-01", "--tz", "UTC", "-o", "pretty").stdout.splitlines()[1]
    assert hour.split()[:4] == ["1970-01-01", "00:00", "1970-01-01", "01:00"]


def test_the_notice_says_if_all_is_complete_and_names_at_most_ten_devices(tmp_path: Path) -> None:
    with open_store(tmp_path / "x.db") as store:
        for number in range(12):
            store_batches(store, batch(0, 1, event_at_hour(1, 1)), device=f"d{number}", now_ms=2**50)
        assert (
            run(tmp_path / "x.db", "traffic", "--day", "1970-01-02", "--tz", "UTC").stderr
            == "complete: everything that 12 devices recorded\n"
        )
        for number in range(12):
            store_batches(store, batch(1, 1, head=3), device=f"d{number}", now_ms=2**50)
    lines = run(tmp_path / "x.db", "attendance", "--day", "1970-01-02", "--tz", "UTC").stderr.splitlines()
    assert lines[:2] == ["incomplete: 12 of 12 devices", "  d0: complete until 1970-01-01 01:00:00, 2 events behind"]
    assert lines[-1] == "  and 2 more"
    assert len(lines) == 12


def test_a_report_without_devices_says_that_none_has_reported(tmp_path: Path) -> None:
    open_store(tmp_path / "x.db").close()
    done = run(tmp_path / "x.db", "attendance")
    assert (done.exit_code, done.stdout, done.stderr) == (0, "", "no device has reported yet\n")


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--tz", "Mars/Olympus"], "'Mars/Olympus' is not a time zone"),
        (["--tz", "../../etc/passwd"], "is not a time zone"),
        (["--day", "someday"], "'someday' is not a day"),
        (["--day", "9999-12-31"], "is not from 0001-01-02 to 9999-12-29"),
        (["--day", "0001-01-05", "--days", "30"], "0001-01-05: date value out of range"),
        (["--days", "0"], "0 is not in the range"),
    ],
)
def test_an_option_that_makes_no_sense_is_a_usage_error(tmp_path: Path, arguments: list[str], reason: str) -> None:
    open_store(tmp_path / "x.db").close()
    done = run(tmp_path / "x.db", "traffic", *arguments)
    assert done.exit_code == 2
    assert reason in " ".join(done.stderr.replace("│", " ").split())


def test_attendance_shows_both_times_while_a_boxs_clock_is_off(tmp_path: Path) -> None:
    path, ahead = tmp_path / "x.db", 4 * HOUR
    with open_store(path) as store:
        off = event_at_hour(1, 12, extra={"corrected_timestamp": 12 * HOUR - ahead})
        store_batches(store, batch(0, 2, off, event_at_hour(2, 13)), device="gate-1")
        status = Status("00000000000000b1", True, 1, EPOCH, period=20.0, proof="proven", source_offset=ahead)
        store.store([Message("gate-1", status, 1)])
    result = run(path, "attendance", "--day", "1970-01-01", "--tz", "UTC", "-o", "json")
    row = json.loads(result.stdout.splitlines()[0])
    assert (row["first_seen"], row["first_seen_corrected"]) == ("1970-01-01T12:00:00.000+00:00", "1970-01-01T08:00:00.000+00:00")
    assert (row["last_seen"], row["last_seen_corrected"]) == ("1970-01-01T13:00:00.000+00:00", None)
