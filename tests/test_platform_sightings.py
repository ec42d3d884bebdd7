"""A device's pace and the turns of its boots, by the platform's clock; impossible event times."""

import time
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from platform_model import BOOT, EPOCH, batch
from platform_store import event_at

from facewire.messages import Status
from facewire_cli.main import cli
from facewire_platform.health import doctor
from facewire_platform.health.doctor import check_database
from facewire_platform.health.state import assess
from facewire_platform.history.queries import History
from facewire_platform.sightings import PACE_EVENTS, TURNS, TURNS_WITHIN, Turns, pace, rate
from facewire_platform.store.writer import Message, Store, open_store
from facewire_platform_cli import status

OTHER = "e" * 16
NOW = time.time_ns() // 1_000_000
DAY = 86_400_000


def tell(store: Store, at_ms: int, boot: str = BOOT, **more: Any) -> None:
    fields: dict[str, Any] = {"at": at_ms, "epoch": EPOCH, "head": 10, "capacity": 10_000} | more
    store.store([Message("gate", Status(boot, online=True, **fields), at_ms)])


@pytest.fixture(autouse=True)
def _clock_stands_still(monkeypatch: pytest.MonkeyPatch) -> None:
    """The commands' clock shows `NOW`, which is from when the tests were collected."""
    for module in (status, doctor):
        monkeypatch.setattr(module, "now_ms", lambda: NOW)


def row(path: Path, now_ms: int = NOW) -> dict[str, Any]:
    with History(path) as history:
        (found,) = (assess(each, now_ms) for each in history.devices())
    return found


def run(path: Path, *arguments: str) -> Result:
    return CliRunner().invoke(cli, [*arguments, "--database", f"sqlite:///{path}"])


def heard(*boots: str, every: int = 20_000, known: str = "") -> int:
    turns, seen = Turns(), set(known)
    for number, boot in enumerate(boots):
        turns = turns.heard(boot, number * every, is_known=boot in seen)
        seen.add(boot)
    return turns.takeovers(len(boots) * every)


def test_boots_that_speak_in_turns_are_two_boxes() -> None:
    assert heard(*"ababab") == TURNS
    assert heard(*"abababab") == TURNS + 2


@pytest.mark.parametrize("boots", ["", "aaaaaaaaa", "abcdefghi", "ababbbbbbb", "abacadaeaf"[:5]])
def test_restarts_and_stragglers_are_not(boots: str) -> None:
    assert heard(*boots) == 0


def test_turns_that_are_far_apart_or_long_ago_do_not_count() -> None:
    assert heard(*"abababababab", every=TURNS_WITHIN + 1) == 0
    turns = Turns("a", TURNS, 1_000)
    assert turns.takeovers(1_000 + TURNS_WITHIN) == TURNS
    assert turns.takeovers(1_001 + TURNS_WITHIN) == 0


def test_the_pace_is_that_of_the_last_events_as_they_came() -> None:
    before: dict[str, Any] = {}
    for at in range(0, 4_000_000, 20_000):  # one a second, then ten a second
        head = at // 1000 if at < 2_000_000 else 2_000 + (at - 2_000_000) // 100
        before = {"epoch": EPOCH, "pace": pace(before, EPOCH, head, at)}
    assert rate(before["pace"], head, at) == pytest.approx(10, rel=0.01)
    assert head - before["pace"][0][1] <= 2 * PACE_EVENTS + 400
    assert pace(before, "f" * 16, 3, at) == [[at, 3]]
    assert rate([[at, 3]], 3, at) is None


