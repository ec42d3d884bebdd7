"""A platform is restored from a backup an hour old, and the devices resend that hour (R1 and R3).

Real workers, a real broker, and real agents with a period of a second. The commands are those of
docs/operating.md.
"""

import threading
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Final

import pytest
from device_events import events
from facewire_process import Running, ask
from shown_commands import operating_commands, typed

from facewire.messages import decode_ack
from facewire.topics import Topics
from facewire_broker import embedded
from facewire_device import Agent, Recorder, Settings, uploader
from facewire_mqtt import Connected, Connection, Happening, Received
from facewire_mqtt.address import Address

pytestmark = [pytest.mark.network, pytest.mark.process]

PERIOD: Final = 1.0
SQLITE_BACKUP, SQLITE_RESTORE, PG_DUMP, PG_RESTORE = operating_commands("Backup").splitlines()


class Box:
    """A device: its agent and its recorder."""

    def __init__(self, name: str, folder: Path, broker: Address, stack: ExitStack, capacity: int = 1_000) -> None:
        self.name, self.head = name, 0
        self.agent = stack.enter_context(Agent(Settings(name, folder / f"{name}.db", broker, period=PERIOD, capacity=capacity)))
        self.recorder = stack.enter_context(Recorder(self.agent.open_store, self.agent.wake))

    def record(self, count: int) -> None:
        self.recorder.record_all(events(self.head + 1, self.head + count))
        self.head += count


class Acks:
    """The cursors acked to each device; a repeat, after a resent batch, counts once."""

    def __init__(self, broker: Address, stack: ExitStack) -> None:
        self.cursors: defaultdict[str, list[int]] = defaultdict(list)
        self._changed, self._up = threading.Condition(), False
        connection = Connection(broker, "acks", [(Topics().all("ack"), 1)], self._on_happening)
        connection.start()
        stack.callback(connection.close)
        self.wait(lambda: self._up)

    def wait(self, condition: Callable[[], bool]) -> None:
        with self._changed:
            assert self._changed.wait_for(condition, 30.0), self.cursors

    def _on_happening(self, happening: Happening) -> None:
        with self._changed:
            if isinstance(happening, Connected):
                self._up = True
            elif isinstance(happening, Received):
                cursors, cursor = self.cursors[happening.topic.split("/")[2]], decode_ack(happening.payload).cursor
                cursors += [cursor] if cursors[-1:] != [cursor] else []
            self._changed.notify()


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uploader, "MIN_PERIOD", PERIOD)
    monkeypatch.setattr(uploader, "AFTER_CONNECT", 0.1)
    monkeypatch.setattr(uploader, "ACK_TIMEOUT", 1.0)
    monkeypatch.setattr(uploader, "BACKOFF", (0.2, 0.5))


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as opened:
        yield opened


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgresql)])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'platform.db'}"
    url: str = request.getfixturevalue("postgresql")
    return url


def stored(database: str) -> dict[str, set[int]]:
    found: dict[str, set[int]] = {}
    for row in ask("events", "--database", database):
        assert row["seq"] not in found.setdefault(row["device"], set()), "stored twice"
        found[row["device"]].add(row["seq"])
    return found


def gaps(database: str) -> list[tuple[str, int, int]]:
    return [(row["device"], row["first"], row["last"]) for row in ask("gaps", "--database", database)]


def test_after_a_restore_the_devices_send_again_what_they_still_hold(database: str, tmp_path: Path, stack: ExitStack) -> None:
    backup, restore = (SQLITE_BACKUP, SQLITE_RESTORE) if database.startswith("sqlite") else (PG_DUMP, PG_RESTORE)
    broker = stack.enter_context(embedded.running())
    worker = ["platform", "run", "-p", str(broker.port), "--database", database]
    busy, silent = Box("busy", tmp_path, broker, stack), Box("silent", tmp_path, broker, stack)
    small = Box("small", tmp_path, broker, stack, capacity=50)
    boxes = (busy, silent, small)

    with Running(*worker) as platform:
        platform.wait_for("connected")
        for box in boxes:
            box.record(30)
            box.agent.wait_acked()
        typed(backup, tmp_path, DATABASE=database)
        # An hour passes. All its events are acked, so the devices have nothing to send.
        for box, count in ((busy, 60), (silent, 20), (small, 40), (small, 40)):
            box.record(count)
            box.agent.wait_acked()
        assert stored(database) == {box.name: set(range(1, box.head + 1)) for box in boxes}
        assert platform.end() == 0

    typed(restore, tmp_path, DATABASE=database)
    assert stored(database) == {box.name: set(range(1, 31)) for box in boxes}
    busy.record(5)
    acks = Acks(broker, stack)
    with Running(*worker) as platform:
        acks.wait(lambda: all(acks.cursors[box.name][-1:] == [box.head] for box in boxes))
        # The first ack, of a batch or a probe, takes the cursor back; the second acks the resend.
        assert acks.cursors == {box.name: [30, box.head] for box in boxes}
        held = {"busy": set(range(1, 96)), "silent": set(range(1, 51)), "small": {*range(1, 31), *range(61, 111)}}
        assert stored(database) == held
        assert gaps(database) == [("small", 31, 60)]
        assert platform.end() == 0
