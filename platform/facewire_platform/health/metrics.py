"""Metrics for Prometheus: each scrape reads the database, and the worker's counters if any.

facewire_device_*   the newest epoch of each device
facewire_stream_*   the newest epochs of each device, and its older ones summed up as "older":
                    unless watermark = stored + gaps + quarantined, events are lost
facewire_worker_*   this worker since it started
"""

import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, SummaryMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from facewire.errors import StoreError
from facewire_platform.health.state import STATES, assess
from facewire_platform.history.queries import History, Row
from facewire_platform.store.drivers import Location

if TYPE_CHECKING:
    from facewire_platform.intake.worker import Counters  # the web server serves metrics too, and has no worker


#: So many epochs of a device have series of their own. A device can make new epochs for ever.
EPOCHS: Final = 8
OLDER: Final = "older"


@dataclass(frozen=True, slots=True)
class _Column:
    """A gauge, with a sample for each row that has a value."""

    name: str
    help: str
    value: Callable[[Row], Any]


def _column(name: str, text: str, key: str) -> _Column:
    return _Column(name, text, lambda row: row[key])


_DEVICE: Final = (
    _Column("online", "1 if the device is connected, and was heard from in its last three periods.", lambda row: row["state"] == "online"),
    _column("lag_events", "Events recorded on the device but not acked.", "lag"),
    _column("dropped_events", "Events of this epoch that the device overwrote before they were acked.", "dropped"),
    _column("clock_offset_seconds", "The device's clock minus the platform's, at its last status.", "clock_offset"),
    _column(
        "outage_budget_seconds", "How long the device can still be cut off before it overwrites events that are not acked.", "outage_budget"
    ),
    _Column("last_seen_timestamp_seconds", "When the device was last heard from.", lambda row: row["last_seen"] / 1000),
)
_STREAM: Final = (
    _column("watermark", "Seq at and below which every event is stored, or recorded as lost.", "watermark"),
    _column("gap_events", "Events declared lost.", "gaps"),
    _column("quarantined_events", "Events at or below the watermark that broke the contract.", "quarantined"),
    _column("stored_events", "Events stored at or below the watermark, even if deleted since.", "stored"),
    _column(
        "unaccounted_events", "watermark - stored - gap - quarantined events; unless it is 0, events were lost silently.", "unaccounted"
    ),
)
#: Attributes of `worker.Counters`.
_WORKER: Final = (
    ("batches", "Batches received."),
    ("events", "Events in the batches received, even if stored before."),
    ("matches", "Matches received."),
    ("statuses", "Statuses received."),
    ("quarantined", "Messages and events put in quarantine."),
    ("conflicts", "Batches whose events differ from the stored ones, so that the device forks."),
)
_REFUSED: Final = (("refused", "contract"), ("stale_statuses", "earlier_boot"), ("dropped", "inbox_full"))


class _PlatformCollector(Collector):
    """Reads the database at each scrape, on the thread of the scrape."""

    def __init__(self, location: Location, counters: "Counters | None", now: Callable[[], float]) -> None:
        self._location, self._counters, self._now = location, counters, now

    def describe(self) -> Iterable[Metric]:
        """Nothing, so that registration costs no query."""
        return ()

    def collect(self) -> Iterator[Metric]:
        up = GaugeMetricFamily("facewire_database_up", "1 if the platform's database could be read.", value=1)
        try:
            yield from _database_metrics(self._location, int(self._now() * 1000))
        except StoreError:
            up = GaugeMetricFamily(up.name, up.documentation, value=0)
        yield up
        if self._counters is not None:
            yield from _worker_metrics(self._counters)


def metrics_registry(location: Location, counters: "Counters | None" = None, *, now: Callable[[], float] = time.time) -> CollectorRegistry:
    """A registry for one database.

    Args:
        location: read at each scrape, beside the worker that writes it.
        counters: of the running worker; without them there are no facewire_worker_ metrics.
        now: s since 1970 UTC.
    """
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_PlatformCollector(location, counters, now))
    return registry


def serve_metrics(host: str, port: int, location: Location, counters: "Counters | None" = None) -> int:
    """Serve `/metrics` on separate threads until the process ends; returns the port.

    Raises:
        OSError: the address cannot be bound.
    """
    server, _ = start_http_server(port, host, metrics_registry(location, counters))
    return int(server.server_port)


def _database_metrics(location: Location, now_ms: int) -> list[Metric]:
    with History(location) as history:
        devices = [assess(row, now_ms) for row in history.devices()]
        streams = _bounded(history.conservation())
    counts = Counter(row["state"] for row in devices)
    states = GaugeMetricFamily("facewire_devices", "Devices by state: online, silent or offline.", labels=("state",))
    for state in STATES:
        states.add_metric((state,), counts[state])
    return [
        states,
        *_gauges("facewire_device_", _DEVICE, devices, ("device",)),
        *_gauges("facewire_stream_", _STREAM, streams, ("device", "epoch")),
    ]


def _bounded(streams: Iterable[Row]) -> list[Row]:
    """Streams, oldest first, with all but the newest of each device in one row."""
    bounded: dict[str, deque[Row]] = {}
    older: dict[str, Row] = {}
    for row in streams:
        newest = bounded.setdefault(row["device"], deque())
        newest.append(row)
        if len(newest) > EPOCHS:
            oldest = newest.popleft()
            total = older.get(row["device"], {})
            counts = {name: total.get(name, 0) + oldest[name] for name in oldest.keys() - {"device", "epoch"}}
            older[row["device"]] = {"device": row["device"], "epoch": OLDER} | counts
    return [*older.values(), *(row for newest in bounded.values() for row in newest)]


def _gauges(prefix: str, columns: Iterable[_Column], rows: list[Row], labels: tuple[str, ...]) -> Iterator[Metric]:
    for column in columns:
        gauge = GaugeMetricFamily(prefix + column.name, column.help, labels=labels)
        for row in rows:
            if (value := column.value(row)) is not None:
                gauge.add_metric([row[label] for label in labels], value)
        yield gauge


def _worker_metrics(counters: "Counters") -> Iterator[Metric]:
    for name, text in _WORKER:
        yield CounterMetricFamily(f"facewire_worker_{name}", text, value=getattr(counters, name))
    refused = CounterMetricFamily("facewire_worker_refused", "Messages that were not stored, by reason.", labels=("reason",))
    for name, reason in _REFUSED:
        refused.add_metric((reason,), getattr(counters, name))
    yield refused
    text = "Transactions, and how many seconds they took."
    yield SummaryMetricFamily("facewire_worker_commit_seconds", text, count_value=counters.commits, sum_value=counters.commit_seconds)
