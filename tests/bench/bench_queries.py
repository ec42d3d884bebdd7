"""The usual questions to long histories: `make bench-queries EVENTS="1000000 10000000"`.

100 devices record 1,000 events a day each, so a longer history has more days. There are 20,000
people; four events in ten are of strangers, who return every ten days. Each question is asked up to
9 times with different arguments. The table shows the median, and its ratio to the smallest history.
As in a database in use, the files are in the system's cache.
"""

import contextlib
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import click

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

from postgresql_server import PostgreSQL

from facewire.events import Event
from facewire.messages import Batch
from facewire_platform.columns.filter import Filter
from facewire_platform.history.periods import Period
from facewire_platform.history.queries import History
from facewire_platform.history.reports import attendance
from facewire_platform.store.database import open_database
from facewire_platform.store.drivers import Location
from facewire_platform.store.schema import EVENT_COLUMNS, TABLES, EventRow, StreamRow
from facewire_platform.store.writer import Message, open_store

DEVICES, BATCH, PEOPLE = 100, 100, 20_000
HOUR, DAY = 3_600_000, 86_400_000
STEP = DAY // (DEVICES * 1_000)
BEGIN = 1_704_067_200_000  # 2024-01-01
FIRST = 1_000_000
ROUNDS, ENOUGH = 9, 10.0  # times, s
EXTRA = {"want_action": "0", "device_ip": "192.168.1.243", "out_timestamp": BEGIN}


def event(device: int, seq: int, chance: random.Random) -> Event:
    at = BEGIN + (seq * DEVICES + device) * STEP
    if chance.random() < 0.4:
        return Event(seq, at, chance.random(), f"s{device}-{seq}", "", 4, "default", "0xe0__192.168.1.96", EXTRA)
    person = chance.randrange(PEOPLE)
    return Event(seq, at, chance.random(), f"{person}", f"name {person}", 1, "default", "0xe0__192.168.1.96", EXTRA)


