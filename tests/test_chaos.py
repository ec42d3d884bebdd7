"""SIGKILL to broker, platform, agent and recorder at random moments; afterwards recorded = stored.

The moments are random, the verdict is not. Whatever the order of deaths, every event that a device
recorded is on the platform exactly once, and there is no gap. So are all the events that
`facewire device record` confirmed.

A second test also moves the store to another machine, restores it from a copy, and replaces it by a
new one. Then each event is on the platform at most once. One that is not there was only in a store
that was taken away, and the counts of each epoch add up.

    FACEWIRE_CHAOS_ROUNDS   how many kills (30)
    FACEWIRE_CHAOS_SEED     to repeat the same choices; printed at the start
"""

import json
import os
import random
import secrets
import shutil
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO, Any

import pytest
from broker_engines import free_port

from facewire import codec
from facewire_device.store import open_store
from facewire_platform.filter import Filter
from facewire_platform.history.queries import History

FACEWIRE = [sys.executable, "-P", "-m", "facewire_cli"]
#: What runs on the box: both open its store.
BOX = ("agent", "recorder")
DRAIN_WITHIN = 150.0
ROUNDS = int(os.environ.get("FACEWIRE_CHAOS_ROUNDS") or 30)

pytestmark = [pytest.mark.network, pytest.mark.process]