@pytest.mark.parametrize("unit", ["1970", "seconds", "microseconds"])
def test_the_budget_does_not_depend_on_the_times_of_the_events(tmp_path: Path, unit: str) -> None:
    """It became 569 years, so that its alarm could not fire."""
    began = NOW - 3_600_000
    with open_store(tmp_path / "x.db") as store:
        for minute in range(61):  # one event a second
            now_ms = began + minute * 60_000
            at = {"1970": now_ms - began, "seconds": now_ms // 1000, "microseconds": now_ms * 1000}[unit]
            events = [event_at(seq, at) for seq in range(minute * 60 + 1, minute * 60 + 61)]
            store.store([Message("gate", batch(minute * 60, minute * 60 + 60, *events), now_ms)])
            tell(store, now_ms, at=at, head=minute * 60 + 60)
            if minute == 1:
                early = row(tmp_path / "x.db", now_ms)
    assert early["outage_budget"] == pytest.approx(10_000, rel=0.05)
    shown = row(tmp_path / "x.db")
    assert shown["rate"] == pytest.approx(1.0)
    assert shown["outage_budget"] == pytest.approx(10_000)
    said = "3,660 events with a time before 2020 or after tomorrow, far from when it came: gate 3,660\n"
    assert run(tmp_path / "x.db", "status").stderr == said
    assert run(tmp_path / "x.db", "status", "-d", "gate").stderr == said
    assert run(tmp_path / "x.db", "status", "-d", "other").stderr == "other: the platform has never heard of this device\n"
    assert run(tmp_path / "x.db", "status", "--check", "--no-loss").stderr == ""
    assert run(tmp_path / "x.db", "report", "traffic", "--tz", "UTC").stderr.endswith(said)
    (finding,) = (finding for finding in check_database(tmp_path / "x.db") if finding.check == "event times")
    assert (finding.verdict, finding.message + "\n") == ("warn", said)


def store_and_tell(store: Store, after: int, at_ms: int, *times: int) -> None:
    """A batch and a status that arrive at this time, with events of these times."""
    head = after + len(times)
    store.store([Message("gate", batch(after, head, *(event_at(after + n, at) for n, at in enumerate(times, 1))), at_ms)])
    tell(store, at_ms, head=head)


def test_a_replay_of_old_events_shows_no_budget_until_the_device_records_again(tmp_path: Path) -> None:
    """It showed 920,574 days: four events in the year since."""
    path, year_ago = tmp_path / "x.db", NOW - 365 * DAY
    with open_store(path) as store:
        store_and_tell(store, 0, NOW, *(year_ago + n for n in range(4)))
        assert row(path)["outage_budget"] is None
        tell(store, NOW + 20_000, head=4)
        assert row(path, NOW + 20_000)["outage_budget"] is None
        store_and_tell(store, 4, NOW + 60_000, *(NOW + n for n in range(60)))
    assert row(path, NOW + 60_000)["outage_budget"] == pytest.approx(10_000), "one a second since the platform first heard from it"


def test_events_of_today_show_a_budget_at_once(tmp_path: Path) -> None:
    with open_store(tmp_path / "x.db") as store:
        store_and_tell(store, 0, NOW, *range(NOW - 100_000, NOW, 1_000))
    assert row(tmp_path / "x.db")["outage_budget"] == pytest.approx(10_000)


def test_times_of_today_and_of_last_year_are_not_mentioned(tmp_path: Path) -> None:
    with open_store(tmp_path / "x.db") as store:
        events = [event_at(1, NOW - 365 * DAY), event_at(2, NOW), event_at(3, NOW + DAY // 2)]
        store.store([Message("gate", batch(0, 3, *events), NOW)])
    assert run(tmp_path / "x.db", "status").stderr == ""
    assert "event times" not in {finding.check for finding in check_database(tmp_path / "x.db")}


def test_two_boxes_with_one_id_are_named(tmp_path: Path) -> None:
    with open_store(tmp_path / "x.db") as store:
        for number in range(8):
            tell(store, NOW - 160_000 + number * 20_000, (BOOT, OTHER)[number % 2])
    assert row(tmp_path / "x.db")["takeovers"] == 6
    done = run(tmp_path / "x.db", "status", "--check", "--no-loss")
    assert (done.exit_code, done.stderr) == (3, "gate: two boxes use this id: 6 takeovers\n")
    (finding,) = (finding for finding in check_database(tmp_path / "x.db") if finding.check == "device ids")
    assert finding.verdict == "FAIL"
    assert "gate (6 takeovers)" in finding.message
    assert row(tmp_path / "x.db", NOW + TURNS_WITHIN)["takeovers"] == 0


def test_a_restart_whose_last_status_comes_late_is_one_box(tmp_path: Path) -> None:
    with open_store(tmp_path / "x.db") as store:
        for number, boot in enumerate((BOOT, OTHER, BOOT, OTHER, OTHER)):
            tell(store, NOW - 160_000 + number * 20_000, boot)
        store.store([Message("gate", Status(BOOT, online=False, at=NOW), NOW)])
        store.store([Message("gate", Status(BOOT, online=True, at=NOW), NOW, retained=True)])
    assert row(tmp_path / "x.db")["takeovers"] == 0
    assert run(tmp_path / "x.db", "status", "--check", "--no-loss").exit_code == 0


def test_the_clock_offset_is_what_the_device_measured_by_a_round_trip(tmp_path: Path) -> None:
    with open_store(tmp_path / "x.db") as store:
        tell(store, NOW, at=NOW - 6_000)
        assert row(tmp_path / "x.db")["clock_offset"] == -6.0
        tell(store, NOW, at=NOW - 6_000, clock_error_ms=-20, clock_uncertainty_ms=9)
        assert row(tmp_path / "x.db")["clock_offset"] == -0.02
