"""A device leaves an epoch: the real store does as the model in support/pipeline.py says."""

import random
from dataclasses import replace
from typing import Any, TypeAlias

import pytest
from pipeline import Faults, Platform, RealtimeCopy, State, Stream, World
from platform_model import BOOT, bad_event, batch, event
from platform_store import restore, rows, run, snapshot, store_batches, store_match

from facewire.messages import Ack, Batch, Match, Origin, Status
from facewire_platform.history.queries import History
from facewire_platform.history.retention import Retention
from facewire_platform.store import losses, successions, writer
from facewire_platform.store.drivers import Location
from facewire_platform.store.writer import Message, Store, open_store

#: Kinds of steps of the walk, and how often each is taken.
KINDS = {
    "record": 30, "send": 20, "status": 4, "deliver": 50, "ack": 15, "lose": 4,
    "reboots": 3, "images": 4, "device_restores": 5, "resets": 1, "moves": 8,
    "keep": 1, "restore": 1, "purge": 1,
}  # fmt: skip
NO_FAULT = Faults(0, 0, 0, 0, 0, 0, 0)
STEPS, SEEDS = 250, range(12)
DEVICES = ("d", "e")
COUNTS = """
    SELECT gaps = (SELECT coalesce(sum(last - first + 1), 0) FROM gap WHERE gap.stream = stream.id)
        AND continued = (SELECT coalesce(sum(last - first + 1), 0) FROM continued WHERE continued.stream = stream.id)
        AND quarantined = (SELECT count(*) FROM rejected WHERE rejected.stream = stream.id)
        AND watermark = stored + gaps + quarantined + continued
            - (SELECT count(*) FROM event WHERE event.stream = stream.id AND event.seq > watermark)
    FROM stream
"""


class Walk:
    """Devices with the same names of epochs, one store for all, and for each a model beside it."""

    def __init__(self, location: Location, store: Store, seed: int) -> None:
        self.location, self.store, self.chance = location, store, random.Random(seed)
        capacity, size = self.chance.choice(((2, 2), (4, 2), (6, 3), (9, 4)))
        self.worlds = {device: World(pipe_size=10, capacity=capacity, batch_size=size) for device in DEVICES}
        self.states = {device: world.start(NO_FAULT) for device, world in self.worlds.items()}
        self.done: list[str] = []
        self.stored = stored(location)
        self.keep()

    def step(self) -> None:
        [kind] = self.chance.choices(list(KINDS), list(KINDS.values()))
        if kind in {"deliver", "keep", "restore", "purge"}:
            getattr(self, kind)()
        else:
            device = self.chance.choice(DEVICES)
            choices = _device_steps(kind, self.worlds[device], self.states[device])
            self.states[device] = self.chance.choice(choices or [self.states[device]])

    def deliver(self) -> None:
        """Some messages of all devices arrive, and are stored as one group."""
        group: list[Message] = []
        expected: list[Any] = []
        for _ in range(self.chance.choice((1, 1, 2, 5))):
            device = self.chance.choice(DEVICES)
            inbound = sorted((message for message in self.states[device].pipe if not isinstance(message, Ack)), key=repr)
            if inbound:
                message = self._spoiled(self.chance.choice(inbound))
                self.states[device] = self.worlds[device].deliver(self.states[device], message)
                expected.append(self.worlds[device].answers[message] if isinstance(message, Batch) else None)
                group.append(Message(device, _body(message), 1))
        before, changed = self.stored, _changed(self.location)
        outcomes = self.store.store(group)
        self._check(str(group))
        assert [(ack.cursor, ack.conflict) if isinstance(ack, Ack) else None for ack in outcomes] == expected
        check_noted(before, self.stored, _changed(self.location) - changed)

    def keep(self) -> None:
        """Take a snapshot of the platform."""
        self._kept = snapshot(self.location), {device: state.platform for device, state in self.states.items()}

    def restore(self) -> None:
        restore(self.location, self._kept[0])
        for device, platform in self._kept[1].items():
            self.states[device] = self.states[device]._replace(platform=platform)
        self._check("restore")

    def purge(self) -> None:
        """Retention deletes the oldest events at or below each watermark."""
        before = self.chance.randrange(1 + max(state.recorded for state in self.states.values()))
        with Retention(self.location, rest=lambda _: None) as retention:
            list(retention.older_than(before))
        for device, state in self.states.items():
            streams = tuple((number, _purged(stream, before)) for number, stream in state.platform.streams)
            self.states[device] = state._replace(platform=state.platform._replace(streams=streams))
        self._check(f"purge before {before}")

    def _spoiled(self, message: Any) -> Any:
        """At times an event of a batch breaks the contract; it may be right when it comes again."""
        if not isinstance(message, Batch) or not message.events or self.chance.random() < 0.8:
            return message
        bad = self.chance.choice(message.events)
        events = tuple(event for event in message.events if event is not bad)
        return replace(message, events=events, bad=(bad_event(bad.seq if self.chance.random() < 0.8 else None),))

    def _check(self, done: str) -> None:
        self.done.append(done)
        self.stored = stored(self.location)
        assert self.stored == {device: modelled(state.platform) for device, state in self.states.items()}
        assert all(equal for (equal,) in rows(self.location, COUNTS))
        for streams in self.stored.values():
            contents = [content for stream in streams.values() for content in stream["stored"].values()]
            assert len(contents) == len(set(contents)), "stored twice"


