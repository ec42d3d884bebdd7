"""Bytes that an event takes on disk, with its indexes: `make bench-size`."""

import json
import random
import sys
import tempfile
from pathlib import Path
from typing import Any, Final

import click

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

from postgresql_server import PROGRAMS, PostgreSQL

from facewire.events import event_from_map
from facewire.messages import Batch
from facewire_platform.store.backup import backup
from facewire_platform.store.database import open_database
from facewire_platform.store.drivers import Location
from facewire_platform.store.writer import Message, open_store

DEVICES: Final = 200
ID: Final = "ab" * 8
VENDORS: Final = Path(__file__).parent.parent / "data" / "vendor-events.jsonl"


def kinds() -> dict[str, dict[str, Any]]:
    """The fields of an event beside seq, time and person."""
    required = {"score": 0.623, "person_type": 1}
    vendors = json.loads(VENDORS.read_text(encoding="utf-8").splitlines()[0])
    return {
        "required fields": required,
        "vendor's form": vendors | required,
        "with 10 KB photo": required | {"photo": random.Random(7).randbytes(10_000)},
    }


def fill(location: Location, fields: dict[str, Any], rounds: int) -> None:
    """Store a batch of 100 events of each device, a number of times."""
    with open_store(location) as store:
        for start in range(0, rounds * 100, 100):
            store.store([Message(f"lobby-{device}", _batch(fields, device, start), 1) for device in range(DEVICES)])


def _batch(fields: dict[str, Any], device: int, after: int) -> Batch:
    def event(seq: int) -> dict[str, Any]:
        person = f"{(seq * 13 + device) % 5_000:06d}"
        return fields | {"seq": seq, "timestamp": 1_764_000_000_000 + seq * 3_000 + device, "identity_id": person, "identity_name": "小明"}

    events = tuple(event_from_map(event(seq)) for seq in range(after + 1, after + 101))
    return Batch(ID, ID, after, after + 100, after + 100, 1, events)


def size_bytes(location: Location, folder: Path) -> int:
    """The size of a database; for SQLite that of its backup, which has no log."""
    if isinstance(location, Path):
        return backup(location, folder / "copy.db")
    database = open_database(location, "read")
    size: int = database.execute_sql("SELECT pg_database_size(current_database())").fetchone()[0]
    database.close()
    return size


@click.command()
@click.argument("count", default=200_000)
def main(count: int) -> None:
    """Fill databases, and print a table."""
    server = PostgreSQL() if PROGRAMS else None
    print(f"{count} events of {DEVICES} devices; bytes an event")
    try:
        for name, fields in kinds().items():
            rounds = 1 if "photo" in name else max(1, count // (DEVICES * 100))
            for engine in ("SQLite", *(("PostgreSQL",) if server else ())):
                with tempfile.TemporaryDirectory() as folder:
                    location = server.new_database() if server and engine == "PostgreSQL" else Path(folder) / "x.db"
                    fill(location, fields, rounds)
                    print(f"{name:<20} {engine:<12} {size_bytes(location, Path(folder)) / (rounds * DEVICES * 100):>8.0f}")
    finally:
        if server:
            server.close()


if __name__ == "__main__":
    main()
