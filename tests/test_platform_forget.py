"""Forgetting a device on either database, beside a store that goes on."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from platform_model import BOOT, EPOCH, bad_event, batch
from platform_store import rows, store_batches, store_match

import facewire_platform.history.forget
from facewire.messages import Ack, Match, Status
from facewire_cli.main import cli
from facewire_platform.columns.builder import Builder
from facewire_platform.filter import Filter
from facewire_platform.history.forget import Forgetting, Forgotten
from facewire_platform.history.periods import Period
from facewire_platform.history.queries import History
from facewire_platform.history.reports import Completeness
from facewire_platform.store.drivers import Location
from facewire_platform.store.schema import TABLES
from facewire_platform.store.writer import Message, Store, Unreadable, open_store

OTHER_EPOCH = "00000000000000e2"
#: Tables that are not about devices, but about the database or the column files as a whole.
GENERAL = {"store", "part", "part_folder"}


@pytest.fixture(autouse=True)
def data_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))


@pytest.fixture
def store(location: Location) -> Iterator[Store]:
    with open_store(location) as opened:
        yield opened


def fill(store: Store, device: str) -> None:
    """Two epochs: events around the watermark, a gap, bad events, a bad message, a status."""
    store.store([
        Message(device, batch(0, 5, 1, 2, 4, bad=(bad_event(5),)), 1),
        Message(device, batch(7, 9, 8, 9), 1),
        Message(device, batch(0, 2, 1, 2, epoch=OTHER_EPOCH), 1),
        Message(device, Unreadable(f"facewire/v1/{device}/match", "bad", b"x"), 1),
        Message(device, Status(BOOT, True, 1, OTHER_EPOCH, head=2, oldest=1, cursor=0), 1),
    ])  # fmt: skip


def forget(location: Location, device: str = "d", epoch: str | None = None, **how: Any) -> Forgotten:
    with Forgetting(location, rest=lambda _: None, **how) as forgetting:
        return list(forgetting.device(device, epoch))[-1]


def tables(location: Location) -> dict[str, list[Any]]:
    names = (table._meta.table_name for table in TABLES)
    return {name: sorted(map(repr, rows(location, f"SELECT * FROM {name}"))) for name in names if name not in GENERAL}


@pytest.mark.parametrize("chunk", [1, 1_000])
def test_a_forgotten_device_is_in_no_table_and_the_others_are_as_before(
    store: Store, location: Location, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(facewire_platform.history.forget, "CHUNK", chunk)
    fill(store, "other")
    before = tables(location)
    fill(store, "d")
    whole = Forgotten(epochs=2, events=7, quarantined=2)
    assert forget(location, dry_run=True) == whole
    assert len(rows(location, "SELECT 1 FROM event")) == 14
    assert forget(location) == whole
    assert tables(location) == before
    assert forget(location) == Forgotten()


def test_one_epoch_is_forgotten_and_the_rest_of_the_device_stays(store: Store, location: Location) -> None:
    fill(store, "d")
    assert forget(location, epoch=OTHER_EPOCH) == Forgotten(epochs=1, events=2)
    with History(location) as history:
        [row] = history.devices(all_epochs=True)
        assert (row["epoch"], row["current"], row["watermark"], row["online"]) == (EPOCH, True, 9, True)
        assert [row["unaccounted"] for row in history.conservation()] == [0]
    assert len(rows(location, "SELECT 1 FROM quarantine")) == 2


def test_a_killed_one_leaves_counts_that_add_up_and_the_next_one_ends_it(
    store: Store, location: Location, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(facewire_platform.history.forget, "CHUNK", 1)
    fill(store, "d")
    for _ in range(5):
        with Forgetting(location, rest=lambda _: None) as forgetting:
            next(forgetting.device("d"))
        with History(location) as history:
            assert {row["unaccounted"] for row in history.conservation()} == {0}
    assert forget(location).epochs == 2


def test_a_device_that_goes_on_comes_back_and_sends_what_it_holds(store: Store, location: Location) -> None:
    store_batches(store, batch(0, 3, 1, 2, 3))
    forget(location)
    ack = store_batches(store, batch(3, 4, 4))
    assert ack.cursor == 0
    assert store_batches(store, batch(0, 4, 1, 2, 3, 4)) == Ack(EPOCH, BOOT, 4, 4, store.identity)


def test_a_match_that_arrives_meanwhile_is_forgotten_too(store: Store, location: Location, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(store, "d")
    with Forgetting(location, rest=lambda _: None) as forgetting:
        steps = forgetting.device("d")
        next(steps)
        store.store([Message("d", Match(EPOCH, BOOT, 1, batch(10, 11, 11).events[0]), 1)])
        assert list(steps)[-1].epochs == 2
    assert not rows(location, "SELECT 1 FROM event")


def test_a_jump_to_an_absurd_seq_can_be_forgotten_and_reports_are_complete_again(store: Store, location: Location) -> None:
    store.store([Message("honest", batch(0, 1, 1), 10_000), Message("d", batch(2**62, 2**62 + 1, 2**62 + 1), 10_000)])
    store_match(store, 1_000_000, now_ms=10_000)

    def complete() -> bool:
        with History(location) as history:
            return Completeness(history).covers(Period(0, 9_000))

    assert not complete()
    assert forget(location).epochs == 1
    assert complete()


def test_column_files_forget_it_too(location: Location) -> None:
    with open_store(location) as store:
        fill(store, "d")
        fill(store, "other")
        with Builder(location) as builder:
            list(builder.build())
        forget(location)
        with History(location) as history:
            [counts] = history.counts(Filter(), [(0, 2**62)])
            assert counts["events"] == 7
    with Builder(location) as builder:
        assert sum(part.events for part in builder.parts()) == 7


def test_the_command_says_what_it_did_and_refuses_an_epoch_that_is_none(tmp_path: Path) -> None:
    with open_store(tmp_path / "x.db") as store:
        fill(store, "d")
    database = ["--database", f"sqlite:///{tmp_path}/x.db", "-o", "json"]
    shown = CliRunner().invoke(cli, ["platform", "forget", "d", "--dry-run", *database])
    assert json.loads(shown.stdout) == {"device": "d", "epochs": 2, "events": 7, "quarantined": 2, "dry_run": True}
    shown = CliRunner().invoke(cli, ["platform", "forget", "d", *database])
    assert json.loads(shown.stdout)["dry_run"] is False
    assert "no events of this device" in CliRunner().invoke(cli, ["platform", "forget", "d", *database]).stderr
    assert CliRunner().invoke(cli, ["platform", "forget", "d", "--epoch", "x", *database]).exit_code == 2
