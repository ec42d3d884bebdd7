import functools
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from device_events import event, events
from waiting import wait_until

from facewire import codec
from facewire.errors import EventError, StoreError
from facewire.events import Event
from facewire_device import Recorder
from facewire_device.recorder import Recorded
from facewire_device.store import Appended, Store, open_store

VENDOR = {"timestamp": 1, "score": 0.9, "identity_id": "p", "identity_name": "", "person_type": 1}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "store.db"


@pytest.fixture
def recorder(path: Path) -> Iterator[Recorder]:
    with Recorder(functools.partial(open_store, path)) as opened:
        yield opened


def stored_seqs(path: Path) -> list[int]:
    with open_store(path, create=False) as store:
        packed = store.query("SELECT seq FROM event ORDER BY seq")
    return [seq for (seq,) in packed]


class ControlledStore:
    """Opens a store whose `append` waits or fails if told to; remembers its groups."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.may_go_on = threading.Event()
        self.may_go_on.set()
        self.waits = threading.Event()
        self.failure: Exception | None = None
        self.groups: list[int] = []

    def __call__(self) -> Store:
        store = open_store(self.path)
        append = store.append

        def controlled(given: Sequence[Event]) -> Appended:
            self.waits.set()
            self.may_go_on.wait()
            if self.failure is not None:
                raise self.failure
            self.groups.append(len(given))
            return append(given)

        store.append = controlled  # type: ignore[method-assign,assignment]  # to wait and to fail on demand
        return store


def test_record_returns_the_identity_of_a_stored_event(recorder: Recorder, path: Path) -> None:
    first, second = recorder.record(VENDOR), recorder.record(VENDOR)
    assert second == Recorded(first.epoch, 2)
    assert stored_seqs(path) == [1, 2]


def test_a_hundred_callers_get_a_seq_each_without_a_hole(path: Path) -> None:
    with Recorder(functools.partial(open_store, path)) as recorder, ThreadPoolExecutor(100) as pool:
        recorded = list(pool.map(lambda _: recorder.record(VENDOR).seq, range(2_000)))
    assert sorted(recorded) == stored_seqs(path) == list(range(1, 2_001))


def test_each_caller_gets_the_seqs_of_its_own_events_in_their_order(path: Path) -> None:
    def record(recorder: Recorder, caller: int) -> list[tuple[int, int]]:
        given = events(caller * 100, caller * 100 + caller % 7)
        return [(item.seq, e.timestamp) for item, e in zip(recorder.record_all(given), given, strict=True)]

    with Recorder(functools.partial(open_store, path)) as recorder, ThreadPoolExecutor(20) as pool:
        said = {pair for pairs in pool.map(functools.partial(record, recorder), range(1, 200)) for pair in pairs}
    with open_store(path) as store:
        stored = {(seq, codec.unpack(packed)["timestamp"]) for seq, packed in store.events_above(0, -1.0)}
    assert said == stored


def test_calls_made_during_a_commit_share_the_next_commit(path: Path) -> None:
    controlled = ControlledStore(path)
    with Recorder(controlled) as recorder, ThreadPoolExecutor(21) as pool:
        controlled.may_go_on.clear()
        calls = [pool.submit(recorder.record, VENDOR)]
        assert controlled.waits.wait(10)
        calls += [pool.submit(recorder.record, VENDOR) for _ in range(20)]
        wait_until(lambda: recorder.pending == 20)
        controlled.may_go_on.set()
        assert sorted(call.result().seq for call in calls) == list(range(1, 22))
    assert controlled.groups == [1, 20]


def test_only_the_event_that_breaks_the_contract_is_refused(recorder: Recorder, path: Path) -> None:
    recorder.record(VENDOR)
    with pytest.raises(EventError, match="score is missing"):
        recorder.record({name: value for name, value in VENDOR.items() if name != "score"})
    assert recorder.record(VENDOR).seq == 2
    assert stored_seqs(path) == [1, 2]


def test_no_events_need_no_commit(recorder: Recorder, path: Path) -> None:
    assert recorder.record_all([]) == []
    assert stored_seqs(path) == []


def test_an_error_while_opening_the_store_reaches_the_caller(path: Path) -> None:
    path.write_bytes(b"foreign")
    with pytest.raises(StoreError, match="is not an SQLite database"):
        Recorder(functools.partial(open_store, path))
    assert not [thread for thread in threading.enumerate() if thread.name == "recorder"]


def test_a_failed_commit_fails_each_of_its_callers_but_no_later_one(path: Path) -> None:
    controlled = ControlledStore(path)
    with Recorder(controlled) as recorder, ThreadPoolExecutor(10) as pool:
        controlled.failure = StoreError("disk is full")
        failures = [pool.submit(recorder.record, VENDOR).exception() for _ in range(10)]
        assert [str(failure) for failure in failures] == ["disk is full"] * 10
        assert len({id(failure) for failure in failures}) == 10, "each raises an error of its own"
        controlled.failure = None
        assert recorder.record(VENDOR).seq == 1


def test_a_store_whose_file_was_replaced_is_reopened(recorder: Recorder, path: Path) -> None:
    epoch = recorder.record(VENDOR).epoch
    for item in list(path.parent.iterdir()):
        item.rename(item.with_name(f"aside-{item.name}"))
    again = recorder.record(VENDOR)
    assert again.seq == 1
    assert again.epoch != epoch
    assert stored_seqs(path) == [1]


def test_calls_fail_until_the_store_can_be_reopened(recorder: Recorder, path: Path) -> None:
    recorder.record(VENDOR)
    for item in list(path.parent.iterdir()):
        item.unlink()
    path.write_bytes(b"foreign")
    for _ in range(2):
        with pytest.raises(StoreError, match="is not an SQLite database"):
            recorder.record(VENDOR)
    path.unlink()
    assert recorder.record(VENDOR).seq == 1


def test_the_callback_runs_after_each_commit_and_its_errors_do_not_reach_the_caller(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    calls: list[int] = []

    def on_commit() -> None:
        calls.append(1)
        raise RuntimeError("publisher's mistake")

    with Recorder(functools.partial(open_store, path), on_commit) as recorder:
        assert recorder.record(VENDOR).seq == 1
        assert recorder.record(VENDOR).seq == 2
    assert len(calls) == 2
    assert "publisher's mistake" in caplog.text


def test_close_commits_pending_events_and_refuses_later_ones(path: Path) -> None:
    controlled = ControlledStore(path)
    recorder = Recorder(controlled)
    with ThreadPoolExecutor(3) as pool:
        controlled.may_go_on.clear()
        first = pool.submit(recorder.record, VENDOR)
        assert controlled.waits.wait(10)
        second = pool.submit(recorder.record_all, [event()])
        wait_until(lambda: recorder.pending == 1)
        closing = pool.submit(recorder.close)
        wait_until(lambda: recorder.closed)
        controlled.may_go_on.set()
        closing.result()
        assert (first.result().seq, second.result()[0].seq) == (1, 2)
    with pytest.raises(StoreError, match="the recorder is closed"):
        recorder.record(VENDOR)
    recorder.close()
