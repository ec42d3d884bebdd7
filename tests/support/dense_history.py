"""A history as dense as that of a real site: `python tests/support/dense_history.py FILE --days 7`.

500 boxes record 3,000 events a day each, between 6 and 22 o'clock (UTC), and send them in batches
of 100, so the rows lie in the order in which a platform receives them. Four events in ten are of
strangers with ids of their own. The others are of 20,000 people: some are visitors or VIPs, and few
are blocklisted.
"""

import contextlib
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import click

from facewire.events import Event
from facewire.messages import Batch, Status
from facewire_platform.store.database import dialect_of
from facewire_platform.store.drivers import Location
from facewire_platform.store.rows import Rows
from facewire_platform.store.schema import TABLES, StreamRow
from facewire_platform.store.writer import Message, open_store

DEVICES: Final = 500
PER_DAY: Final = 3_000
BATCH: Final = 100
PEOPLE: Final = 20_000
HOUR, DAY = 3_600_000, 86_400_000
BEGIN: Final = 1_763_251_200_000  # 2025-11-16, a Sunday
#: Milliseconds between two events of a device.
STEP: Final = 16 * HOUR // PER_DAY
EXTRA: Final = {"want_action": "0", "device_ip": "192.168.1.243", "out_timestamp": BEGIN}
#: One event in so many is of a blocklisted person.
BLOCKLISTED: Final = 300_000
EMPLOYEE, VISITOR, BLOCKED, STRANGER, VIP = 1, 2, 3, 4, 5


def name_of(person: int) -> str:
    """A person's name."""
    return f"name {person}"


def event(device: int, seq: int, chance: random.Random) -> Event:
    """The event of a device with this seq."""
    day, place = divmod(seq - 1, PER_DAY)
    at = BEGIN + day * DAY + 6 * HOUR + place * STEP + device * STEP // DEVICES
    score, ep = chance.random(), f"0xe0__192.168.1.{96 + device % 4}"
    if chance.random() < 0.4:
        return Event(seq, at, score, f"s{device}-{seq}", "", STRANGER, "default", ep, EXTRA)
    if chance.randrange(BLOCKLISTED) == 0:
        return Event(seq, at, score, "blocked-1", "blocked", BLOCKED, "default", ep, EXTRA)
    person = int(chance.random() * PEOPLE)
    kind = VIP if person % 500 == 0 else VISITOR if person % 10 == 0 else EMPLOYEE
    return Event(seq, at, score, str(person), name_of(person), kind, "default", ep, EXTRA)


def batches(days: int, rows: type[Rows]) -> Iterator[tuple[int, Rows]]:
    """A device and the rows of its next batch, in the order of arrival."""
    chance = random.Random(1)
    for after in range(0, days * PER_DAY, BATCH):
        for device in range(DEVICES):
            yield device, rows.of([event(device, seq, chance) for seq in range(after + 1, after + BATCH + 1)])


def fill(location: Location, days: int) -> None:
    """Make a platform's database; its tables describe the devices as if a worker had written it."""
    last, end, dialect = days * PER_DAY, BEGIN + days * DAY, dialect_of(location)
    with open_store(location) as store:
        store.store([Message(f"device-{d:03}", _status(d, last), end) for d in range(DEVICES)])
        store.store([Message(f"device-{d:03}", Batch(f"{d:016x}", "b" * 16, 0, 0, 0, 1, ()), end) for d in range(DEVICES)])
    with contextlib.closing(dialect.open("write")) as db, db.bind_ctx(TABLES):
        streams = {row.device: row.id for row in StreamRow.select()}
        statements, group = dialect.statements(db), list[object]()
        for number, (device, rows) in enumerate(batches(days, dialect.rows), 1):
            rows.add_to(group, streams[f"device-{device:03}"])
            if number % 50 == 0:
                with dialect.transaction(db):
                    statements.insert_events(group)
                group = []
        StreamRow.update(dict.fromkeys((StreamRow.head, StreamRow.watermark, StreamRow.stored), last)).execute()
        dialect.finish_erasing(db)  # empties SQLite's log


def _status(device: int, last: int) -> Status:
    epoch, at = f"{device:016x}", BEGIN + last // PER_DAY * DAY
    return Status("b" * 16, True, at, epoch, last, 1, last, 0.8, 20.0, 10_000, 0, "0.1.0")


@click.command()
@click.argument("path", type=click.Path(exists=False, path_type=Path))
@click.option("--days", type=click.IntRange(1), default=7)
def main(path: Path, days: int) -> None:
    """Make a history; the file must not be there."""
    fill(path, days)


if __name__ == "__main__":
    main()
