"""A site's questions, as a user types them, beside DuckDB's: `make bench-queries DAYS="2 7"`.

500 boxes record 3,000 events a day each (`dense_history`). Every question is a process of its own,
so its time includes the start of Python, and so does DuckDB's. DuckDB reads the same rows from a
Parquet file for each day (zstd, sorted by time), as most people would store them for it. The table
shows the median of some rounds, and the ratio. The system has all files in its cache, as it would
in use.
"""

import contextlib
import os
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final, NamedTuple

import click

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

import dense_history
from postgresql_server import PostgreSQL

from facewire_platform.columns import engine
from facewire_platform.columns.builder import Builder
from facewire_platform.store.drivers import Location

ROUNDS: Final = 5
DAY, HOUR = dense_history.DAY, dense_history.HOUR
_DUCKDB: Final = """
import duckdb, sys
db = duckdb.connect(config={"threads": 2, "memory_limit": "400MB"})
print(len(db.execute(sys.argv[1]).fetchall()))
"""
_PEOPLE: Final = "SELECT {0}identity_id, max(identity_name), min(timestamp), max(timestamp), count(*) FROM {1} WHERE person_type <> 4 {2} GROUP BY ALL ORDER BY ALL"
_COUNTS: Final = (
    "SELECT timestamp // {0} AS period, count(*), count(*) FILTER (person_type = 4), "
    "count(DISTINCT identity_id) FILTER (person_type <> 4) FROM {1} {2} GROUP BY ALL ORDER BY ALL"
)


class Question(NamedTuple):
    """What is asked: of us, and of DuckDB."""

    name: str
    command: str
    sql: str


def questions(days: int, table: str) -> list[Question]:
    """Those of a history that is so many days long; `table` is DuckDB's."""
    last = dense_history.BEGIN + (days - 1) * DAY
    date = time.strftime("%Y-%m-%d", time.gmtime(last / 1000))
    that_day = f"timestamp BETWEEN {last} AND {last + DAY - 1}"
    week = f"--day {date} --days {min(days, 7)} --tz UTC -o csv"
    in_week = f"timestamp >= {last - (min(days, 7) - 1) * DAY}"
    newest = "ORDER BY timestamp DESC, stream DESC, seq DESC LIMIT 50"
    count = f"SELECT device, count(*), max(seq) FROM {table} WHERE {that_day} GROUP BY ALL"
    return [
        Question("status", "status -o csv", count),
        Question("attendance of a day", f"report attendance --day {date} --tz UTC -o csv", _PEOPLE.format("", table, f"AND {that_day}")),
        Question("attendance of a week", f"report attendance {week}", _PEOPLE.format(f"timestamp // {DAY}, ", table, f"AND {in_week}")),
        Question("traffic of a day by hour", f"report traffic --day {date} --tz UTC -o csv", _COUNTS.format(HOUR, table, f"WHERE {that_day}")),
        Question("traffic of a week by day", f"report traffic --by day {week}", _COUNTS.format(DAY, table, f"WHERE {in_week}")),
        Question("latest 50", "events --newest-first --limit 50 -o csv", f"SELECT * FROM {table} {newest}"),
        Question("last 50 blocklisted", "events --person-type 3 --newest-first --limit 50 -o csv", f"SELECT * FROM {table} WHERE person_type = 3 {newest}"),
        Question("last 50 of a type without any", "events --person-type 6 --newest-first --limit 50 -o csv", f"SELECT * FROM {table} WHERE person_type = 6 {newest}"),
        Question("last 50 of a device", "events -d device-077 --newest-first --limit 50 -o csv", f"SELECT * FROM {table} WHERE device = 'device-077' {newest}"),
        Question("last 50 above a score", "events --min-score 0.99999 --newest-first --limit 50 -o csv", f"SELECT * FROM {table} WHERE score >= 0.99999 {newest}"),
        Question("all of a person", "events --person 777 -o json", f"SELECT * FROM {table} WHERE identity_id = '777' OR identity_name = '777' ORDER BY timestamp"),
        Question("all of a person, by name", "events --person 'name 777' -o json", f"SELECT * FROM {table} WHERE identity_id = 'name 777' OR identity_name = 'name 777' ORDER BY timestamp"),
    ]  # fmt: skip


def seconds(command: Sequence[str], environment: dict[str, str]) -> float:
    """The median of a command's wall-clock time."""
    took = []
    for _ in range(ROUNDS):
        started = time.perf_counter()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment)
        took.append(time.perf_counter() - started)
    return statistics.median(took)


def by_time(location: Location, folder: Path) -> str:
    """A table of DuckDB's on the column files sorted by time; it uses existing files again."""
    folder.mkdir(exist_ok=True)
    with Builder(location) as builder, engine.opened() as duck:
        for _ in builder.build():
            pass
        ours = builder.folder()
        for number, part in enumerate(builder.parts()):
            path = folder / f"{number}.parquet"
            if ours is not None and not path.exists():
                engine.copy(duck, f"SELECT * FROM {engine.files(ours, [part.name])} ORDER BY timestamp, stream, seq", path, group=122_880)
    return f"read_parquet('{folder}/*.parquet')"


def measure(location: Location, days: int, folder: Path) -> None:
    """Ask everything of one history, and print it."""
    table = by_time(location, folder)
    url = location if isinstance(location, str) else f"sqlite:///{location}"
    click.echo(f"{f'{days} days, {days * 1.5:g} M events; s':<32}{'facewire':>10}{'DuckDB':>10}{'ratio':>8}")
    for name, command, sql in questions(days, table):
        ours = seconds(["facewire", *shlex.split(command)], os.environ | {variable(command): url})
        theirs = seconds([sys.executable, "-P", "-c", _DUCKDB, sql], dict(os.environ))
        click.echo(f"{name:<32}{ours:>10.2f}{theirs:>10.2f}{ours / theirs:>8.2f}")


def variable(command: str) -> str:
    """The environment variable that gives a command its database."""
    words = [word for word in command.split() if word.islower() and not word.startswith("-")]
    return f"FACEWIRE_{'_'.join(words[: 2 if words[0] == 'report' else 1]).upper()}_DATABASE"


@contextlib.contextmanager
def histories(days: Sequence[int], folder: Path, *, postgresql: bool) -> Iterator[Iterator[tuple[int, Location]]]:
    """Each history; those of SQLite that are there are used again."""

    def made() -> Iterator[tuple[int, Location]]:
        for some in days:
            location: Location = server.new_database() if server is not None else folder / f"{some}.db"
            if server is not None or not (folder / f"{some}.db").exists():
                dense_history.fill(location, some)
            yield some, location

    server = PostgreSQL(("fsync=off", "shared_buffers=512MB", "max_wal_size=4GB")) if postgresql else None
    try:
        yield made()
    finally:
        if server is not None:
            server.close()


@click.command()
@click.argument("days", type=click.IntRange(1), nargs=-1)
@click.option("--postgresql", is_flag=True, help="PostgreSQL instead of SQLite; starts one of its own.")
@click.option("--folder", type=click.Path(file_okay=False, exists=True, path_type=Path), help="Keep SQLite's files here, for another run.")
def main(days: tuple[int, ...], postgresql: bool, folder: Path | None) -> None:
    """Measure histories of so many days."""
    with contextlib.ExitStack() as stack:
        # Not /tmp, which may be memory.
        within = folder or Path(stack.enter_context(tempfile.TemporaryDirectory(dir="/var/tmp")))
        for some, location in stack.enter_context(histories(days or (2, 7), within, postgresql=postgresql)):
            measure(location, some, within / f"{some}-by-time")


if __name__ == "__main__":
    main()
