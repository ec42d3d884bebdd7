from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from platform_model import BOOT, EPOCH, batch
from platform_store import event_at, store_events

from facewire.messages import Status
from facewire_cli.main import cli
from facewire_platform.health.state import HealthLimits, assess, outage_budget, silence, state, troubles
from facewire_platform.history.queries import History
from facewire_platform.store.writer import Message, Store, open_store
from facewire_system.clock import now_ms

ROW: dict[str, Any] = {
    "device": "d",
    "current": True,
    "online": True,
    "last_seen": 100_000,
    "period": 20.0,
    "head": 50,
    "watermark": 40,
    "lag": 10,
    "gaps": 0,
    "quarantined": 0,
    "dropped": 0,
    "capacity": 100,
    "rate": 0.5,
}


def row(**changed: Any) -> dict[str, Any]:
    return ROW | changed


def test_a_device_is_silent_three_periods_after_its_last_message() -> None:
    assert state(row(), 160_000) == "online"
    assert state(row(), 160_001) == "silent"
    assert state(row(period=60.0), 280_000) == "online"
    assert state(row(period=None), 160_001) == "silent"


def test_a_device_that_said_goodbye_is_offline_however_recently() -> None:
    assert state(row(online=False), 100_000) == "offline"


def test_no_device_is_silent_because_the_platform_clock_went_back() -> None:
    assert state(row(), 5) == "online"
    assert silence(row(), 5) == 0


def test_the_outage_budget_is_the_free_ring_at_the_rate_of_the_device() -> None:
    assert outage_budget(row()) == 180.0
    assert outage_budget(row(lag=100)) == outage_budget(row(lag=101)) == 0.0


@pytest.mark.parametrize("unknown", [{"rate": None}, {"rate": 0.0}, {"capacity": None}])
def test_an_unknown_budget_is_not_guessed(unknown: dict[str, Any]) -> None:
    assert outage_budget(row(**unknown)) is None


def test_an_earlier_epoch_has_neither_state_nor_budget() -> None:
    old = assess(row(current=False), 100_000)
    assert (old["state"], old["outage_budget"], old["acked"]) == (None, None, 40)
    assert list(troubles(old, HealthLimits(online=True), 100_000)) == []


@pytest.mark.parametrize(
    ("changed", "limits", "said"),
    [
        ({}, HealthLimits(max_lag=10, online=True, no_loss=True), []),
        ({"lag": 11}, HealthLimits(max_lag=10), ["lag 11 is over 10"]),
        ({"lag": 11}, HealthLimits(online=True, no_loss=True), []),
        ({"lag": 1}, HealthLimits(max_lag=0), ["lag 1 is over 0"]),
        ({"online": False}, HealthLimits(online=True), ["offline, last heard from 5 s ago"]),
        ({"last_seen": 5_000}, HealthLimits(online=True), ["silent, last heard from 100 s ago"]),
        ({"last_seen": 0}, HealthLimits(online=True), ["silent, not heard from yet"]),
        ({"gaps": 2, "dropped": 3}, HealthLimits(no_loss=True), ["gaps 2", "dropped 3"]),
        ({"quarantined": 1, "dropped": None}, HealthLimits(no_loss=True), ["quarantined 1"]),
    ],
)
def test_a_broken_limit_is_named_with_value_and_limit(changed: dict[str, Any], limits: HealthLimits, said: list[str]) -> None:
    assert list(troubles(assess(row(**changed), 105_000), limits, 105_000)) == said


# What the platform knows of a device


def fill(store: Store, device: str, times: list[int], now_ms: int) -> None:
    store_events(store, device, *(event_at(seq, at) for seq, at in enumerate(times, 1)), now_ms=now_ms)


def tell(store: Store, device: str, now_ms: int, *, at: int, online: bool = True, boot: str = BOOT) -> None:
    status = Status(boot, online, at, EPOCH, head=1, oldest=1, cursor=0, period=30.0, capacity=200) if online else Status(boot, online, at)
    store.store([Message(device, status, now_ms)])


def device(path: Path) -> dict[str, Any]:
    with History(path) as history:
        (row,) = history.devices()
    return row


def test_the_rate_is_that_of_the_last_thousand_events_until_the_last_status(tmp_path: Path) -> None:
    with open_store(tmp_path / "x.db") as store:
        # 500 events at one a second, 1,000 at ten a second, and a status 100 s after the last one.
        fill(store, "d", [*range(0, 500_000, 1000), *range(500_000, 600_000, 100)], 1)
        tell(store, "d", 700_000, at=700_000)
    assert device(tmp_path / "x.db")["rate"] == pytest.approx(1000 / 200)


def test_there_is_no_rate_without_events_or_with_a_stopped_clock(tmp_path: Path) -> None:
    with open_store(tmp_path / "x.db") as store:
        tell(store, "d", 10, at=5)
        assert device(tmp_path / "x.db")["rate"] is None
        fill(store, "d", [5, 5], 11)
        assert device(tmp_path / "x.db")["rate"] is None


