"""Losses that devices declare are said once for each episode."""

import logging
from dataclasses import replace
from typing import Any

import pytest
from platform_model import batch

from facewire.messages import Ack, Batch
from facewire_platform.intake import declared as module
from facewire_platform.intake.counters import Counters
from facewire_platform.intake.declared import Began, Declared, Ended
from facewire_platform.store.writer import Message


def ack(of: Batch, **changed: Any) -> Ack:
    return replace(Ack(of.epoch, of.boot, of.cursor, of.cursor, "s"), **changed)


def tell(declared: Declared, *batches: Batch, device: str = "d") -> list[Began | Ended | None]:
    return [declared.stored(device, each, ack(each)) for each in batches]


def test_an_episode_is_said_when_it_begins_and_when_it_ends_with_its_counts() -> None:
    overflow = [batch(0, 2, 1, 2), batch(2, 10, 9, 10), batch(10, 10), batch(2, 10, 9, 10), batch(10, 20, 20), batch(20, 22, 21, 22)]
    assert tell(Declared(), *overflow, batch(22, 23, 23)) == [None, Began(6), None, None, None, Ended(15, 2), None]


def test_a_new_epoch_without_losses_ends_an_episode() -> None:
    assert tell(Declared(), batch(0, 10, 10), batch(0, 1, 1, epoch="f" * 16)) == [Began(9), Ended(9, 1)]


def test_a_batch_that_was_not_stored_in_full_declares_nothing() -> None:
    one = batch(5, 10, 10)
    assert Declared().stored("d", one, ack(one, conflict=10)) is None
    assert Declared().stored("d", one, ack(one, cursor=3)) is None


def test_only_so_many_devices_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST", 2)
    declared = Declared()
    assert [tell(declared, batch(0, 10, 10), device=device) for device in "abc"] == [[Began(9)]] * 3
    assert [tell(declared, batch(10, 11, 11), device=device) for device in "abc"] == [[None], [Ended(9, 1)], [Ended(9, 1)]]


def test_the_log_says_it(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    counters = Counters()
    for each in (batch(0, 10, 10), batch(10, 11, 11)):
        counters.stored(Message("d", each, 0), ack(each))
    assert [record.getMessage() for record in caplog.records] == [
        f"device declares events lost device=d epoch={batch(0, 1).epoch} after=0 events_lost=9",
        "device loses no more events device=d events_lost=9 batches=1",
    ]


def test_a_worker_says_its_counts_and_nothing_else() -> None:
    said = dict(part.split("=") for part in str(Counters(batches=3, over_rate=2)).split())
    assert (said["batches"], said["over_rate"]) == ("3", "2")
    assert [name for name, count in said.items() if not count.replace(".", "").isdigit()] == []
