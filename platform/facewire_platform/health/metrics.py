"""Metrics for Prometheus: a reading of the database, and the worker's counters if there is one.

facewire_device_*   the newest epoch of each device
facewire_stream_*   the newest epochs of each device, and its older ones summed up as "older":
                    unless watermark = stored + gaps + quarantined + continued, events are lost
facewire_worker_*   this worker since it started
"""

import functools
import gzip
import logging
import operator
import socket
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from prometheus_client import CollectorRegistry, exposition
from prometheus_client.core import CounterMetricFamily, SummaryMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from facewire.errors import StoreError
from facewire_mqtt.address import is_loopback
from facewire_platform.health.readings import Reading, Readings
from facewire_platform.health.scrapes import Answer, Scrapes
from facewire_platform.health.state import STATES
from facewire_platform.history.reader import Row
from facewire_platform.store.drivers import Location

if TYPE_CHECKING:
    from facewire_platform.intake.counters import Counters  # the web server serves metrics too, and has no worker

log = logging.getLogger(__name__)

_UP: Final = ("facewire_database_up", "1 if the platform's database could be read.")
_ESCAPED: Final = str.maketrans({"\\": r"\\", "\n": r"\n", '"': r"\""})
#: Most values are small integers.
_number: Final = functools.lru_cache(4_096)(floatToGoString)


@dataclass(frozen=True, slots=True)
class _Column:
    """A gauge, with a sample for each row that has a value."""

    name: str
    help: str
    value: Callable[[Row], Any]


def _column(name: str, text: str, key: str) -> _Column:
    return _Column(name, text, operator.itemgetter(key))


_DEVICE: Final = (
    _Column("online", "1 if the device is connected, and was heard from in its last three periods.", lambda row: row["state"] == "online"),
    _column("lag_events", "Events recorded on the device but not acked.", "lag"),
    _column("dropped_events", "Events of this epoch that the device overwrote before they were acked.", "dropped"),
    _column("missed_matches", "Matches of this run of the device that missed the realtime lane.", "missed"),
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
        "unaccounted_events", "watermark less all these and the events continued in another epoch; anything but 0 is a bug.", "unaccounted"
    ),
)
#: Attributes of `counters.Counters`.
_WORKER: Final = (
    ("batches", "Batches received."),
    ("events", "Events in the batches received, even if stored before."),
    ("matches", "Matches received."),
    ("statuses", "Statuses received."),
    ("quarantined", "Messages and events put in quarantine."),
    ("conflicts", "Batches whose events differ from the stored ones, so that the device forks."),
)
_REFUSED: Final = (("refused", "contract"), ("stale_statuses", "earlier_boot"), ("dropped", "inbox_full"), ("over_rate", "over_rate"))


class PlatformMetrics:
    """The metrics of one database, of the worker, and of others who add a collector.

    A fleet of 10,000 devices has 110,000 samples, for which prometheus_client takes seconds. So the
    text of the devices is written here, once for each reading.

    Args:
        readings: the database's, shared with others who ask for the devices.
        counters: the running worker's; without them there are no facewire_worker_ metrics.

    Attributes:
        registry: the metrics that follow those of the database.
    """

    def __init__(self, readings: Readings, counters: "Counters | None" = None) -> None:
        self._readings = readings
        self._lock = threading.Lock()
        self._last: tuple[Reading | None, bytes] = (None, b"")
        self.registry = CollectorRegistry(auto_describe=False)
        if counters is not None:
            self.registry.register(_WorkerCollector(counters))

    def text(self, encode: Callable[[CollectorRegistry], bytes] = exposition.generate_latest) -> bytes:
        """All present samples; `encode` chooses the format. Both formats write gauges alike."""
        return self._gauges() + encode(self.registry)

    def _gauges(self) -> bytes:
        try:
            reading = self._readings.read()
        except StoreError:
            return _gauge(*_UP, [("", 0)]).encode()
        with self._lock:
            if reading is not self._last[0]:
                self._last = (reading, "".join(_text(reading)).encode())
            return self._last[1]


def serve_metrics(host: str, port: int, location: Location, counters: "Counters | None" = None) -> int:
    """Serve `/metrics` on a separate thread until the process ends; returns the port.

    Raises:
        OSError: the address cannot be bound.
    """
    family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    bound = socket.create_server(address[:2], family=family)
    port = int(bound.getsockname()[1])
    private = is_loopback(host)
    if not private:
        log.warning("everybody who can reach address=%s:%d may read the metrics: let only Prometheus in", host, port)
    answer = functools.partial(metrics_answer, PlatformMetrics(Readings(location), counters))
    Scrapes(answer, own_names_only=private).serve_in_thread(bound)
    return port


def metrics_answer(metrics: PlatformMetrics, asked: Mapping[str, str]) -> Answer:
    """Answers a scrape in the format, and the compression, for which its headers ask."""
    encode, content_type = exposition.choose_encoder(asked.get("accept", ""))
    headers, body = {"Content-Type": content_type}, metrics.text(encode)
    if exposition.gzip_accepted(asked.get("accept-encoding", "")):
        headers["Content-Encoding"] = "gzip"
        body = gzip.compress(body, 1)
    return headers, body


def _text(reading: Reading) -> Iterator[str]:
    states = [(_labels({"state": state}), reading.summary[state]) for state in STATES]
    yield _gauge("facewire_devices", "Devices by state: online, silent or offline.", states)
    yield from _gauges("facewire_device_", _DEVICE, reading.devices, ("device",))
    yield from _gauges("facewire_stream_", _STREAM, reading.streams, ("device", "epoch"))
    yield _gauge(*_UP, [("", 1)])


def _gauges(prefix: str, columns: Iterable[_Column], rows: list[Row], names: tuple[str, ...]) -> Iterator[str]:
    labels = [_labels({name: row[name] for name in names}) for row in rows]
    for column in columns:
        yield _gauge(prefix + column.name, column.help, zip(labels, map(column.value, rows), strict=True))


def _gauge(name: str, text: str, samples: Iterable[tuple[str, Any]]) -> str:
    """Write a gauge's samples (labels, value) in the text format of Prometheus and OpenMetrics."""
    lines = [f"{name}{labels} {_number(value)}\n" for labels, value in samples if value is not None]
    return f"# HELP {name} {text}\n# TYPE {name} gauge\n" + "".join(lines)


def _labels(labels: dict[str, str]) -> str:
    return "{" + ",".join(f'{name}="{value.translate(_ESCAPED)}"' for name, value in labels.items()) + "}"


class _WorkerCollector(Collector):
    def __init__(self, counters: "Counters") -> None:
        self._counters = counters

    def collect(self) -> Iterator[Metric]:
        yield from _worker_metrics(self._counters)


def _worker_metrics(counters: "Counters") -> Iterator[Metric]:
    for name, text in _WORKER:
        yield CounterMetricFamily(f"facewire_worker_{name}", text, value=getattr(counters, name))
    refused = CounterMetricFamily("facewire_worker_refused", "Messages that were not stored, by reason.", labels=("reason",))
    for name, reason in _REFUSED:
        refused.add_metric((reason,), getattr(counters, name))
    yield refused
    text = "Transactions, and how many seconds they took."
    yield SummaryMetricFamily("facewire_worker_commit_seconds", text, count_value=counters.commits, sum_value=counters.commit_seconds)
