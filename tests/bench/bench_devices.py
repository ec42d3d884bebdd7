"""The device list and the metrics of a large fleet: `make bench-devices`.

Each device has a status and 100 events. The same samples are also written by prometheus_client,
from families that exist already. Time of the processor is that of this process, so without a
PostgreSQL server's; both are the best of several rounds.
"""

import random
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import click

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

from postgresql_server import PostgreSQL
from prometheus_client.exposition import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from facewire.events import Event
from facewire.messages import Batch, Status
from facewire_platform.health.metrics import PlatformMetrics
from facewire_platform.health.readings import Readings
from facewire_platform.store.drivers import Location
from facewire_platform.store.writer import Message, open_store
from facewire_system.clock import now_ms

EVENTS, GROUP, ROUNDS = 100, 100, 7
BOOT = "b" * 16


def messages(device: int, now: int, chance: random.Random) -> Iterator[Message]:
    name, epoch = f"device-{device:05}", f"{device:016x}"
    people = [str(chance.randrange(20_000)) for _ in range(EVENTS)]
    events = (
        Event(seq, now - (EVENTS - seq) * 9_000, chance.random(), who, f"name {who}", 1, "default", None, {})
        for seq, who in enumerate(people, 1)
    )
    yield Message(name, Batch(epoch, BOOT, 0, EVENTS, EVENTS, 1, tuple(events)), now)
    yield Message(name, Status(BOOT, True, now, epoch, EVENTS, 1, EVENTS, 0.8, 20.0, 10_000, 0, "0.1.0"), now)


def fill(location: Location, devices: int) -> None:
    chance, now = random.Random(1), now_ms()
    with open_store(location) as store:
        for first in range(0, devices, GROUP):
            some = range(first, min(first + GROUP, devices))
            store.store([message for device in some for message in messages(device, now, chance)])


def measure(name: str, work: Callable[[], Any]) -> Any:
    walls, cpus, found = [], [], None
    for _ in range(ROUNDS):
        wall, cpu = time.perf_counter(), time.process_time()
        found = work()
        walls.append(time.perf_counter() - wall)
        cpus.append(time.process_time() - cpu)
    click.echo(f"  {name:32} {min(walls):8.3f} s, of the processor {min(cpus):.3f} s")
    return found


def report(location: Location, devices: int) -> None:
    fill(location, devices)
    measure("the devices, read anew", lambda: Readings(location).read())
    text = measure("/metrics, read anew", lambda: PlatformMetrics(Readings(location)).text())
    readings = Readings(location)
    metrics = PlatformMetrics(readings)
    metrics.text()
    measure("/metrics, shared", metrics.text)
    families = list(text_string_to_metric_families(text.decode()))
    measure("its text by prometheus_client", lambda: generate_latest(SimpleNamespace(collect=lambda: families)))
    click.echo(f"  {text.count(b'{')} samples, {len(text) / 1e6:.1f} MB")


@click.command()
@click.option("--devices", type=click.IntRange(1), default=10_000, show_default=True)
def main(devices: int) -> None:
    """Measure on SQLite and PostgreSQL."""
    server = PostgreSQL()
    try:
        with tempfile.TemporaryDirectory() as folder:
            for name, location in (("SQLite", Path(folder) / "x.db"), ("PostgreSQL", server.new_database())):
                click.echo(f"{name}, {devices} devices")
                report(location, devices)
    finally:
        server.close()


if __name__ == "__main__":
    main()
