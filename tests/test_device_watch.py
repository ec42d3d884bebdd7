"""The log about a store: its ring overflows, its disk is slow, full, or works again."""

import json
import logging
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest
from device_events import event, events, line
from facewire_process import FACEWIRE, Running
from faults import faulty

from facewire.errors import StoreError
from facewire_device import store as module
from facewire_device.store import open_store
from facewire_device.uploader import Adopt


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "s.db"


@pytest.fixture(autouse=True)
def every_level(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)


def test_an_overflow_is_said_once_when_it_begins_and_once_when_it_ends_with_its_count(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with open_store(path, capacity=10) as store:
        for number in range(1, 16):
            store.append([event(number)])
        store.skip(2, "no reason")
        assert caplog.text.count("ring full, events are overwritten before they are acked") == 1
        store.apply_ack(lambda _: Adopt(9))
        store.append([event(18)])
        assert "ring has room again" not in caplog.text
        store.apply_ack(lambda _: Adopt(18))
        store.append([event(19)])
        store.append([event(20)])
        assert caplog.text.count(f"ring has room again store={path} events_dropped=7") == 1
        store.append(events(21, 40))
        assert caplog.text.count("ring full") == 2


def test_a_lower_capacity_that_drops_unacked_events_says_how_many(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with open_store(path, capacity=100) as store:
        store.append(events(1, 100))
        store.apply_ack(lambda _: Adopt(20))
    open_store(path, capacity=80).close()
    assert "capacity lowered" not in caplog.text
    open_store(path, capacity=50).close()
    assert f"capacity lowered, events dropped that were not acked store={path} capacity=50 events_dropped=30" in caplog.text


def test_the_last_seq_that_fits_is_recorded_and_the_next_is_refused(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_INT", 3)
    with open_store(path) as store:
        assert store.append(events(1, 3)).last == 3
        past = "seq 4 is past the limit of 3"
        with pytest.raises(StoreError, match=past):
            store.append([event(2)])
        with pytest.raises(StoreError, match=past):
            store.skip(1, "no reason")


def recording(path: Path, environment: dict[str, str] | None = None) -> Running:
    variables = [f"{name}={value}" for name, value in (environment or {}).items() if name.startswith(("LD_", "FAULTS_"))]
    return Running("device", "record", "--store", path, stdin=True, command=["env", *variables, *FACEWIRE])


@pytest.mark.process
def test_a_slow_disk_is_said_and_that_it_is_fast_again(path: Path, tmp_path: Path) -> None:
    open_store(path).close()
    faults = tmp_path / "faults"
    faults.write_text("sync_ms 1500")
    with recording(path, faulty(tmp_path, faults)) as record:
        record.write(json.loads(line(1)))
        record.wait_for("store slow store=")
        faults.write_text("sync_ms 0")
        record.write(json.loads(line(2)))
        record.wait_for("store fast again store=")
        assert record.text.count("store slow") == 1


@pytest.mark.process
def test_events_read_from_a_pipe_wait_while_the_disk_is_full(path: Path) -> None:
    open_store(path).close()
    with recording(path) as record:
        record.write(json.loads(line(1)))
        while not _head(path):
            pass
        limit(record, f"{path.stat().st_size}:")
        record.write(*(json.loads(line(number, note="x" * 1_000)) for number in range(2, 102)))
        record.wait_for("source waits: ")
        limit(record, "unlimited:")
        record.wait_for("source goes on")
        record.close_stdin()
        assert record.wait() == 0
    assert _head(path) == 101


@pytest.mark.process
def test_an_interrupt_while_it_waits_says_how_many_events_are_not_recorded(path: Path) -> None:
    open_store(path).close()
    with recording(path) as record:
        record.write(json.loads(line(1)))
        while not _head(path):
            pass
        limit(record, "0:")
        record.write(json.loads(line(2)))
        record.wait_for("source waits: ")
        assert record.end(signal.SIGTERM) == 130
        assert "1 event read and not recorded" in record.text


def limit(running: Running, size: str) -> None:
    subprocess.run(["prlimit", f"--pid={running.process.pid}", f"--fsize={size}"], check=True)


def _head(path: Path) -> Any:
    with open_store(path, check=False) as store:
        return store.ring().head