def _device_steps(kind: str, world: World, state: State) -> list[State]:
    """Every way in which a device or its pipe may do such a step."""
    match kind:
        case "record":
            return list(world.record(state))
        case "send":
            return list(world.send(state))
        case "status":
            return list(world.say(state))
        case "ack":
            acks = sorted((message for message in state.pipe if isinstance(message, Ack)), key=repr)
            return [world.deliver(state, ack) for ack in acks]
        case "lose":
            return [state._replace(pipe=state.pipe - {message}) for message in sorted(state.pipe, key=repr)]
    once = state._replace(faults=NO_FAULT._replace(**{kind: 1}), pipe=frozenset())
    return [after._replace(pipe=state.pipe) for after in world.successors(once) if after.faults == NO_FAULT]


def _body(message: Any) -> Any:
    return Match(message.epoch, message.boot, 0, message.event) if isinstance(message, RealtimeCopy) else message


def _purged(stream: Stream, before: int) -> Stream:
    return stream._replace(stored=tuple((seq, content) for seq, content in stream.stored if seq > stream.watermark or content >= before))


def _changed(location: Location) -> set[Any]:
    query = "SELECT c.id, s.device, s.epoch, c.seq, c.timestamp FROM changed AS c JOIN stream AS s ON s.id = c.stream"
    return set(rows(location, query))


Streams: TypeAlias = dict[str, dict[int, dict[str, Any]]]


def check_noted(before: Streams, after: Streams, changed: set[Any]) -> None:
    """New and gone events at or below a watermark are noted, for the sake of column files."""
    noted = {(device, int(epoch[1:]), seq, content) for _, device, epoch, seq, content in changed}
    for device, streams in before.items():
        for number, stream in streams.items():
            differing = stream["stored"].items() ^ after[device][number]["stored"].items()
            expected = {(device, number, seq, content) for seq, content in differing if seq <= stream["watermark"]}
            assert expected <= noted, "not noted as changed"
            assert after[device][number]["watermark"] >= stream["watermark"], "a watermark went back"
    assert all(seq <= after[device][number]["watermark"] for device, number, seq, _ in noted)


