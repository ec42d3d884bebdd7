"""The metrics of the web server at /metrics: the platform's health, and the live streams."""

from collections.abc import Iterator
from typing import Final

from prometheus_client import exposition
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from facewire_platform.health.metrics import PlatformMetrics
from facewire_platform.health.readings import Readings
from facewire_web.live import Wall
from facewire_web.turns import Turns

CONTENT_TYPE: Final = exposition.CONTENT_TYPE_LATEST


class WebMetrics:
    """The metrics of one web server.

    Args:
        readings: the database's.
        wall: its streams are counted.
        turns: its questions are counted.
    """

    def __init__(self, readings: Readings, wall: Wall, turns: Turns) -> None:
        self._metrics = PlatformMetrics(readings)
        self._metrics.registry.register(_StreamCollector(wall, turns))

    def text(self) -> bytes:
        """All samples as they are now, in `CONTENT_TYPE`."""
        return self._metrics.text()


class _StreamCollector(Collector):
    def __init__(self, wall: Wall, turns: Turns) -> None:
        self._wall, self._turns = wall, turns

    def collect(self) -> Iterator[Metric]:
        counters = self._wall.counters
        yield GaugeMetricFamily("facewire_web_streams", "Streams that are open.", value=self._wall.readers)
        yield CounterMetricFamily("facewire_web_streams_opened", "Streams opened.", value=counters.streams)
        yield CounterMetricFamily("facewire_web_streams_refused", "Streams refused because too many were open.", value=counters.refused)
        yield CounterMetricFamily("facewire_web_streams_stuck", "Streams ended because their reader took nothing.", value=counters.stuck)
        yield CounterMetricFamily("facewire_web_matches_skipped", "Matches that slow readers did not get.", value=counters.skipped)
        yield GaugeMetricFamily("facewire_web_questions_waiting", "Questions that wait for their turn.", value=self._turns.waiting)
        refused = "Questions refused because too many waited."
        yield CounterMetricFamily("facewire_web_questions_refused", refused, value=self._turns.refused)