def test_only_a_status_changes_the_clock_offset(tmp_path: Path) -> None:
    with open_store(tmp_path / "x.db") as store:
        tell(store, "d", 10_000, at=8_500)
        assert device(tmp_path / "x.db")["clock_offset"] == -1.5
        fill(store, "d", [1], 60_000)
        store.store([Message("d", batch(1, 1, boot="00000000000000b2"), 70_000)])
        assert device(tmp_path / "x.db")["clock_offset"] == -1.5
        tell(store, "d", 99_000, at=8_000, online=False)
        assert device(tmp_path / "x.db")["clock_offset"] == -1.5


def test_a_retained_status_says_nothing_about_the_clock(tmp_path: Path) -> None:
    with open_store(tmp_path / "x.db") as store:
        store.store([Message("d", Status(BOOT, True, 5, EPOCH), 90_000, retained=True)])
    shown = device(tmp_path / "x.db")
    assert (shown["clock_offset"], shown["last_seen"]) == (None, 0)


def test_a_restarted_worker_keeps_the_offset_of_a_retained_status(tmp_path: Path) -> None:
    same, later = (Status(BOOT, True, at, EPOCH) for at in (8_500, 28_500))
    with open_store(tmp_path / "x.db") as store:
        store.store([Message("d", same, 10_000)])
        store.store([Message("d", same, 90_000, retained=True)])
        assert device(tmp_path / "x.db")["clock_offset"] == -1.5
        store.store([Message("d", later, 90_000, retained=True)])
        assert device(tmp_path / "x.db")["clock_offset"] is None


# The command


def run(path: Path, *arguments: str) -> Result:
    return CliRunner().invoke(cli, ["status", "--database", f"sqlite:///{path}", *arguments])


@pytest.fixture
def site(tmp_path: Path) -> Path:
    with open_store(tmp_path / "x.db") as store:
        fill(store, "lobby", [1, 2], 1)
        store.store([Message("gate", batch(5, 5, head=9), 1)])
    return tmp_path / "x.db"


def test_a_check_names_what_is_unhealthy_and_exits_3(site: Path) -> None:
    done = run(site, "--check", "--max-lag", "5")
    assert (done.exit_code, done.stderr) == (3, "gate: lag 9 is over 5\n")
    done = run(site, "--check", "--online", "-d", "lobby", "-d", "attic")
    assert done.exit_code == 3
    assert done.stderr.startswith("attic: never heard from\nlobby: offline, last heard from ")


def test_a_check_that_finds_all_well_exits_0(site: Path) -> None:
    done = run(site, "--check", "--max-lag", "9", "--no-loss")
    assert (done.exit_code, done.stderr) == (0, "")


@pytest.mark.parametrize("arguments", [["--check"], ["--max-lag", "5"], ["--check", "--max-lag", "-1"]])
def test_a_check_of_nothing_and_a_limit_without_a_check_are_refused(site: Path, arguments: list[str]) -> None:
    assert run(site, *arguments).exit_code == 2


@pytest.mark.parametrize("command", [["status"], ["events"], ["gaps"], ["report", "attendance"], ["report", "traffic", "--by", "day"]])
def test_a_device_that_does_not_exist_is_named_and_one_that_does_is_not(site: Path, command: list[str]) -> None:
    def stderr(device: str) -> str:
        done = CliRunner().invoke(cli, [*command, "--database", f"sqlite:///{site}", "-d", device, "-o", "csv"])
        assert done.exit_code == 0
        return done.stderr

    with open_store(site) as store:
        tell(store, "hall", 0, at=0)  # it has sent a status, and no event
    said = "nobody: the platform has never heard of this device\n"
    assert stderr("nobody").startswith(said)
    assert stderr("nobody").count("never heard") == 1
    assert not [device for device in ("lobby", "gate", "hall") if "never heard" in stderr(device)]


def test_missed_matches_are_shown_if_there_are_any(site: Path) -> None:
    with open_store(site) as store:
        now = now_ms()
        store.store([Message("lobby", Status(BOOT, online=True, at=now, epoch=EPOCH, head=1, missed=7), now)])
    head, *_, lobby = run(site, "-o", "pretty", "-d", "lobby").stdout.splitlines()
    assert (head.split()[-1], lobby.split()[-1]) == ("missed", "7")


def test_the_table_shows_readable_ages_and_durations(site: Path) -> None:
    with open_store(site) as store:
        tell(store, "lobby", 10_000, at=8_500)
    head, *_, lobby = run(site, "-o", "pretty", "-d", "lobby").stdout.splitlines()
    names = ["device", "state", "last_seen", "head", "acked", "lag", "gaps", "quarantined", "dropped", "clock_offset", "outage_budget"]
    assert head.split() == names
    assert " ago " in lobby
    assert "-1.5 s" in lobby
