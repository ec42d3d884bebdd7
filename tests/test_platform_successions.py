"""A device leaves an epoch: the real store does as the model in support/pipeline.py says."""

import random
from dataclasses import replace
from typing import Any

import pytest
from pipeline import Faults, Platform, RealtimeCopy, World
from platform_model import batch, event
from platform_store import rows, store_batches, store_match

from facewire.messages import Ack, Batch, Match, Origin, Status
from facewire_platform.history.queries import History
from facewire_platform.store.drivers import Location
from facewire_platform.store.writer import Message, Store, open_store

#: Every fault but a restore of the platform, which is another database.
FAULTS = Faults(records=12, reboots=3, snapshots=0, platform_restores=0, images=2, device_restores=2, resets=1, moves=3)
STEPS = 80


def store_message(store: Store, message: Batch | RealtimeCopy) -> Any:
    body = message if isinstance(message, Batch) else Match(message.epoch, message.boot, 0, message.event)
    return store.store([Message("d", body, 1)])[0]


COUNTS = """
    SELECT gaps = (SELECT coalesce(sum(last - first + 1), 0) FROM gap WHERE gap.stream = stream.id)
        AND continued = (SELECT coalesce(sum(last - first + 1), 0) FROM continued WHERE continued.stream = stream.id)
        AND stored = (SELECT count(*) FROM event WHERE event.stream = stream.id)
    FROM stream
"""


def stored(location: Location) -> dict[int, dict[str, Any]]:
    """The tables as the model has them: by the number in the epoch's name."""
    streams: dict[int, dict[str, Any]] = {}
    numbers = {}
    for stream, epoch, watermark, leads in rows(location, "SELECT id, epoch, watermark, leads FROM stream"):
        numbers[stream] = int(epoch[1:])
        streams[numbers[stream]] = {"watermark": watermark, "leads": bool(leads), "stored": {}, "gap": set(), "continued": set()}
    for stream, seq, content in rows(location, "SELECT stream, seq, timestamp FROM event"):
        streams[numbers[stream]]["stored"][seq] = content
    for table in ("gap", "continued"):
        for stream, first, last in rows(location, f"SELECT stream, first, last FROM {table}"):
            streams[numbers[stream]][table] |= set(range(first, last + 1))
    return streams


def modelled(platform: Platform) -> dict[int, dict[str, Any]]:
    return {
        number: {
            "watermark": stream.watermark,
            "leads": platform.leader == number,
            "stored": dict(stream.stored),
            "gap": set(stream.gaps),
            "continued": set(stream.continued),
        }
        for number, stream in platform.streams
    }


@pytest.mark.parametrize("seed", range(12))
def test_a_walk_through_every_fault_leaves_in_the_store_what_the_rules_say(location: Location, seed: int) -> None:
    chance = random.Random(seed)
    world = World(pipe_size=4)
    state = world.start(FAULTS)
    with open_store(location) as store:
        for step in range(STEPS):
            inbound = sorted((message for message in state.pipe if not isinstance(message, Ack)), key=repr)
            if inbound and chance.random() < 0.5:
                message = chance.choice(inbound)
                state = world.deliver(state, message)
                ack = store_message(store, message)
                assert stored(location) == modelled(state.platform), f"step {step}: {message}"
                if isinstance(message, Batch):
                    assert (ack.cursor, ack.conflict) == world.answers[message]
            else:
                state = chance.choice([after for after in world.successors(state) if after.platform == state.platform])
    with History(location) as history:
        assert all(equal for (equal,) in rows(location, COUNTS))
        assert {row["unaccounted"] for row in history.conservation()} == {0}


OLD, NEW = "00000000000000e1", "00000000000000e2"


def status(epoch: str, boot: str, head: int) -> Status:
    return Status(boot, True, 1, epoch, head=head, oldest=1, cursor=0)


def test_a_store_that_died_before_its_first_batch_is_named_by_its_status(location: Location) -> None:
    with open_store(location) as store:
        store.store([Message("d", status(OLD, "00000000000000b1", 7), 1)])
        store.store([Message("d", status(NEW, "00000000000000b2", 0), 2)])
        store_batches(store, batch(0, 0, epoch=NEW, boot="00000000000000b2"))
    with History(location) as history:
        assert [(gap["epoch"], gap["first"], gap["last"]) for gap in history.gaps()] == [(OLD, 1, 7)]
        assert [(row["epoch"], row["gaps"]) for row in history.devices()] == [(NEW, 7)]


def test_two_copies_of_one_store_that_both_moved_store_an_event_once(location: Location) -> None:
    copies = ("00000000000000e2", "00000000000000b2"), ("00000000000000e3", "00000000000000b3")
    with open_store(location) as store:
        store_batches(store, batch(0, 0, epoch=OLD, boot="00000000000000b1"))
        for epoch, boot in copies:
            moved = batch(0, 3, 1, 2, 3, epoch=epoch, boot=boot)
            store_batches(store, replace(moved, origins=(Origin(OLD, 1, 3),)))
    assert rows(location, "SELECT epoch, seq FROM event JOIN stream ON stream.id = event.stream ORDER BY 1, 2") == [
        ("00000000000000e3", seq) for seq in (1, 2, 3)
    ]
    with History(location) as history:
        assert {row["unaccounted"] for row in history.conservation()} == {0}


def test_a_replaced_store_is_named_and_what_came_of_it_stays(location: Location) -> None:
    with open_store(location) as store:
        store_batches(store, batch(0, 3, 1, 2, 3, head=201))
        store_match(store, 150)
        store_batches(store, batch(0, 1, 1, epoch=NEW, boot="00000000000000b2"))
    with History(location) as history:
        assert [(gap["first"], gap["last"]) for gap in history.gaps()] == [(4, 149), (151, 201)]
        assert {row["unaccounted"] for row in history.conservation()} == {0}


def test_events_of_an_epoch_that_was_given_up_fill_its_gap_when_they_come_after_all(location: Location) -> None:
    with open_store(location) as store:
        store_batches(store, batch(0, 2, 1, 2, head=4))
        store_batches(store, batch(0, 1, 1, epoch=NEW, boot="00000000000000b2"))
        assert store_batches(store, batch(2, 4, 3, 4)).cursor == 4
    with History(location) as history:
        assert list(history.gaps()) == []
        assert {row["unaccounted"] for row in history.conservation()} == {0}


def test_after_a_conflict_an_event_moves_to_the_epoch_that_records_it_again(location: Location) -> None:
    again = batch(0, 1, event(1, 7), epoch=NEW, boot="00000000000000b2")
    with open_store(location) as store:
        store_batches(store, batch(0, 2, 1, 2))
        store_match(store, 3, 7)
        store_match(store, 4, 8)  # another timeline's: it stays
        store_batches(store, replace(again, origins=(Origin(OLD, 3, 4, diverged=True),)))
    with History(location) as history:
        assert {row["unaccounted"] for row in history.conservation()} == {0}
    query = "SELECT stream.epoch, event.seq FROM event JOIN stream ON stream.id = event.stream ORDER BY 1, 2"
    assert [tuple(row) for row in rows(location, query)] == [(OLD, 1), (OLD, 2), (OLD, 4), (NEW, 1)]
