"""The rate of a device against a scan of all its events."""

import random
from typing import Any

import pytest
from platform_model import EPOCH, batch
from platform_store import event_at, rows, run, store_match

from facewire.messages import Status
from facewire_platform.history.devices import FEWEST, RATE_EVENTS
from facewire_platform.history.queries import History
from facewire_platform.store.drivers import Location
from facewire_platform.store.writer import Message, Store, open_store

FORK = "00000000000000f2"
NOW = 1_764_054_000_000


def scanned(location: Location) -> dict[tuple[str, str], float]:
    """The rate of each stream whose device described it last."""
    found = {}
    for device, epoch, stream, head in rows(location, "SELECT device, epoch, id, head FROM stream"):
        events = dict(sorted(rows(location, f"SELECT seq, timestamp FROM event WHERE stream = {stream}")))
        recent = [seq for seq in events if seq > head - RATE_EVENTS]
        if recent and events[recent[0]] < NOW and max(events) - recent[0] + 1 >= FEWEST:
            found[device, epoch] = (max(events) - recent[0] + 1) * 1000 / (NOW - events[recent[0]])
    return found


def fill(store: Store, chance: random.Random) -> None:
    """Devices with few events, many, one, none; with gaps; with unordered times; after a fork."""
    for device, events in {"few": 40, "many": RATE_EVENTS + 700, "one": 1, "none": 0, "forked": 30}.items():
        for epoch in (EPOCH, FORK) if device == "forked" else (EPOCH,):
            for after in range(0, max(events, 1), 100):
                cursor = min(after + 100, events)
                seqs = [seq for seq in range(after + 1, cursor + 1) if chance.random() < 0.9 or events == 1]
                made = [event_at(seq, NOW - chance.randrange(1, 10_000_000)) for seq in seqs]
                store.store([Message(device, batch(after, cursor, *made, epoch=epoch, head=events), NOW)])
            store.store([Message(device, Status("b" * 16, True, NOW, epoch, head=events, capacity=10_000), NOW)])


@pytest.mark.parametrize("seed", range(3))
def test_the_rate_of_each_device_is_that_of_a_scan(location: Location, seed: int) -> None:
    with open_store(location) as store:
        fill(store, random.Random(seed))
        store_match(store, 9)
    check(location, 6)
    run(location, "DELETE FROM event WHERE seq < 1200")  # as retention does
    check(location, 6)


def check(location: Location, devices: int) -> None:
    with History(location) as history:
        found = list[dict[str, Any]](history.devices(all_epochs=True))
    wanted = scanned(location)
    current = {(row["device"], row["epoch"]): row["rate"] for row in found if row["current"]}
    assert len(current) == devices
    assert current == {key: wanted.get(key) if key[0] != "d" else None for key in current}  # "d" sent no status
