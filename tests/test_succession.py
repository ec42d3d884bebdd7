"""Cards that move, stores that are replaced: each comparison is stored once, or named as lost.

A real worker, a real broker, real agents.
"""

from collections.abc import Iterator, Set
from contextlib import ExitStack
from pathlib import Path

import pytest
from device_events import events
from facewire_process import Running, ask
from waiting import wait_until

from facewire_broker import embedded
from facewire_device import Agent, Recorder, Settings, uploader
from facewire_mqtt import Address

pytestmark = [pytest.mark.network, pytest.mark.process]

RARELY, OFTEN = 600.0, 0.2
FIRST_BOX, SECOND_BOX = "a" * 16, "b" * 16


class Site:
    """A broker, a worker, and the card of one box."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self.card, self.database = folder / "card.db", f"sqlite:///{folder / 'platform.db'}"
        self._broker: Address = stack.enter_context(embedded.running())
        worker = stack.enter_context(Running("platform", "run", "-p", str(self._broker.port), "--database", self.database))
        worker.wait_for("connected")

    def run(self, machine: str, period: float, *, record: int = 0, matches: Set[int] | None = None) -> None:
        """Run the box until all is acked; if it rarely sends history, until its matches arrived."""
        settings = Settings("lobby", self.card, self._broker, threshold=0.5, period=period, catch_up=9, machine=machine)
        with Agent(settings) as agent, Recorder(agent.open_store, agent.wake) as recorder:
            assert agent.wait_connected(10.0)
            if period == OFTEN:
                agent.wait_acked()
                return
            agent.wait_acked()  # of the probe: from now on it sends no history
            matches = set(range(1, record + 1)) if matches is None else matches
            recorder.record_all([event._replace(score=0.9 if seq in matches else 0.1) for seq, event in enumerate(events(1, record), 1)])
            wait_until(lambda: len(self.events()) == len(matches))

    def events(self) -> list[int]:
        return [row["timestamp"] for row in ask("events", "--database", self.database)]


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    monkeypatch.setattr(uploader, "MIN_PERIOD", OFTEN)
    monkeypatch.setattr(uploader, "AFTER_CONNECT", 0.1)
    with ExitStack() as stack:
        yield Site(tmp_path, stack)


def test_the_events_of_a_card_that_moved_are_stored_once(site: Site) -> None:
    site.run(FIRST_BOX, RARELY, record=150)
    site.run(SECOND_BOX, OFTEN)
    assert len(site.events()) == len(set(site.events())) == 150
    assert ask("gaps", "--database", site.database) == []
    assert {row["epoch"] for row in ask("events", "--database", site.database)} == {
        row["epoch"] for row in ask("status", "--database", site.database, "--all-epochs") if row["current"]
    }


def test_a_store_that_was_replaced_is_named_as_far_as_the_platform_heard_of_it(site: Site) -> None:
    site.run(FIRST_BOX, RARELY, record=20, matches={5, 10, 20})
    for file in site.card.parent.glob("card.db*"):
        file.unlink()
    site.run(FIRST_BOX, OFTEN)
    assert len(site.events()) == 3
    assert [(gap["first"], gap["last"]) for gap in ask("gaps", "--database", site.database)] == [(1, 4), (6, 9), (11, 19)]
