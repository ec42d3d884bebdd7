"""Each answer is that of a plain scan, whatever happens to a history and to its column files."""

import datetime as dt
import itertools
import os
import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import history_scan
import pytest
from pipeline import Faults, RealtimeCopy, World

import facewire_platform.columns.builder as building
import facewire_platform.columns.files as writing
from facewire.events import Event
from facewire.messages import Batch, Match
from facewire_platform.columns import engine, folder
from facewire_platform.columns.builder import Builder
from facewire_platform.columns.files import Files
from facewire_platform.filter import Filter
from facewire_platform.history import periods, reports
from facewire_platform.history.periods import Period
from facewire_platform.history.queries import History
from facewire_platform.history.retention import Retention
from facewire_platform.store.drivers import Location
from facewire_platform.store.writer import Message, Store, open_store

STEPS = int(os.environ.get("FACEWIRE_WALK_STEPS", "25"))
SEEDS = range(int(os.environ.get("FACEWIRE_WALK_SEEDS", "3")))
SUCCESSION_STEPS = 80
FAULTS = Faults(records=12, reboots=3, snapshots=0, platform_restores=0, images=2, device_restores=2, resets=1, moves=3)
HOUR, DAY = 3_600_000, 86_400_000
BEGIN = 1_743_206_400_000  # 2025-03-29: clocks change on the 30th in Berlin, on 6 April in Lord Howe
ZONES = ("UTC", "Asia/Kathmandu", "Australia/Lord_Howe", "Europe/Berlin", "America/St_Johns")
PEOPLE = ("1", "2", "Ann", "nul\x00", "\x01", "", "Bö", "666666", "é")
NAMES = ("", "Ann", "1", "小明", "\x00", "Bo")
GROUPS, ENDS = (None, "default", "g\x00"), (None, "in", "out")


class Killed(BaseException):
    """The builder's process died."""


class Device:
    """A device: its events, some of which it may never send."""

    def __init__(self, name: str, chance: random.Random) -> None:
        self.name, self.chance = name, chance
        self.fork()

    def fork(self) -> None:
        self.epoch, self.boot = f"{self.chance.randrange(16**16):016x}", f"{self.chance.randrange(16**16):016x}"
        self.seq = self.cursor = 0
        self.at = BEGIN + self.chance.randrange(6 * DAY)
        self.unsent: list[Event] = []

    def record(self, count: int) -> list[Event]:
        return [self._event() for _ in range(count)]

    def _event(self) -> Event:
        self.seq += 1
        self.at += self.chance.choice((1, 60_000, HOUR, 3 * HOUR))
        odd = self.chance.random() < 0.01
        at = self.chance.choice((0, -1, 2**63 - 1, -(2**63) + 1, 253_402_300_800_000)) if odd else self.at
        kind = self.chance.choice((1, 1, 1, 2, 3, 4, 4, 5, -7))
        person, name = self.chance.choice(PEOPLE), self.chance.choice(NAMES)
        score = self.chance.choice((0.0, 0.25, 0.5, -1.0, 99.5, self.chance.random()))
        group, end = self.chance.choice(GROUPS), self.chance.choice(ENDS)
        return Event(self.seq, at, score, person, name, kind, group, end, {"n": self.seq} if odd else {})