def stored(location: Location) -> Streams:
    """The tables as the model has them: by device, and by the number in the epoch's name."""
    found: Streams = {device: {} for device in DEVICES}
    by_id = {}
    query = "SELECT id, device, epoch, watermark, leads, boot, head, head_boot, other_head FROM stream"
    for stream, device, epoch, watermark, leads, boot, *heads in rows(location, query):
        by_id[stream] = found[device][int(epoch[1:])] = {
            "watermark": watermark, "leads": bool(leads), "boot": boot, "heads": (heads[0], heads[1], heads[2]),
            "stored": {}, "gap": set(), "continued": set(), "rejected": set(),
        }  # fmt: skip
    for stream, seq, content in rows(location, "SELECT stream, seq, timestamp FROM event"):
        by_id[stream]["stored"][seq] = content
    for table in ("gap", "continued"):
        for stream, first, last in rows(location, f"SELECT stream, first, last FROM {table}"):
            by_id[stream][table] |= set(range(first, last + 1))
    for stream, seq in rows(location, "SELECT stream, seq FROM rejected"):
        by_id[stream]["rejected"].add(seq)
    return found


def modelled(platform: Platform) -> dict[int, dict[str, Any]]:
    return {
        number: {
            "watermark": stream.watermark, "leads": platform.leader == number, "boot": stream.boot, "heads": tuple(stream.heads),
            "stored": dict(stream.stored), "gap": set(stream.gaps), "continued": set(stream.continued), "rejected": set(stream.rejected),
        }
        for number, stream in platform.streams
    }  # fmt: skip