class Household:
    """The processes, each started again after its death."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self.folder = folder
        self.stack = stack
        self.port = free_port()
        self.database = folder / "platform.db"
        self.store = folder / "device.db"
        self.copies = folder / "copies"
        self.copies.mkdir()
        agent = [
            "device",
            "run",
            "--id",
            "chaos",
            "--store",
            str(self.store),
            "-p",
            str(self.port),
            "--threshold",
            "0.5",
            "--catch-up",
            "100",
            # The ring must still hold all events at the end, however many rounds there are.
            "--capacity",
            "10000000",
        ]
        self.commands = {
            "broker": ["broker", "run", "--listen", f"127.0.0.1:{self.port}"],
            "platform": ["platform", "run", "-p", str(self.port), "--database", f"sqlite:///{self.database}"],
            "agent": agent,
            "recorder": ["device", "record", "--store", str(self.store), "-o", "json"],
        }
        self.machine = "0" * 16
        self.running: dict[str, subprocess.Popen[bytes]] = {}
        #: Events that the store held before it was restored or replaced, and not afterwards.
        self.taken_away: set[str] = set()
        #: What befell the store, for the message of a failure.
        self.done: list[str] = []
        #: Events that the recorders confirmed.
        self.confirmed: set[tuple[str, int, str]] = set()
        for name in self.commands:
            self.start(name)

    def start(self, name: str) -> None:
        pipe = subprocess.PIPE if name == "recorder" else subprocess.DEVNULL
        with (self.folder / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(self.command(name), stdin=pipe, stdout=pipe, stderr=log)
        self.running[name] = process
        if process.stdout is not None:
            self.given: list[str] = []
            reader = threading.Thread(target=self.read_confirmations, args=(process.stdout, self.given))
            reader.start()
            self.stack.callback(reader.join)
            self.reader = reader
        self.stack.callback(end, process)

    def command(self, name: str) -> list[str]:
        machine = ["--machine", self.machine] if name in BOX else []
        return [*FACEWIRE, *self.commands[name], *machine]

    def read_confirmations(self, lines: IO[bytes], given: list[str]) -> None:
        """A recorder confirms the events in the order in which it got them."""
        with lines:
            for place, line in enumerate(lines):
                if line.endswith(b"}\n"):  # a killed recorder may be cut off in the middle of a line
                    row = json.loads(line)
                    self.confirmed.add((row["epoch"], row["seq"], given[place]))

    def record(self, event: dict[str, Any]) -> None:
        pipe = self.running["recorder"].stdin
        assert pipe is not None
        self.given.append(event["identity_id"])
        try:
            pipe.write(json.dumps(event).encode() + b"\n")
            pipe.flush()
        except BrokenPipeError:
            self.restart("recorder")

    def kill(self, name: str) -> None:
        self.running[name].kill()
        self.restart(name)

    def restart(self, name: str) -> None:
        end(self.running[name])
        self.start(name)

    def restart_dead(self) -> None:
        """Restart processes that ended by themselves: a broker does if its port is not free yet."""
        for name, process in list(self.running.items()):
            if process.poll() is not None:
                self.start(name)

    @contextmanager
    def box_off(self) -> Iterator[None]:
        """Nothing of the box runs within."""
        for name in BOX:
            end(self.running[name])
        self.reader.join()
        yield
        for name in BOX:
            self.start(name)

    def move(self) -> None:
        """The card goes into another box."""
        with self.box_off():
            self.machine = secrets.token_hex(8)

    def copy(self) -> None:
        """A backup of the card."""
        with self.box_off():
            for file in self.store_files(self.copies):
                file.unlink()
            for file in self.store_files(self.folder):
                shutil.copy(file, self.copies)

    def restore(self) -> None:
        """The card gets the content of its last backup; without one it is replaced."""
        with self.box_off():
            before = self.identities(self.store)
            for file in self.store_files(self.folder):
                file.unlink()
            for file in self.store_files(self.copies):
                shutil.copy(file, self.folder)
            self.taken_away |= before - self.identities(self.store)

    def replace(self) -> None:
        """The card is lost, and the box begins with an empty one."""
        with self.box_off():
            self.taken_away |= self.identities(self.store)
            for file in self.store_files(self.folder):
                file.unlink()

    def store_files(self, folder: Path) -> list[Path]:
        return [path for path in map(folder.joinpath, ("device.db", "device.db-wal", "device.db-shm")) if path.exists()]

    def identities(self, path: Path) -> set[str]:
        with open_store(path) as store:
            return {codec.unpack(event)["identity_id"] for _, event in store.events_above(0, float("-inf"))}

    def drain(self) -> None:
        """Without further kills, everything is acked within the deadline."""
        recorder = self.running["recorder"]
        assert recorder.stdin is not None
        recorder.stdin.close()
        recorder.wait(30)
        self.reader.join(30)
        self.running["agent"].kill()
        end(self.running["agent"])
        done = subprocess.run([*self.command("agent"), "--exit-when-acked"], capture_output=True, timeout=DRAIN_WITHIN, check=False)
        assert done.returncode == 0, done.stderr.decode()


def end(process: "subprocess.Popen[bytes]") -> None:
    process.kill()
    process.wait()
    if process.stdin is not None:
        with suppress(BrokenPipeError):
            process.stdin.close()


@pytest.fixture
def household(tmp_path: Path) -> Iterator[Household]:
    with ExitStack() as stack:
        yield Household(tmp_path, stack)


@pytest.fixture
def chance(capsys: pytest.CaptureFixture[str]) -> random.Random:
    seed = int(os.environ.get("FACEWIRE_CHAOS_SEED") or secrets.randbits(32))
    with capsys.disabled():
        print(f" [seed {seed}, {ROUNDS} rounds]", end="", flush=True)
    return random.Random(seed)


@pytest.mark.timeout(0)
def test_every_recorded_event_is_stored_exactly_once_whichever_process_is_killed(household: Household, chance: random.Random) -> None:
    live(household, chance, stores=False)
    with open_store(household.store, create=False) as store:
        ring = store.ring()
        packed = list(store.events_above(0, float("-inf")))
    recorded = {(ring.epoch, fields["seq"], fields["identity_id"]) for fields in (codec.unpack(event) for _, event in packed)}
    with History(household.database) as history:
        rows = [(row["epoch"], row["seq"], row["identity_id"]) for row in history.events(Filter())]
        gaps = list(history.gaps())
        (status,) = history.devices()
    assert len(recorded) == ring.head > 0
    assert sorted(rows) == sorted(recorded)
    assert gaps == []
    assert status["watermark"] == status["head"] == ring.cursor == ring.head
    assert recorded >= household.confirmed
    assert len({identity for _, _, identity in recorded}) == len(recorded)


@pytest.mark.timeout(0)
def test_an_event_is_stored_once_or_was_taken_away_if_stores_are_moved_restored_and_replaced(
    household: Household, chance: random.Random
) -> None:
    live(household, chance, stores=True)
    here = household.identities(household.store)
    with History(household.database) as history:
        stored = Counter(row["identity_id"] for row in history.events(Filter()))
        unaccounted = [epoch for epoch in history.conservation() if epoch["unaccounted"]]
        open_ended = [epoch for epoch in history.devices(all_epochs=True) if epoch["watermark"] != epoch["head"]]
    assert [identity for identity, times in stored.items() if times > 1] == [], household.done
    assert here - stored.keys() == set(), household.done
    assert {identity for _, _, identity in household.confirmed} - stored.keys() - household.taken_away == set(), household.done
    assert unaccounted == open_ended == [], household.done


def live(household: Household, chance: random.Random, *, stores: bool) -> None:
    """Record and kill, in `ROUNDS` rounds; then everything is acked."""
    sent = 0
    for _ in range(ROUNDS):
        until = time.monotonic() + chance.uniform(0.05, 1.2)
        while time.monotonic() < until:
            for _ in range(chance.randrange(1, 20)):
                sent += 1
                fields = {
                    "timestamp": 1_764_000_000_000 + sent,
                    "score": chance.random(),
                    "identity_id": f"p{sent}",
                    "identity_name": "",
                    "person_type": 1,
                }
                household.record(fields)
            time.sleep(chance.uniform(0.001, 0.05))
        if stores and chance.random() < 0.3:
            fault = chance.choice([household.move, household.copy, household.restore, household.replace])
            fault()
            household.done.append(f"after {sent} events: {fault.__name__}")
        household.kill(chance.choice(list(household.commands)))
        household.restart_dead()
    household.restart_dead()
    household.drain()
