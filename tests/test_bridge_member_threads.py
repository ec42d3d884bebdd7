"""Members' threads: each device in order, a bound on waiting bytes; troubles are said once."""

import threading
from collections.abc import Iterator

import pytest

from facewire.errors import StoreError
from facewire_bridge.member_threads import MemberThreads, Troubles


@pytest.fixture
def threads() -> Iterator[MemberThreads]:
    threads = MemberThreads(count=2, most_bytes=100)
    yield threads
    threads.close()


def test_a_device_has_its_work_done_in_order_on_one_thread(threads: MemberThreads) -> None:
    done: list[tuple[int, int]] = []
    futures = [threads.run(number % 3, lambda n=number: done.append((n, threading.get_ident()))) for number in range(30)]  # type: ignore[misc]
    for future in futures:
        assert future is not None
        future.result(10)
    for device in range(3):
        mine = [(number, thread) for number, thread in done if number % 3 == device]
        assert mine == sorted(mine)
        assert len({thread for _, thread in mine}) == 1


def test_waiting_work_is_bounded_by_its_bytes(threads: MemberThreads) -> None:
    gate = threading.Event()
    first = threads.run(0, gate.wait, 60)
    assert first is not None
    assert threads.run(1, gate.wait, 50) is None
    second = threads.run(1, gate.wait, 40)
    assert second is not None
    gate.set()
    first.result(10)
    second.result(10)
    larger_than_all = threads.run(0, bool, 1000)
    assert larger_than_all is not None, "one that is larger than the limit still has to go"
    larger_than_all.result(10)


def finish(threads: MemberThreads, *devices: int) -> None:
    """Wait until the threads of these devices have done all that they were given."""
    for device in devices:
        future = threads.run(device, bool)
        assert future is not None
        future.result(10)


def test_a_thread_that_hangs_is_noticed(threads: MemberThreads) -> None:
    turned: dict[str, float] = {}
    finish(threads, 0, 1)
    threads.note_turns(turned)
    finish(threads, 0, 1)
    assert set(turned) == {"thread 0", "thread 1"}
    gate = threading.Event()
    threads.run(0, gate.wait)
    turned.clear()
    threads.note_turns(turned)
    finish(threads, 1)
    threads.note_turns(turned)
    assert "thread 0" not in turned
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
