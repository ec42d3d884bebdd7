"""Lanes: each device in order, what waits is bounded; troubles are said once."""

import threading
from collections.abc import Iterator

import pytest

from facewire.errors import StoreError
from facewire_bridge.lanes import Lanes, Troubles


@pytest.fixture
def lanes() -> Iterator[Lanes]:
    lanes = Lanes(count=2, most_bytes=100)
    yield lanes
    lanes.close()


def test_what_belongs_to_a_device_is_done_in_order_on_one_thread(lanes: Lanes) -> None:
    done: list[tuple[int, int]] = []
    futures = [lanes.run(number % 3, lambda n=number: done.append((n, threading.get_ident()))) for number in range(30)]  # type: ignore[misc]
    for future in futures:
        assert future is not None
        future.result(10)
    for device in range(3):
        mine = [(number, thread) for number, thread in done if number % 3 == device]
        assert mine == sorted(mine)
        assert len({thread for _, thread in mine}) == 1


def test_what_waits_is_bounded_by_its_bytes(lanes: Lanes) -> None:
    gate = threading.Event()
    first = lanes.run(0, gate.wait, 60)
    assert first is not None
    assert lanes.run(1, gate.wait, 50) is None
    second = lanes.run(1, gate.wait, 40)
    assert second is not None
    gate.set()
    first.result(10)
    second.result(10)
    larger_than_all = lanes.run(0, bool, 1000)
    assert larger_than_all is not None, "one that is larger than the limit still has to go"
    larger_than_all.result(10)


def test_a_lane_that_hangs_is_noticed(lanes: Lanes) -> None:
    turned: dict[str, float] = {}
    for future in lanes._noted:
        future.result(10)
    lanes.note_turns(turned)
    for future in lanes._noted:
        future.result(10)
    assert set(turned) == {"lane 0", "lane 1"}
    gate = threading.Event()
    lanes.run(0, gate.wait)
    turned.clear()
    lanes.note_turns(turned)
    lanes._noted[1].result(10)
    lanes.note_turns(turned)
    assert "lane 0" not in turned
    gate.set()


def _full() -> None:
    raise StoreError("disk is full")


def test_a_trouble_is_said_once_and_its_end_too(caplog: pytest.LogCaptureFixture) -> None:
    troubles = Troubles()
    assert [troubles.guard("gate-1", _full, writes=True) for _ in range(3)] == [False] * 3
    assert troubles.guard("gate-1", bool, writes=False)
    assert caplog.text.count("disk is full") == 1
    assert "works again" not in caplog.text
    assert troubles.guard("gate-1", bool, writes=True)
    assert caplog.text.count("store works again device=gate-1") == 1


def test_an_internal_error_is_logged_and_acks_nothing(caplog: pytest.LogCaptureFixture) -> None:
    assert not Troubles().guard("gate-1", lambda: 1 / 0, writes=True)
    assert "internal error device=gate-1" in caplog.text