def groups(events: int) -> Iterator[list[Message]]:
    """The groups of a worker: a batch of each device, again and again."""
    chance = random.Random(1)
    for after in range(0, events // DEVICES, BATCH):
        cursor = min(after + BATCH, events // DEVICES)
        made = ((d, tuple(event(d, seq, chance) for seq in range(after + 1, cursor + 1))) for d in range(DEVICES))
        yield [Message(f"device-{d}", Batch(f"{d:016x}", "b" * 16, after, cursor, cursor, 1, some), 1) for d, some in made]


def fill(location: Location, events: int) -> None:
    """Store the first million; the database copies it, each copy later than the one before."""
    first = min(events, FIRST)
    with open_store(location) as store:
        for group in groups(first):
            store.store(group)
    with contextlib.closing(open_database(location, "write")) as db, db.bind_ctx(TABLES):
        for copy in range(1, events // first):
            with db.atomic():
                EventRow.insert_from(_later(copy * first // DEVICES, first // DEVICES), EVENT_COLUMNS).execute()
        heads = dict.fromkeys((StreamRow.head, StreamRow.watermark, StreamRow.stored), events // DEVICES)
        StreamRow.update(heads).execute()
        db.execute_sql("ANALYZE" if isinstance(location, str) else "PRAGMA wal_checkpoint(TRUNCATE)")


def _later(seqs: int, of_first: int) -> Any:
    """The events of the first million, moved by a number of seqs of each device."""
    moved = {EventRow.seq: EventRow.seq + seqs, EventRow.timestamp: EventRow.timestamp + seqs * DEVICES * STEP}
    columns = (moved.get(column, column) for column in EVENT_COLUMNS)
    return EventRow.select(*columns).where(EventRow.seq <= of_first)


def consume(rows: Iterable[Any]) -> int:
    return sum(1 for _ in rows)


def questions(history: History, events: int, chance: random.Random) -> dict[str, Callable[[], int]]:
    """Questions that return their number of rows; each call has different arguments."""
    end = BEGIN + events * STEP

    def within(days: int, *, person: str | None = None, device: str | None = None) -> Filter:
        since = chance.randrange(BEGIN, max(BEGIN + 1, end - days * DAY))
        return Filter(since=since, until=since + days * DAY, person=person, device=device)

    def ask(wanted: Filter, **how: Any) -> int:
        return consume(history.events(wanted, **how))

    def person() -> str:
        return str(chance.randrange(PEOPLE))

    def device() -> str:
        return f"device-{chance.randrange(DEVICES)}"

    def attend(wanted: Filter) -> int:
        return consume(attendance(history, Filter(), Period(wanted.since or 0, wanted.until or 0)))

    return {
        "latest 50": lambda: ask(Filter(), limit=50, newest_first=True),
        "latest 50 of a device": lambda: ask(Filter(device=device()), limit=50, newest_first=True),
        "person in a day": lambda: ask(within(1, person=person())),
        "person in a week": lambda: ask(within(7, person=person())),
        "person in a week, by name": lambda: ask(within(7, person=f"name {person()}")),
        "device in a day": lambda: ask(within(1, device=device())),
        "hour counts of a day": lambda: consume(history.hourly(within(1))),
        "attendance of a day": lambda: attend(within(1)),
        "person in all history": lambda: ask(Filter(person=person())),
    }


def measure(location: Location, events: int) -> dict[str, tuple[float, int]]:
    """Median ms of each question, and median rows."""
    chance = random.Random(2)
    told = {}
    with History(location) as history:
        for name, question in questions(history, events, chance).items():
            question()  # fill the caches
            took: list[float] = []
            rows: list[int] = []
            while len(took) < ROUNDS and sum(took) < ENOUGH:
                started = time.perf_counter()
                rows.append(question())
                took.append(time.perf_counter() - started)
            told[name] = statistics.median(took) * 1000, int(statistics.median(rows))
    return told


def report(kind: str, sizes: dict[int, dict[str, tuple[float, int]]]) -> None:
    first, *_ = sizes.values()
    head = "".join(f"{f'{events / 1e6:g} M':>12}{'rows':>7}{'ratio':>7}" for events in sizes)
    click.echo(f"{kind + ', ms':<27}{head}")
    for name in first:
        cells = (f"{ms:>12.1f}{rows:>7,}{ms / first[name][0]:>7.2f}" for ms, rows in (told[name] for told in sizes.values()))
        click.echo(f"{name:<27}{''.join(cells)}")


def made(folder: Path, events: int) -> Path:
    """The SQLite file with a number of events; an existing one is used again."""
    path = folder / f"{events}.db"
    if not path.exists():
        part = path.with_suffix(".part")
        fill(part, events)
        part.rename(path)
    return path


def run(kind: str, sizes: Iterable[int], make: Callable[[int], Location]) -> None:
    told = {}
    for events in sizes:
        started = time.perf_counter()
        location = make(events)
        size = f", {location.stat().st_size / events:.0f} bytes each" if isinstance(location, Path) else ""
        click.echo(f"{kind}: {events / 1e6:g} M events ready after {time.perf_counter() - started:.0f} s{size}", err=True)
        told[events] = measure(location, events)
    report(kind, told)


@click.command()
@click.argument("sizes", type=click.IntRange(min=DEVICES * BATCH), nargs=-1)
@click.option("--postgresql", is_flag=True, help="PostgreSQL instead of SQLite; starts one of its own.")
@click.option("--folder", type=click.Path(file_okay=False, exists=True, path_type=Path), help="Keep SQLite's files here, for another run.")
def main(sizes: tuple[int, ...], postgresql: bool, folder: Path | None) -> None:
    """Measure histories of these sizes."""
    sizes = sizes or (1_000_000, 10_000_000)
    with contextlib.ExitStack() as stack:
        if not postgresql:
            # Not /tmp, which may be memory.
            within = folder or Path(stack.enter_context(tempfile.TemporaryDirectory(dir="/var/tmp")))
            run("SQLite", sizes, lambda events: made(within, events))
            return
        server = PostgreSQL(("fsync=off", "shared_buffers=512MB", "max_wal_size=4GB"))
        stack.callback(server.close)

        def make(events: int) -> str:
            url = server.new_database()
            fill(url, events)
            return url

        run("PostgreSQL", sizes, make)


if __name__ == "__main__":
    main()