class Walk:
    """A history to which things happen at random."""

    def __init__(self, location: Location, seed: int) -> None:
        self.location, self.chance = location, random.Random(seed)
        self.devices = [Device(f"d{number}", self.chance) for number in range(4)]
        self.happenings: list[Callable[[Store], None]] = [
            self.send, self.send, self.send, self.lose, self.close_gap, self.hole, self.repeat, self.fork,
            self.build, self.build, self.killed_build, self.purge_old, self.purge_person, self.drop, self.lose_a_file,
        ]  # fmt: skip

    def step(self, store: Store) -> str:
        happening = self.chance.choice(self.happenings)
        happening(store)
        return happening.__name__

    def _device(self) -> Device:
        return self.chance.choice(self.devices)

    def _put(self, store: Store, device: Device, events: list[Event], after: int, cursor: int) -> None:
        batch = Batch(device.epoch, device.boot, after, cursor, max(device.seq, cursor), 1, tuple(events))
        store.store([Message(device.name, batch, 1)])

    def send(self, store: Store) -> None:
        device = self._device()
        events = device.record(self.chance.randrange(1, 60))
        self._put(store, device, events, device.cursor, device.seq)
        device.cursor = device.seq

    def lose(self, store: Store) -> None:
        device = self._device()
        device.unsent += device.record(self.chance.randrange(1, 9))
        self.send(store) if self.chance.random() < 0.5 else self._put(store, device, [], device.cursor, device.seq)
        device.cursor = device.seq

    def close_gap(self, store: Store) -> None:
        device = self._device()
        while device.unsent and self.chance.random() < 0.8:
            event = device.unsent.pop()
            store.store([Message(device.name, Match(device.epoch, device.boot, 1, event), 1)])

    def hole(self, store: Store) -> None:
        """A match, or a batch, above the watermark; the next batch closes the hole."""
        device = self._device()
        skipped, [event] = device.record(3), device.record(1)
        device.unsent += skipped
        store.store([Message(device.name, Match(device.epoch, device.boot, 1, event), 1)])
        self._put(store, device, device.record(2), device.seq - 2, device.seq)

    def repeat(self, store: Store) -> None:
        """A restored device resends its events, even purged ones, and others under their seqs."""
        device = self._device()
        seqs = [seq for seq in range(1, device.cursor + 1) if self.chance.random() < 0.2]
        stored = {e.seq for e in history_scan.scan(self.location) if (e.device, e.epoch) == (device.name, device.epoch)}
        again = [device._event()._replace(seq=seq) for seq in seqs if seq not in stored]
        device.seq -= len(again)
        for event in again:
            store.store([Message(device.name, Match(device.epoch, device.boot, 1, event), 1)])

    def fork(self, store: Store) -> None:
        self._device().fork()

    def build(self, store: Store) -> None:
        with Builder(self.location) as builder:
            for _ in itertools.islice(builder.build(), self.chance.choice((1, 2, 100))):
                if self.chance.random() < 0.3:
                    self.send(store)

    def killed_build(self, store: Store) -> None:
        """The process dies at any access to the disk or the database; meanwhile workers go on."""
        left = self.chance.randrange(12)

        def dies(function: Callable[..., Any]) -> Callable[..., Any]:
            def call(*args: Any, **given: Any) -> Any:
                nonlocal left
                left -= 1
                if left < 0:
                    raise Killed
                if self.chance.random() < 0.2:
                    self.close_gap(store)
                return function(*args, **given)

            return call

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(writing, "sync", dies(folder.sync))
            patch.setattr(Builder, "_commit", dies(Builder._commit))
            patch.setattr(Files, "remove", dies(Files.remove))
            patch.setattr(engine, "write", dies(engine.write))
            try:
                with Builder(self.location) as builder:
                    list(builder.build())
            except Killed:
                pass

    def purge_old(self, store: Store) -> None:
        self._purge(lambda retention: retention.older_than(BEGIN + self.chance.randrange(9 * DAY) - 3 * DAY))

    def purge_person(self, store: Store) -> None:
        self._purge(lambda retention: retention.person(self.chance.choice([who for who in PEOPLE if who])))

    def _purge(self, which: Callable[[Retention], Iterator[Any]]) -> None:
        with Retention(self.location, rest=lambda _: None) as retention:
            for _ in which(retention):
                check(self.location, self.chance, 1)
                if self.chance.random() < 0.1:
                    break  # interrupted

    def drop(self, store: Store) -> None:
        if self.chance.random() < 0.3:
            with Builder(self.location) as builder:
                builder.drop()

    def lose_a_file(self, store: Store) -> None:
        if files := sorted(folder_of(self.location).glob("events/*/*.parquet")):
            self.chance.choice(files).unlink()


def folder_of(location: Location) -> Path:
    if isinstance(location, Path):
        return location.with_name(location.name + "-columns")
    return next(iter((Path(os.environ["XDG_DATA_HOME"]) / "facewire").glob("*")), Path("/nowhere"))


def check(location: Location, chance: random.Random, times: int) -> None:
    """Ask questions at random, and a scan."""
    events = history_scan.scan(location)
    with History(location) as history:
        for _ in range(times):
            wanted = question(chance)
            check_events(history, events, wanted, chance)
            zone = ZoneInfo(chance.choice(ZONES))
            first = dt.date(2025, 3, 28) + dt.timedelta(chance.randrange(10))
            days = [periods.day(first + dt.timedelta(more), zone) for more in range(chance.choice((1, 2, 7)))]
            check_attendance(history, events, wanted, days)
            check_counts(history, events, wanted, days if chance.random() < 0.5 else list(periods.hours(days[0], zone)))


