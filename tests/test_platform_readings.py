import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from platform_model import batch
from platform_store import store_batches

from facewire.errors import StoreError
from facewire_platform.health.readings import Readings
from facewire_platform.store.writer import open_store


@pytest.mark.parametrize(("took", "good_for"), [(0.01, 1.0), (0.25, 1.0), (0.5, 2.0)])
def test_a_reading_is_good_for_a_second_or_for_four_times_as_long_as_it_took(tmp_path: Path, took: float, good_for: float) -> None:
    open_store(tmp_path / "x.db").close()
    moments = iter([0.0, took, took + 0.5, took + good_for - 0.001, took + good_for, took + good_for + 0.1])
    readings = Readings(tmp_path / "x.db", clock=lambda: next(moments))
    first = readings.read()
    assert readings.read() is first
    assert readings.read() is first
    assert readings.read() is not first


def test_clients_that_ask_while_the_first_one_reads_share_its_reading(tmp_path: Path) -> None:
    with open_store(tmp_path / "x.db") as store:
        store_batches(store, batch(0, 2, 1, 2))
    asked, moments = threading.Barrier(8), iter([0.0, 0.5, *[0.6] * 7])

    def ask() -> int:
        asked.wait()
        return id(readings.read())

    readings = Readings(tmp_path / "x.db", clock=lambda: next(moments))
    with ThreadPoolExecutor(8) as threads:
        assert len({future.result() for future in [threads.submit(ask) for _ in range(8)]}) == 1


def test_a_failure_is_not_kept(tmp_path: Path) -> None:
    readings = Readings(tmp_path / "x.db")
    with pytest.raises(StoreError, match="there is no database"):
        readings.read()
    open_store(tmp_path / "x.db").close()
    assert readings.read().summary["devices"] == 0
