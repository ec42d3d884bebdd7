"""Ingest from end to end, beside its upper bounds and obvious scripts: `make bench-ingest`.

    raw         sqlite3 alone: the same rows, table, indexes and commits, `synchronous=FULL`
    worker      `facewire platform run`: published -> committed -> acked, through Mosquitto; another
                process makes the load
    obvious     a script with peewee `insert_many` in paho's callback (ingest_scripts.py), same load
    each        the same, but each event is committed by itself in the default journal
    copy        PostgreSQL: COPY alone into the same table, with rows of values for psycopg
    postgresql  the worker on PostgreSQL

Each round runs all of them. Those that need Mosquitto or PostgreSQL are left out if it is missing.
"""

import itertools
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from pathlib import Path
from typing import Any, Final

import click

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

import ingest_load
from facewire_process import Running
from mosquitto_server import ANONYMOUS, Mosquitto
from postgresql_server import PROGRAMS, PostgreSQL

from facewire_platform.store.database import open_database
from facewire_platform.store.rows import WIDTH, InsertRows
from facewire_platform.store.schema import ROW_COLUMNS
from facewire_platform.store.sqlite import SqliteStatements
from facewire_platform.store.writer import open_store

DEVICES: Final = 200
#: Batches in one commit, for the ways without a worker.
GROUP: Final = 50
BROKER: Final = f"{ANONYMOUS}\nmax_inflight_messages 0\nmax_queued_messages 0\nlog_type error"
COLUMNS: Final = ", ".join(column.column_name for column in ROW_COLUMNS)
TYPES: Final = ("int8", "int8", "float8", "text", "text", "int8", "text", "text", "bytea", "int4", "int4", "int8")
#: The share of the load for a script that is much slower.
SHARE: Final = {"obvious": 0.1, "each": 0.01}


def groups(batches: int) -> list[list[Any]]:
    """The values of the rows of the load, one list for each commit."""
    made: list[list[Any]] = []
    for place, (number, device) in enumerate(itertools.product(range(batches), range(DEVICES))):
        if place % GROUP == 0:
            made.append([])
        InsertRows.of(ingest_load.batch(device, number).events).add_to(made[-1], device + 1)
    return made


def timed(location: Path | str, rows: list[list[Any]], put: Callable[[Any, list[Any]], None]) -> float:
    """Time inserts into the store's table, without the store."""
    open_store(location).close()
    with closing(open_database(location, "write")) as database:
        started = time.perf_counter()
        for group in rows:
            with database.transaction():
                put(database, group)
        return time.perf_counter() - started


def insert(database: Any, group: list[Any]) -> None:
    SqliteStatements(database).insert_events(group)


def copy(database: Any, group: list[Any]) -> None:
    with database.cursor() as cursor, cursor.copy(f"COPY event ({COLUMNS}) FROM STDIN (FORMAT BINARY)") as copying:
        copying.set_types(TYPES)
        for start in range(0, len(group), WIDTH):
            copying.write_row(group[start : start + WIDTH])


@contextmanager
def script(port: int, how: str, path: Path) -> Iterator[None]:
    process = subprocess.Popen(
        [sys.executable, str(Path(__file__).with_name("ingest_scripts.py")), str(port), how, str(path)], stderr=subprocess.PIPE, text=True
    )
    try:
        assert process.stderr is not None
        process.stderr.readline()
        yield
    finally:
        process.kill()
        process.communicate()


@contextmanager
def worker(port: int, database: str) -> Iterator[None]:
    with Running("platform", "run", "-p", str(port), "--database", database) as running:
        running.wait_for("connected")
        yield


def loaded(port: int, batches: int) -> float:
    """Seconds for a number of batches from each device."""
    load = [sys.executable, ingest_load.__file__, str(port), str(DEVICES), str(batches)]
    return float(subprocess.run(load, check=True, capture_output=True, text=True).stdout)


class Bench:
    """Runs all ways, round by round, and remembers their events per second."""

    def __init__(self, batches: int, server: PostgreSQL | None) -> None:
        self._batches = batches
        self._rows = groups(batches)
        self._server = server
        self._rates: list[dict[str, float]] = []

    def round(self, folder: Path) -> None:
        broker = Mosquitto(folder, BROKER)
        broker.start()
        try:
            ways = list(self._ways(folder, broker.port).items())
            # The first way of a round finds different caches than the last.
            in_turn = ways if len(self._rates) % 2 == 0 else ways[::-1]
            self._rates.append({name: self._rate(name, run) for name, run in in_turn})
        finally:
            broker.kill()

    def _ways(self, folder: Path, port: int) -> dict[str, Callable[[int], float]]:
        """The ways to store a number of batches from each device, which return seconds."""

        def by(running: Callable[[], AbstractContextManager[None]]) -> Callable[[int], float]:
            def run(batches: int) -> float:
                with running():
                    return loaded(port, batches)

            return run

        ways: dict[str, Callable[[int], float]] = {
            "raw": lambda _: timed(folder / "raw.db", self._rows, insert),
            "worker": by(lambda: worker(port, f"sqlite:///{folder}/worker.db")),
            "obvious": by(lambda: script(port, "obvious", folder / "obvious.db")),
            "each": by(lambda: script(port, "each", folder / "each.db")),
        }
        if (server := self._server) is not None:
            ways["copy"] = lambda _: timed(server.new_database(), self._rows, copy)
            ways["postgresql"] = by(lambda: worker(port, server.new_database()))
        return ways

    def _rate(self, name: str, run: Callable[[int], float]) -> float:
        batches = max(1, round(self._batches * SHARE.get(name, 1.0)))
        return batches * DEVICES * ingest_load.EVENTS / run(batches)

    def tell(self) -> None:
        """Medians of the rates, and of the ratios of the same round."""
        for name in self._ways(Path(), 0):
            rate = statistics.median(rates[name] for rates in self._rates)
            base = "copy" if name in {"copy", "postgresql"} else "raw"
            ratios = f"{self._ratio(name, base):8.2f} of {base}"
            if name in SHARE:
                ratios += f"; the worker is {self._ratio('worker', name):,.1f} times as fast"
            click.echo(f"{name:<11}{rate:>10,.0f} events/s{ratios}")

    def _ratio(self, name: str, base: str) -> float:
        return statistics.median(rates[name] / rates[base] for rates in self._rates)


@click.command()
@click.option("--batches", default=40, show_default=True, help="Batches of each of 200 devices a round.")
@click.option("--rounds", default=5, show_default=True)
def main(batches: int, rounds: int) -> None:
    """Measure."""
    server = PostgreSQL(settings=("shared_buffers=1GB", "max_wal_size=4GB")) if PROGRAMS else None
    bench = Bench(batches, server)
    try:
        for _ in range(rounds):
            with tempfile.TemporaryDirectory(dir="/var/tmp") as name:
                bench.round(Path(name))
    finally:
        if server is not None:
            server.close()
    bench.tell()


if __name__ == "__main__":
    main()