def question(chance: random.Random) -> Filter:
    def maybe(choices: tuple[Any, ...]) -> Any:
        return chance.choice(choices) if chance.random() < 0.3 else None

    return Filter(
        since=maybe((BEGIN, BEGIN + DAY + 1, 0, -5)),
        until=maybe((BEGIN + 2 * DAY, BEGIN + 5 * DAY - 1, 2**62)),
        device=maybe(("d0", "d1", "nobody")),
        person=maybe((*PEOPLE, *NAMES)),
        person_type=maybe((1, 3, 4, 6, -7)),
        group=maybe(("default", "g\x00", "none")),
        min_score=maybe((0.3, 99.0, 1000.0)),
    )


def check_events(history: History, events: list[history_scan.Seen], wanted: Filter, chance: random.Random) -> None:
    expected = history_scan.matching(events, wanted)
    newest_first, limit = chance.random() < 0.5, chance.choice((None, 1, 5, 50))
    found = list(history.events(wanted, newest_first=newest_first, limit=limit))
    expected = (expected[::-1] if newest_first else expected)[:limit]
    assert [(e["timestamp"], e["device"], e["epoch"], e["seq"]) for e in found] == [
        (e.timestamp, e.device, e.epoch, e.seq) for e in expected
    ]
    assert [e["identity_id"] for e in found] == [e.identity_id for e in expected]


def check_attendance(history: History, events: list[history_scan.Seen], wanted: Filter, days: list[Period]) -> None:
    found = list(reports.attendance_of_days(history, wanted, days, entrances=["in"], exits=["out"]))
    expected = [
        (day, *row)
        for day in days
        for row in history_scan.attendance(
            history_scan.matching(events, replace(wanted, since=day.since, until=day.until)), ["in"], ["out"]
        )
    ]
    assert [(day, *row.values()) for day, row in found] == expected


def check_counts(history: History, events: list[history_scan.Seen], wanted: Filter, spans: list[Period]) -> None:
    found = list(reports.traffic(history, wanted, spans))
    within = [history_scan.matching(events, replace(wanted, since=span.since, until=span.until)) for span in spans]
    expected = [{"since": span.since, "until": span.until, **history_scan.counts(some)} for span, some in zip(spans, within, strict=True)]
    assert found == expected


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """So that few events take many steps and files."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.setattr(building, "CHUNK", 60)
    monkeypatch.setattr("facewire_platform.columns.parts.SHARE", 25)
    monkeypatch.setattr(building, "MANY", 3)
    monkeypatch.setattr(writing, "MOST_DAYS", 5)
    monkeypatch.setattr(building, "REST", 0)


@pytest.mark.parametrize("seed", SEEDS)
def test_each_answer_is_that_of_a_scan(location: Location, seed: int) -> None:
    walk = Walk(location, seed)
    steps: list[str] = []
    with open_store(location) as store:
        for _ in range(STEPS):
            steps.append(walk.step(store))
            try:
                check(location, walk.chance, 2)
            except AssertionError as exc:
                exc.add_note(f"after {steps}")
                raise


@pytest.mark.parametrize("seed", SEEDS)
def test_epochs_that_end_and_continue_are_answered_as_the_table_has_them(location: Location, seed: int) -> None:
    """Events move to other streams (see `test_platform_successions`)."""
    chance, world = random.Random(seed), World(pipe_size=4)
    state = world.start(FAULTS)
    with open_store(location) as store:
        for _ in range(SUCCESSION_STEPS):
            inbound = sorted((message for message in state.pipe if isinstance(message, Batch | RealtimeCopy)), key=repr)
            if inbound and chance.random() < 0.5:
                message = chance.choice(inbound)
                state = world.deliver(state, message)
                body = message if isinstance(message, Batch) else Match(message.epoch, message.boot, 0, message.event)
                store.store([Message("d", body, 1)])
                if chance.random() < 0.3:
                    with Builder(location) as builder:
                        list(itertools.islice(builder.build(), chance.choice((1, 2, 100))))
                events = history_scan.scan(location)
                with History(location) as history:
                    check_events(history, events, Filter(person_type=1), chance)
                    check_counts(history, events, Filter(), [Period(0, 2**62)])
            else:
                state = chance.choice([after for after in world.successors(state) if after.platform == state.platform])
