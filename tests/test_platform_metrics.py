import gzip
import threading
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from broker_engines import free_port
from facewire_process import Running
from platform_model import EPOCH, bad_event, batch
from platform_store import run, store_batches, store_match
from prometheus_client import exposition
from prometheus_client.metrics_core import GaugeMetricFamily, Metric
from prometheus_client.openmetrics import exposition as openmetrics
from prometheus_client.parser import text_string_to_metric_families

from facewire.messages import Status
from facewire_platform.health import metrics
from facewire_platform.health.metrics import PlatformMetrics
from facewire_platform.health.readings import EPOCHS, Reading, Readings
from facewire_platform.history.queries import History
from facewire_platform.intake.counters import Counters
from facewire_platform.store.drivers import Location
from facewire_platform.store.writer import Message, open_store

BOOT = "00000000000000b1"


def scrape(location: Location, counters: Counters | None = None, now: float = 100.0) -> dict[tuple[str, str], float]:
    """Each sample by its name and the values of its labels."""
    text = PlatformMetrics(Readings(location, now=lambda: int(now * 1000)), counters).text().decode()
    return {
        (sample.name, ",".join(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_a_scrape_has_each_device_and_each_stream(location: Location) -> None:
    with open_store(location) as store:
        store.store([Message("d", batch(0, 5, 1, 2, bad=(bad_event(5),), head=9), 95_000)])
        store.store(
            [Message("d", Status(BOOT, True, 96_000, EPOCH, head=9, oldest=1, cursor=0, capacity=100, dropped=2, missed=4), 95_000)]
        )
    found = scrape(location)
    assert found["facewire_database_up", ""] == 1
    assert found["facewire_device_online", "d"] == 1
    assert [found["facewire_devices", state] for state in ("online", "silent", "offline")] == [1, 0, 0]
    assert found["facewire_device_lag_events", "d"] == 4
    assert found["facewire_device_dropped_events", "d"] == 2
    assert found["facewire_device_missed_matches", "d"] == 4
    assert found["facewire_device_last_seen_timestamp_seconds", "d"] == 95.0
    assert found["facewire_stream_watermark", f"d,{EPOCH}"] == 5
    assert found["facewire_stream_gap_events", f"d,{EPOCH}"] == 2
    assert found["facewire_stream_quarantined_events", f"d,{EPOCH}"] == 1
    assert found["facewire_stream_stored_events", f"d,{EPOCH}"] == 2
    assert found["facewire_stream_unaccounted_events", f"d,{EPOCH}"] == 0
    assert found["facewire_device_clock_offset_seconds", "d"] == 1.0


def test_events_above_the_watermark_do_not_count_as_stored_below_it(location: Location) -> None:
    with open_store(location) as store:
        store.store([Message("d", batch(0, 5, 1, 2), 1), Message("d", batch(7, 9, 8, 9), 1)])
        store_match(store, 12)
    found = scrape(location)
    assert found["facewire_stream_stored_events", f"d,{EPOCH}"] == 2
    assert found["facewire_stream_unaccounted_events", f"d,{EPOCH}"] == 0


def test_a_vanished_event_is_noticed_and_a_deleted_one_is_not_missed(location: Location) -> None:
    with open_store(location) as store:
        store.store([Message("d", batch(0, 5, 1, 2, 3, 4, 5), 1)])
    run(location, "DELETE FROM event WHERE seq = 1")  # as retention does
    assert scrape(location)["facewire_stream_unaccounted_events", f"d,{EPOCH}"] == 0
    run(location, "UPDATE stream SET stored = stored - 1")
    assert scrape(location)["facewire_stream_unaccounted_events", f"d,{EPOCH}"] == 1


def test_the_series_of_a_device_that_makes_epochs_for_ever_are_bounded(location: Location) -> None:
    with open_store(location) as store:
        store.store([Message("d", batch(0, 3, 1, epoch=f"{number:016x}"), 1) for number in range(1_000)])
    run(location, "UPDATE stream SET stored = stored - 1 WHERE epoch = '0000000000000007'")
    found = {key: value for key, value in scrape(location).items() if key[0].startswith("facewire_stream")}
    assert len(found) == 5 * (EPOCHS + 1)
    assert [found[f"facewire_stream_{name}", "d,older"] for name in ("watermark", "gap_events", "unaccounted_events")] == [2_976, 1_984, 1]
    assert found["facewire_stream_watermark", f"d,{999:016x}"] == 3


@pytest.mark.parametrize("encode", [exposition.generate_latest, openmetrics.generate_latest])
def test_the_text_is_byte_for_byte_that_of_the_library(tmp_path: Path, encode: Callable[[Any], bytes]) -> None:
    with open_store(tmp_path / "x.db") as store:
        for number, device in enumerate(("plain", 'we"ird\\', "zwei\nzeilen")):
            seen_at = 1_764_000_000_000 + number
            store.store([Message(device, batch(0, 4 + number, 1, 2, bad=(bad_event(4),), head=10**number), seen_at)])
            status = Status(BOOT, True, seen_at - 123 * number, EPOCH, head=10**number, capacity=10**number, dropped=number)
            store.store([Message(device, status, seen_at)])
        store.store([Message("without-status", batch(0, 1, 1), 95_000)])
    readings = Readings(tmp_path / "x.db")
    assert PlatformMetrics(readings).text(encode) == encode(Slow(readings.read()))


class Slow:
    """The same samples by the library's own families."""

    def __init__(self, reading: Reading) -> None:
        self._reading = reading

    def collect(self) -> Iterator[Metric]:
        states = GaugeMetricFamily("facewire_devices", "Devices by state: online, silent or offline.", labels=("state",))
        for state in ("online", "silent", "offline"):
            states.add_metric((state,), sum(row["state"] == state for row in self._reading.devices))
        yield states
        yield from self._gauges("facewire_device_", metrics._DEVICE, self._reading.devices, ("device",))
        yield from self._gauges("facewire_stream_", metrics._STREAM, self._reading.streams, ("device", "epoch"))
        yield GaugeMetricFamily("facewire_database_up", "1 if the platform's database could be read.", value=1)

    def _gauges(self, prefix: str, columns: Any, rows: list[Any], labels: tuple[str, ...]) -> Iterator[Metric]:
        for column in columns:
            gauge = GaugeMetricFamily(prefix + column.name, column.help, labels=labels)
            for row in rows:
                if (value := column.value(row)) is not None:
                    gauge.add_metric([row[label] for label in labels], value)
            yield gauge


def test_a_scrape_chooses_its_format_and_its_compression(tmp_path: Path) -> None:
    answers = [ask(tmp_path / "x.db", {"accept": accept}) for accept in ("", "application/openmetrics-text;version=1.0.0")]
    assert [headers["Content-Type"].partition(";")[0] for headers, _ in answers] == ["text/plain", "application/openmetrics-text"]
    assert [text.count(b"# EOF\n") for _, text in answers] == [0, 1]
    assert answers[1][1].endswith(b"# EOF\n")
    headers, packed = ask(tmp_path / "x.db", {"accept-encoding": "gzip"})
    assert (headers["Content-Encoding"], gzip.decompress(packed)) == ("gzip", answers[0][1])


def ask(location: Location, asked: dict[str, str]) -> tuple[dict[str, str], bytes]:
    """Headers and body of an answer to a scrape."""
    return metrics.metrics_answer(PlatformMetrics(Readings(location)), asked)


def test_an_unknown_value_has_no_sample(tmp_path: Path) -> None:
    with open_store(tmp_path / "x.db") as store:
        store.store([Message("d", batch(0, 1, 1), 95_000)])
    assert ("facewire_device_clock_offset_seconds", "d") not in scrape(tmp_path / "x.db")


def test_a_device_turns_silent_between_two_scrapes(tmp_path: Path) -> None:
    with open_store(tmp_path / "x.db") as store:
        store.store([Message("d", Status(BOOT, True, 1, EPOCH), 95_000)])
    assert scrape(tmp_path / "x.db", now=155.0)["facewire_device_online", "d"] == 1
    assert scrape(tmp_path / "x.db", now=156.0)["facewire_devices", "silent"] == 1


def test_an_unreadable_database_is_a_value_and_not_a_failed_scrape(tmp_path: Path) -> None:
    assert scrape(tmp_path / "x.db", Counters(batches=3)) == {
        ("facewire_database_up", ""): 0.0,
        **{key: value for key, value in scrape(tmp_path / "x.db", Counters(batches=3)).items() if key[0].startswith("facewire_worker")},
    }


@pytest.mark.parametrize(
    ("name", "label", "value"),
    [
        ("facewire_worker_refused_total", "inbox_full", 9),
        ("facewire_worker_refused_total", "over_rate", 11),
        ("facewire_worker_commit_seconds_sum", "", 0.5),
        ("facewire_worker_events_total", "", 10),
        ("facewire_worker_batches_total", "", 1),
        ("facewire_worker_matches_total", "", 2),
        ("facewire_worker_statuses_total", "", 3),
        ("facewire_worker_quarantined_total", "", 4),
        ("facewire_worker_refused_total", "contract", 5),
        ("facewire_worker_conflicts_total", "", 6),
        ("facewire_worker_commit_seconds_count", "", 7),
        ("facewire_worker_refused_total", "earlier_boot", 8),
    ],
)
def test_a_scrape_has_the_counters_of_the_worker(tmp_path: Path, name: str, label: str, value: float) -> None:
    counters = Counters(
        batches=1, matches=2, statuses=3, quarantined=4, refused=5, conflicts=6, commits=7, stale_statuses=8, dropped=9, over_rate=11
    )
    counters.commit_seconds, counters.events = 0.5, 10
    assert scrape(tmp_path / "x.db", counters)[name, label] == value


@pytest.mark.network
@pytest.mark.process
def test_the_worker_answers_prometheus_and_an_address_in_use_exits_with_1(tmp_path: Path) -> None:
    arguments = ["platform", "run", "-p", str(free_port()), "--database", f"sqlite:///{tmp_path}/x.db", "--metrics"]
    with Running(*arguments, "127.0.0.1:0") as worker:
        worker.wait_for("metrics address=")
        address = next(line.rpartition("=")[2].strip() for line in worker.log if "metrics address=" in line)
        with urllib.request.urlopen(f"http://{address}/metrics", timeout=10) as answer:
            assert "facewire_worker_commit_seconds_count 0.0" in answer.read().decode()
        with Running(*arguments[:-3], "--database", f"sqlite:///{tmp_path}/y.db", "--metrics", address) as other:
            assert other.wait() == 1, "systemd does not restart after 2"
            assert f"--metrics cannot listen on {address}: Address already in use\n" in other.text
        assert worker.end() == 0


def test_the_counts_add_up_at_every_moment_of_a_worker_at_work(location: Location) -> None:
    open_store(location).close()
    done = threading.Event()

    def work() -> None:
        try:
            with open_store(location) as store:
                for after in range(0, 600, 6):
                    store_match(store, after + 9)
                    store_batches(store, batch(after, after + 6, after + 1, after + 2, bad=(bad_event(after + 4),)))
        finally:
            done.set()

    writer = threading.Thread(target=work)
    writer.start()
    looks = 0
    with History(location) as history:
        while not done.is_set():
            assert [row["unaccounted"] for row in history.conservation()] in ([], [0])
            looks += 1
        (last,) = history.conservation()
    writer.join()
    assert looks
    assert (last["watermark"], last["quarantined"], last["unaccounted"]) == (600, 100, 0)
