"""SIGKILL to broker, platform, agent and recorder at random moments; afterwards recorded = stored.

The moments are random, the verdict is not. Whatever the order of deaths, every event that a device
recorded is on the platform exactly once, and there is no gap. So are all the events that
`facewire device record` confirmed.

    FACEWIRE_CHAOS_ROUNDS   how many kills (30)
    FACEWIRE_CHAOS_SEED     to repeat the same choices; printed at the start
"""

import json
import os
import random
import secrets
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import IO, Any

import pytest
from broker_engines import free_port

from facewire import codec
from facewire_device.store import open_store
from facewire_platform.columns.filter import Filter
from facewire_platform.history.queries import History

FACEWIRE = [sys.executable, "-P", "-m", "facewire_cli"]
DRAIN_WITHIN = 150.0

pytestmark = [pytest.mark.network, pytest.mark.process]


class Household:
    """The processes, each started again after its death."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self.folder = folder
        self.stack = stack
        self.port = free_port()
        self.database = folder / "platform.db"
        self.store = folder / "device.db"
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
        self.running: dict[str, subprocess.Popen[bytes]] = {}
        #: Events that the recorders confirmed.
        self.confirmed: set[tuple[str, int]] = set()
        for name in self.commands:
            self.start(name)

    def start(self, name: str) -> None:
        pipe = subprocess.PIPE if name == "recorder" else subprocess.DEVNULL
        with (self.folder / f"{name}.log").open("ab") as log:
            process = subprocess.Popen([*FACEWIRE, *self.commands[name]], stdin=pipe, stdout=pipe, stderr=log)
        self.running[name] = process
        if process.stdout is not None:
            reader = threading.Thread(target=self.read_confirmations, args=(process.stdout,))
            reader.start()
            self.stack.callback(reader.join)
            self.reader = reader
        self.stack.callback(end, process)

    def read_confirmations(self, lines: IO[bytes]) -> None:
        with lines:
            for line in lines:
                if line.endswith(b"}\n"):  # a killed recorder may be cut off in the middle of a line
                    row = json.loads(line)
                    self.confirmed.add((row["epoch"], row["seq"]))

    def record(self, event: dict[str, Any]) -> None:
        pipe = self.running["recorder"].stdin
        assert pipe is not None
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

    def drain(self) -> None:
        """Without further kills, everything is acked within the deadline."""
        recorder = self.running["recorder"]
        assert recorder.stdin is not None
        recorder.stdin.close()
        recorder.wait(30)
        self.reader.join(30)
        self.running["agent"].kill()
        end(self.running["agent"])
        done = subprocess.run(
            [*FACEWIRE, *self.commands["agent"], "--exit-when-acked"], capture_output=True, timeout=DRAIN_WITHIN, check=False
        )
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


@pytest.mark.timeout(0)
def test_every_recorded_event_is_stored_exactly_once_whichever_process_is_killed(
    household: Household, capsys: pytest.CaptureFixture[str]
) -> None:
    rounds = int(os.environ.get("FACEWIRE_CHAOS_ROUNDS") or 30)
    seed = int(os.environ.get("FACEWIRE_CHAOS_SEED") or secrets.randbits(32))
    with capsys.disabled():
        print(f" [seed {seed}, {rounds} rounds]", end="", flush=True)
    chance = random.Random(seed)
    sent = 0
    for _ in range(rounds):
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
        household.kill(chance.choice(list(household.commands)))
        household.restart_dead()
    household.restart_dead()
    household.drain()
    check(household)


def check(household: Household) -> None:
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
    assert {(epoch, seq) for epoch, seq, _ in recorded} >= household.confirmed
    assert len({identity for _, _, identity in recorded}) == len(recorded)
