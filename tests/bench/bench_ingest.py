"""Ingest beside raw sqlite3, in one run: `make bench-ingest`, or `python tests/bench/bench_ingest.py`.

    raw        sqlite3 alone, the same rows, tables, index and commits, multi-row VALUES: what the database itself takes
    store      `Store.take`, groups as the worker makes them, synchronous=FULL
    decode     `decode` of the batches' bytes
    worker     both, one after the other, and the acks written: all of the worker but its sockets

Typical events, 100 a batch, 50 devices in turn. Each round does all four; the medians are told.
"""

import random
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from facewire import codec
from facewire.events import Event
from facewire.messages import Ack, Batch, decode, encode
from facewire_platform.database import open_database
from facewire_platform.store import Taken, open_store

BATCH, DEVICES, GROUP = 100, 50, 50
_CHANCE = random.Random(1)


def event(seq: int) -> Event:
    extra = {"want_action": "0", "device_ip": "192.168.1.243", "out_timestamp": 1_700_000_000_000 + seq}
    person, name = f"{_CHANCE.randrange(10**6)}", f"name {_CHANCE.randrange(1000)}"
    return Event(seq, 1_700_000_000_000 + seq * 200, _CHANCE.random() * 100, person, name, 1, "default", "0xe0__192.168.1.96", extra)


def payloads(groups: int) -> list[list[tuple[str, bytes]]]:
    made = []
    for group in range(groups):
        after = group * BATCH
        events = [tuple(event(after + place) for place in range(1, BATCH + 1)) for _ in range(DEVICES)]
        batches = [Batch(f"{n:016x}", "b" * 16, after, after + BATCH, after + BATCH, 1, some) for n, some in enumerate(events)]
        made.append([(f"dev{n}", encode(batch)) for n, batch in enumerate(batches)])
    return made


def raw(folder: Path, rows: list[list[list[Any]]]) -> float:
    """The store's own file, without the store."""
    open_store(folder / "raw.db").close()
    db = open_database(folder / "raw.db", "write")
    cursor = db.cursor()
    place = "(?,?,?,?,?,?,?,?,?,?)"
    statement = "INSERT INTO event VALUES " + ",".join([place] * BATCH)
    started = time.perf_counter()
    for group in rows:
        cursor.execute("BEGIN IMMEDIATE")
        for values in group:
            cursor.execute(statement, values)
        cursor.execute("COMMIT")
    took = time.perf_counter() - started
    db.close()
    return took


def stored(folder: Path, groups: list[list[tuple[str, Batch]]]) -> float:
    with open_store(folder / "store.db") as store:
        started = time.perf_counter()
        for group in groups:
            store.take([Taken(device, batch, 1) for device, batch in group])
        return time.perf_counter() - started


def worked(folder: Path, groups: list[list[tuple[str, bytes]]]) -> float:
    with open_store(folder / "worker.db") as store:
        started = time.perf_counter()
        for group in groups:
            for ack in store.take([Taken(device, _batch(payload), 1) for device, payload in group]):
                assert isinstance(ack, Ack)
                encode(ack)
        return time.perf_counter() - started


def _batch(payload: bytes) -> Batch:
    batch = decode("history", payload)
    assert isinstance(batch, Batch)
    return batch


def timed(function: Callable[[], object]) -> float:
    started = time.perf_counter()
    function()
    return time.perf_counter() - started


@click.command()
@click.option("--groups", default=20, show_default=True, help="Commits a round.")
@click.option("--rounds", default=5, show_default=True)
def main(groups: int, rounds: int) -> None:
    """Measure."""
    given = payloads(groups)
    decoded = [[(device, _batch(payload)) for device, payload in group] for group in given]
    rows = [
        [[value for e in batch.events for value in (n, *e[:-1], codec.pack(e.extra))] for n, (_, batch) in enumerate(group)]
        for group in decoded
    ]
    events = groups * DEVICES * BATCH
    took: dict[str, list[float]] = {"raw": [], "store": [], "decode": [], "worker": []}
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            took["raw"].append(raw(folder, rows))
            took["store"].append(stored(folder, decoded))
            took["decode"].append(timed(lambda: [_batch(payload) for group in given for _, payload in group]))
            took["worker"].append(worked(folder, given))
    base = statistics.median(took["raw"])
    for name, seconds in took.items():
        middle = statistics.median(seconds)
        click.echo(f"{name:<8}{events / middle:>10,.0f} events/s{base / middle:>8.2f} of raw")


if __name__ == "__main__":
    main()