@pytest.mark.parametrize("seed", SEEDS)
def test_a_walk_through_every_fault_leaves_in_the_store_what_the_rules_say(
    location: Location, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(losses, "ROWS_AT_ONCE", 1)
    monkeypatch.setattr(successions, "_DELETED_AT_ONCE", 1)
    monkeypatch.setattr(writer, "DENSE", 1_000 * (seed % 2))
    with open_store(location) as store:
        walk = Walk(location, store, seed)
        for _ in range(STEPS):
            try:
                walk.step()
            except AssertionError as exc:
                exc.add_note("\n".join(walk.done))
                raise
    with History(location) as history:
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
    again = batch(0, 3, event(1, 7), event(2, 9), event(3, 10), epoch=NEW, boot="00000000000000b2")
    with open_store(location) as store:
        store_batches(store, batch(0, 2, 1, 2))
        store_match(store, 3, 7)
        store_match(store, 4, 8)  # another timeline's: it stays
        store_batches(store, replace(again, origins=(Origin(OLD, 3, 5, diverged=True),)))
        store_match(store, 3, 7)
        store_match(store, 5, 11)
    with History(location) as history:
        assert {row["unaccounted"] for row in history.conservation()} == {0}
    query = "SELECT stream.epoch, event.seq FROM event JOIN stream ON stream.id = event.stream ORDER BY 1, 2"
    assert [tuple(row) for row in rows(location, query)] == [
        *((OLD, seq) for seq in (1, 2, 4, 5)),
        *((NEW, seq) for seq in (1, 2, 3)),
    ]


def test_epochs_that_claim_to_continue_each_other_do_not_stop_the_worker(location: Location) -> None:
    with open_store(location) as store:
        store_batches(store, batch(0, 3, 1, 2, 3))
        for _ in range(2):
            store_batches(store, replace(batch(0, 3, 1, 2, 3, epoch=NEW), origins=(Origin(OLD, 1, 3), Origin(NEW, 1, 3))))
        assert store_batches(store, replace(batch(0, 3, 1, 2, 3), origins=(Origin(NEW, 1, 3),))).cursor == 3
        store_match(store, 1)
    assert rows(location, "SELECT older < newer FROM link") == [(1,)]
    with History(location) as history:
        assert {row["unaccounted"] for row in history.conservation()} == {0}


def test_stores_that_continue_other_seqs_of_an_epoch_each_get_theirs(location: Location) -> None:
    """A card is copied when it has 2 events, and when it has 4, and all go on in other machines."""
    epochs = {NEW: 3, "00000000000000e3": 1, "00000000000000e4": 5}
    with open_store(location) as store:
        store_batches(store, batch(0, 0))
        for epoch, first in epochs.items():
            store_batches(store, replace(batch(0, 0, epoch=epoch, head=2), origins=(Origin(OLD, first, first + 1),)))
        for first in epochs.values():
            store_match(store, first + 1)
    query = "SELECT stream.epoch, event.seq FROM event JOIN stream ON stream.id = event.stream ORDER BY 1"
    assert [tuple(row) for row in rows(location, query)] == [(epoch, 2) for epoch in epochs]


def test_the_counts_stay_right_if_moving_seqs_are_lost_bad_or_early(location: Location) -> None:
    third = "00000000000000e3"
    with open_store(location) as store:
        store_batches(store, batch(0, 5, 1, 4, 5, bad=(bad_event(2),)))  # 3 is a gap
        run(location, "DELETE FROM event WHERE seq = 1")  # as retention does
        store_match(store, 7)
        store_batches(store, replace(batch(0, 1, 1, epoch=NEW), origins=(Origin(OLD, 5, 5, diverged=True),)))  # takes 5 over
        store_batches(store, replace(batch(0, 0, epoch=third, head=8), origins=(Origin(OLD, 1, 8),)))
    columns = "epoch, watermark, stored, gaps, quarantined, continued"
    assert [tuple(row) for row in rows(location, f"SELECT {columns} FROM stream ORDER BY epoch")] == [
        (OLD, 8, 0, 0, 0, 8),
        (NEW, 1, 1, 0, 0, 0),
        (third, 0, 2, 0, 0, 0),
    ]
    assert all(equal for (equal,) in rows(location, COUNTS))


def test_an_event_moves_on_through_an_epoch_that_moved_before(location: Location) -> None:
    """The newest epoch may name no more than its last origins, and batches may be late."""
    third = "00000000000000e3"
    with open_store(location) as store:
        store_match(store, 2)
        store_match(store, 3)
        store_batches(store, replace(batch(0, 0, epoch=third, head=3), origins=(Origin(NEW, 1, 2),)))
        store_batches(store, replace(batch(0, 0, epoch=NEW, head=3), origins=(Origin(OLD, 1, 3),)))
    query = "SELECT stream.epoch, event.seq FROM event JOIN stream ON stream.id = event.stream ORDER BY 1"
    assert [tuple(row) for row in rows(location, query)] == [(NEW, 3), (third, 2)]
    assert all(equal for (equal,) in rows(location, COUNTS))


def test_an_event_that_is_taken_over_continues_if_its_old_copy_is_in_the_same_group(location: Location) -> None:
    again = replace(batch(0, 1, event(1, 7), epoch=NEW), origins=(Origin(OLD, 3, 3, diverged=True),))
    with open_store(location) as store:
        store_batches(store, batch(0, 2, 1, 2))
        store_match(store, 3, 7)
        store_batches(store, again, batch(2, 3, event(3, 7)))
    assert rows(location, "SELECT watermark, stored, continued FROM stream ORDER BY epoch") == [(3, 2, 1), (1, 1, 0)]
    assert all(equal for (equal,) in rows(location, COUNTS))


def test_a_late_batch_of_the_epoch_that_was_left_does_not_lead(location: Location) -> None:
    with open_store(location) as store:
        store_batches(store, batch(0, 1, 1))
        store_batches(store, replace(batch(0, 1, event(1, 7), epoch=NEW), origins=(Origin(OLD, 2, 1),)))
        store_batches(store, batch(0, 2, 1, 2))
    assert rows(location, "SELECT epoch FROM stream WHERE leads") == [(NEW,)]


def test_a_late_batch_of_the_epoch_that_was_left_names_what_is_missing_before_it(location: Location) -> None:
    with open_store(location) as store:
        store_batches(store, batch(0, 2, 1, 2))
        store_batches(store, replace(batch(0, 1, 1, epoch=NEW), origins=(Origin(OLD, 3, 2),)))
        store_batches(store, batch(4, 6, 5, 6))
    with History(location) as history:
        assert [(gap["first"], gap["last"], gap["reason"]) for gap in history.gaps()] == [(3, 4, "ended")]
        assert [(row["watermark"], row["unaccounted"]) for row in history.conservation()] == [(6, 0), (1, 0)]


def test_a_match_counts_although_its_event_is_stored_or_has_moved(location: Location) -> None:
    match = Message("d", Match(OLD, BOOT, 1, event(1)), 1)
    with open_store(location) as store:
        assert store.store([match]) == store.store([match]) == [True]
        store_batches(store, replace(batch(0, 0, epoch=NEW, head=1), origins=(Origin(OLD, 1, 1),)))
        assert store.store([match]) == [True]


def test_a_late_batch_may_have_seqs_that_moved_and_seqs_that_conflict(location: Location) -> None:
    with open_store(location) as store:
        store_batches(store, batch(0, 3, 1, 2, 3))
        store_batches(store, replace(batch(0, 1, 3, epoch=NEW), origins=(Origin(OLD, 3, 3),)))
        assert store_batches(store, batch(0, 3, event(1, 9), 2, 3)).conflict == 1
    assert all(equal for (equal,) in rows(location, COUNTS))


def test_origins_may_come_after_the_epoch_has_been_heard_without_them(location: Location) -> None:
    with open_store(location) as store:
        store_match(store, 1)
        store_batches(store, batch(0, 0, epoch=NEW, head=1))
        store_batches(store, replace(batch(0, 1, 1, epoch=NEW), origins=(Origin(OLD, 1, 1),)))
    query = "SELECT stream.epoch, event.seq FROM event JOIN stream ON stream.id = event.stream"
    assert [tuple(row) for row in rows(location, query)] == [(NEW, 1)]
    assert all(equal for (equal,) in rows(location, COUNTS))


def test_copies_under_both_names_become_one_and_other_devices_keep_theirs(location: Location, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(successions, "_DELETED_AT_ONCE", 1)
    copies = [Message("d", Match(epoch, BOOT, 1, event(seq)), 1) for epoch in (OLD, NEW) for seq in (1, 2)]
    with open_store(location) as store:
        store_batches(store, batch(0, 2, 1, 2), device="other")
        store.store(copies)
        store_batches(store, replace(batch(0, 0, epoch=NEW, head=2), origins=(Origin(OLD, 1, 2),)))
    query = "SELECT device, epoch, seq FROM event JOIN stream ON stream.id = event.stream ORDER BY 1, 3"
    assert [tuple(row) for row in rows(location, query)] == [(*name, seq) for name in (("d", NEW), ("other", OLD)) for seq in (1, 2)]
    assert all(equal for (equal,) in rows(location, COUNTS))


def test_seqs_that_continue_are_ranges_of_their_own_stream(location: Location) -> None:
    same, other = (1, 2, 4, 6), ("other", "d")
    again = [event(seq) if seq in same else event(seq, 9) for seq in range(1, 7)]
    with open_store(location) as store:
        for device, last in zip(other, (1, 6), strict=True):
            store_batches(store, batch(0, last, *range(1, last + 1)), device=device)
            forked = batch(0, last, *again[:last], epoch=NEW)
            store_batches(store, replace(forked, origins=(Origin(OLD, 1, last, diverged=True),)), device=device)
        query = "SELECT device, first, last FROM continued JOIN stream ON stream.id = continued.stream ORDER BY 1, 2"
        assert [tuple(row) for row in rows(location, query)] == [("d", 1, 2), ("d", 4, 4), ("d", 6, 6), ("other", 1, 1)]
        run(location, "DELETE FROM event WHERE seq = 4")  # as retention does
        store_match(store, 4)
    assert [tuple(row) for row in rows(location, query)] == [("d", 1, 2), ("d", 6, 6), ("other", 1, 1)]
    assert all(equal for (equal,) in rows(location, COUNTS))
