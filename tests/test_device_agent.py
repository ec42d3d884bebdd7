"""The agent on a real loopback broker; the test plays the platform."""

import shutil
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from device_events import event, events
from device_platform import PlayedPlatform, platform_on
from mosquitto_server import Mosquitto
from mqtt_probe import Probe
from waiting import wait_until

from facewire import codec
from facewire.errors import StoreError
from facewire.messages import Match, Status
from facewire_broker import embedded
from facewire_device import Agent, Recorder, Settings, uploader
from facewire_device import agent as agent_module
from facewire_device import realtime as realtime_module
from facewire_device.ring import Ring
from facewire_device.store import Store, open_store
from facewire_mqtt import Address, session
from facewire_system.clock import now_ms

pytestmark = [pytest.mark.network, pytest.mark.usefixtures("quick_reconnects")]


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uploader, "AFTER_CONNECT", 0.1)
    monkeypatch.setattr(uploader, "ACK_TIMEOUT", 1.0)


@pytest.fixture
def broker() -> Iterator[Address]:
    with embedded.running() as address:
        yield address


@pytest.fixture
def platform(broker: Address) -> Iterator[PlayedPlatform]:
    with platform_on(broker) as platform:
        yield platform


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as opened:
        yield opened


@pytest.fixture
def start(broker: Address, tmp_path: Path, stack: ExitStack) -> Callable[..., tuple[Agent, Recorder]]:
    """Starts an agent and a recorder on one store; both end with the test."""

    def start(**more: Any) -> tuple[Agent, Recorder]:
        options: dict[str, Any] = {"address": broker, "threshold": 0.8, "catch_up": 100} | more
        agent = stack.enter_context(Agent(Settings("d", tmp_path / "s.db", **options)))
        return agent, stack.enter_context(Recorder(agent.open_store, agent.wake))

    return start


def ring_of(tmp_path: Path) -> Ring:
    with open_store(tmp_path / "s.db", create=False) as store:
        return store.ring()


Start = Callable[..., tuple[Agent, Recorder]]


def test_recorded_events_go_out_in_batches_and_acks_move_the_cursor(start: Start, platform: PlayedPlatform, tmp_path: Path) -> None:
    agent, recorder = start()
    recorder.record_all(events(1, 150))
    first = platform.batch()
    assert (first.after, first.cursor, first.head, first.oldest) == (0, 100, 150, 1)
    assert first.boot == agent.boot
    platform.answer(first)
    second = platform.batch()
    assert [item.timestamp for item in second.events] == list(range(101, 151))
    platform.answer(second)
    agent.wait_acked()
    assert ring_of(tmp_path).cursor == 150


def test_a_match_is_published_at_once_but_a_score_equal_to_the_threshold_is_no_match(start: Start, platform: PlayedPlatform) -> None:
    agent, recorder = start()
    assert agent.wait_connected(10)
    recorder.record_all([event(1, 0.8), event(2, 0.81, picture=b"\xff"), event(3, 0.2)])
    match, received = platform.wait(Match)
    assert match.event == event(2, 0.81, picture=b"\xff")._replace(seq=2)
    assert (match.boot, received.qos, received.retain) == (agent.boot, 0, False)
    assert abs(match.sent_at - time.time() * 1000) < 5_000
    wait_until(lambda: agent.realtime.published == 1)


def test_matches_say_the_error_of_the_clock_once_an_ack_has_shown_it(start: Start, platform: PlayedPlatform) -> None:
    """The platform's clock is ten seconds behind ours."""
    agent, recorder = start()
    assert agent.wait_connected(10)
    batch = platform.batch(lambda _: True)
    platform_at = now_ms() - 10_000
    platform.answer(batch, received_at=platform_at, sent_at=platform_at)
    agent.wait_acked()
    recorder.record_all([event(1, 0.9)])
    match, _ = platform.wait(Match)
    assert match.clock_error_ms is not None
    assert match.clock_uncertainty_ms is not None
    assert abs(match.clock_error_ms - 10_000) <= match.clock_uncertainty_ms < 5_000


def test_without_a_threshold_there_are_no_matches(start: Start, platform: PlayedPlatform) -> None:
    agent, recorder = start(threshold=None)
    assert agent.wait_connected(10)
    recorder.record_all([event(1, 1e9)])
    platform.answer(platform.batch())
    agent.wait_acked()
    assert not [message for message in platform.drain() if isinstance(message, Match)]


def test_an_event_recorded_on_another_connection_is_published_long_before_the_next_period(
    start: Start, platform: PlayedPlatform, tmp_path: Path
) -> None:
    agent, _ = start()
    assert agent.wait_connected(10)
    waits = []
    with open_store(tmp_path / "s.db") as other:
        for number in range(20):
            other.append([event(number, 0.9)])
            began = time.monotonic()
            platform.wait(Match, lambda match, number=number: match.event.timestamp == number)  # type: ignore[misc]  # bound to this one
            waits.append(time.monotonic() - began)
    assert sorted(waits)[10] < 5.0  # a period is 20 s


def test_a_burst_of_matches_in_one_commit_is_published_completely(
    start: Start, platform: PlayedPlatform, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "MAX_UNSENT_AGE", 60.0)  # a busy machine may be slow to send
    agent, recorder = start()
    assert agent.wait_connected(10)
    recorder.record_all(events(1, 2_000, score=0.9))
    assert [platform.wait(Match)[0].event.seq for _ in range(2_000)] == list(range(1, 2_001))
    assert agent.realtime.missed == 0


def test_matches_without_a_session_are_counted_and_never_sent_late(tmp_path: Path, stack: ExitStack) -> None:
    first = stack.enter_context(embedded.running())
    port = first.port
    stack.close()
    agent = stack.enter_context(Agent(Settings("d", tmp_path / "s.db", address=first, threshold=0.8)))
    recorder = stack.enter_context(Recorder(agent.open_store, agent.wake))
    recorder.record_all(events(1, 3, score=0.9))
    wait_until(lambda: agent.realtime.missed == 3)
    with embedded.running(port=port) as address, platform_on(address) as platform:
        status, _ = platform.wait(Status, lambda status: status.online)
        assert status.missed == 3
        batch = platform.batch()
        assert len(batch.events) == 3
        recorder.record_all([event(4, 0.9)])
        heard = [platform.wait(Match)[0].event.seq, *(message.event.seq for message in platform.drain() if isinstance(message, Match))]
        assert heard == [4]
        wait_until(lambda: (agent.realtime.published, agent.realtime.missed) == (1, 3))
        stack.close()


def test_events_recorded_before_the_agent_starts_are_history_only(start: Start, platform: PlayedPlatform, tmp_path: Path) -> None:
    with open_store(tmp_path / "s.db") as store:
        store.append(events(1, 3, score=0.9))
    agent, _ = start()
    platform.answer(platform.batch(lambda batch: len(batch.events) == 3))
    agent.wait_acked()
    assert not [message for message in platform.drain() if isinstance(message, Match)]
    assert (agent.realtime.published, agent.realtime.missed) == (0, 0)


def test_after_a_long_pause_between_polls_new_matches_count_as_missed(
    start: Start, platform: PlayedPlatform, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(realtime_module, "STALE_AFTER", -1.0)
    agent, recorder = start()
    assert agent.wait_connected(10)
    recorder.record_all([event(1, 0.9)])
    wait_until(lambda: agent.realtime.missed == 1)
    assert agent.realtime.published == 0


def test_an_idle_device_sends_a_probe_and_resends_what_the_platform_lost(start: Start, platform: PlayedPlatform, tmp_path: Path) -> None:
    with open_store(tmp_path / "s.db") as store:
        store.append(events(1, 5))
        store.apply_ack(lambda _: uploader.Adopt(5))
    agent, _ = start()
    probe = platform.probe()
    assert (probe.events, probe.after, probe.cursor, probe.head) == ((), 5, 5, 5)
    platform.answer(probe, cursor=0)
    again = platform.batch(lambda batch: batch.after == 0)
    assert len(again.events) == 5
    platform.answer(again)
    agent.wait_acked()


@pytest.mark.parametrize(
    "spoilt",
    [
        b"noise",
        b"",
        {"boot": "c" * 16},
        {"epoch": "f" * 16},
        {"key": 3},
        {"error": "refused"},
    ],
)
def test_a_bad_or_foreign_ack_is_ignored_and_the_right_one_still_counts(
    start: Start, platform: PlayedPlatform, tmp_path: Path, spoilt: bytes | Mapping[str, Any]
) -> None:
    agent, recorder = start()
    recorder.record_all(events(1, 2))
    batch = platform.batch()
    if isinstance(spoilt, bytes):
        platform.send(spoilt)
    else:
        platform.answer(batch, **{"cursor": 1, **spoilt})
    platform.answer(batch)
    agent.wait_acked()
    assert ring_of(tmp_path).cursor == 2


def test_an_ack_in_json_is_accepted(start: Start, platform: PlayedPlatform) -> None:
    agent, recorder = start()
    recorder.record_all(events(1, 2))
    batch = platform.batch()
    fields = {"epoch": batch.epoch, "boot": batch.boot, "key": 2, "cursor": 2, "store": "x"}
    platform.send(codec.encode(fields, codec.Format.JSON))
    agent.wait_acked()


def test_a_conflict_forks_the_store_and_each_match_is_still_published_once(start: Start, platform: PlayedPlatform, tmp_path: Path) -> None:
    agent, recorder = start()
    assert agent.wait_connected(10)
    recorder.record_all([event(1, 0.1), event(2, 0.9), event(3, 0.1)])
    batch = platform.batch()
    platform.answer(batch, cursor=1, conflict=2)
    recorder.record_all([event(4, 0.9)])
    forked = platform.batch(lambda found: found.epoch != batch.epoch)
    platform.answer(forked)
    if len(forked.events) < 3:
        platform.answer(platform.batch())
    agent.wait_acked()
    assert replace(ring_of(tmp_path), origins=()) == Ring(forked.epoch, head=3, cursor=3)
    recorder.record_all([event(5, 0.9)])
    platform.wait(Match, lambda match: match.event.timestamp == 5)
    wait_until(lambda: agent.realtime.published == 3)


def test_a_store_forks_if_the_platform_is_ahead_of_it(
    start: Start, platform: PlayedPlatform, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    agent, _ = start()
    batch = platform.probe()
    platform.answer(batch, cursor=70)
    wait_until(lambda: ring_of(tmp_path).epoch != batch.epoch)
    status, _ = platform.wait(Status, lambda status: status.epoch != batch.epoch)
    assert status.epoch == ring_of(tmp_path).epoch, "it says so at once"
    assert f"store lost its tail epoch={batch.epoch} head=0 platform_head=70 gone=70" in caplog.text
    agent.wait(0)
    assert not agent.wait_acked(pause=lambda _: True), "the platform has not heard of the new epoch"


def test_the_status_describes_the_store_and_the_goodbye_says_offline(start: Start, platform: PlayedPlatform, stack: ExitStack) -> None:
    agent, _ = start(capacity=50)
    status, _ = platform.wait(Status, lambda status: status.boot == agent.boot)
    assert status.online
    assert (status.head, status.oldest, status.cursor, status.dropped) == (0, 1, 0, 0)
    assert (status.threshold, status.period, status.capacity) == (0.8, 20.0, 50)
    assert status.version
    stack.close()
    goodbye, _ = platform.wait(Status)
    assert goodbye == Status(agent.boot, online=False, at=goodbye.at)


def test_a_device_that_loses_its_connection_leaves_its_will_and_reconnects(start: Start, platform: PlayedPlatform, broker: Address) -> None:
    agent, _ = start()
    platform.wait(Status, lambda status: status.online and status.boot == agent.boot)
    Probe(broker, "d").drop()  # a takeover: the broker closes the agent's connection
    will, _ = platform.wait(Status)
    assert will == Status(agent.boot, online=False, at=will.at)
    platform.wait(Status, lambda status: status.online and status.boot == agent.boot)


def test_after_several_resends_without_an_ack_the_agent_reconnects(
    start: Start, platform: PlayedPlatform, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(uploader, "ACK_TIMEOUT", 0.1)
    monkeypatch.setattr(uploader, "BACKOFF", (0.05, 0.1))
    agent, recorder = start()
    platform.wait(Status, lambda status: status.online and status.boot == agent.boot)
    recorder.record_all(events(1, 2))
    assert len([platform.batch() for _ in range(4)]) == 4
    platform.wait(Status, lambda status: not status.online)
    platform.wait(Status, lambda status: status.online)
    platform.answer(platform.batch())
    agent.wait_acked()


def test_a_second_agent_on_a_store_is_refused_and_the_first_goes_on(
    start: Start, platform: PlayedPlatform, broker: Address, tmp_path: Path
) -> None:
    agent, recorder = start()
    with pytest.raises(StoreError, match="another agent runs on this store"):
        Agent(Settings("d", tmp_path / "s.db", address=broker))
    recorder.record_all(events(1, 2))
    platform.answer(platform.batch())
    agent.wait_acked()


def test_an_agent_that_cannot_start_releases_the_store(broker: Address, tmp_path: Path) -> None:
    settings = Settings("d", tmp_path / "s.db", address=broker)
    for bad in (replace(settings, capacity=0), replace(settings, period=1.0)):
        with pytest.raises(ValueError, match=r"below the limit of 20 s|is not from 1 to the limit"):
            Agent(bad)
    Agent(settings).stop()
    with pytest.raises(StoreError, match="this store belongs to device 'd'"):
        Agent(replace(settings, device="other"))
    Agent(settings).stop()


@pytest.mark.parametrize("bad", [{"batch": 0}, {"batch": 101}, {"device": "a/b"}, {"threshold": float("nan")}, {"threshold": float("inf")}])
def test_settings_that_the_contract_does_not_allow_are_refused(bad: dict[str, Any]) -> None:
    good: dict[str, Any] = {"device": "d", "store": Path("s.db")}
    with pytest.raises(ValueError, match=r"batch of|device|threshold"):
        Settings(**good | bad)


def test_a_replaced_store_is_reopened_and_continues_in_its_own_epoch(start: Start, platform: PlayedPlatform, tmp_path: Path) -> None:
    agent, recorder = start()
    recorder.record_all(events(1, 2))
    old = platform.batch()
    for item in tmp_path.iterdir():
        if item.name.startswith("s.db") and not item.name.endswith("-agent"):
            item.rename(tmp_path / f"aside-{item.name}")
    recorder.record_all(events(7, 9))
    platform.answer(old)
    again = platform.batch(lambda batch: batch.epoch != old.epoch and len(batch.events) == 3)
    platform.answer(again)
    agent.wait_acked()
    assert ring_of(tmp_path) == Ring(again.epoch, head=3, cursor=3)


def test_an_old_copy_in_the_place_of_the_store_is_a_new_run(start: Start, platform: PlayedPlatform, tmp_path: Path) -> None:
    path = tmp_path / "s.db"
    with open_store(path) as store:
        store.append(events(1, 2))
    shutil.copy(path, tmp_path / "copy")
    with open_store(path) as store:
        store.append(events(3, 9))
    agent, recorder = start()
    first = platform.batch()
    platform.answer(first)
    agent.wait_acked()
    for suffix in ("-wal", "-shm"):
        path.with_name(f"s.db{suffix}").unlink()
    (tmp_path / "copy").rename(path)
    status, _ = platform.wait(Status, lambda status: status.boot != first.boot)
    assert status.online
    again = platform.batch(lambda batch: batch.boot == status.boot)
    assert (again.epoch, again.head) == (first.epoch, 2), "at once, not after a period"
    assert again.boot == agent.boot
    recorder.record_all([event(10, 0.9)])
    match, _ = platform.wait(Match)
    assert (match.boot, match.event.seq) == (agent.boot, 3)


def test_if_the_store_fails_while_it_adopts_a_cursor_the_agent_tries_again(
    start: Start, platform: PlayedPlatform, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(agent_module, "STORE_RETRY", 0.01)
    monkeypatch.setattr(uploader, "MIN_PERIOD", 0.1)
    failing = threading.Event()
    apply_ack = Store.apply_ack

    def sometimes(store: Store, decide: Callable[[Ring], uploader.Outcome]) -> tuple[uploader.Outcome, Ring]:
        def decide_and_fail(ring: Ring) -> uploader.Outcome:
            outcome = decide(ring)
            if failing.is_set():
                failing.clear()
                raise StoreError("disk is full")
            return outcome

        return apply_ack(store, decide_and_fail)

    monkeypatch.setattr(Store, "apply_ack", sometimes)
    agent, recorder = start(period=0.1)
    recorder.record_all(events(1, 2))
    failing.set()
    platform.answer(platform.batch())
    wait_until(lambda: not failing.is_set())
    platform.answer(platform.batch())
    agent.wait_acked()
    assert "disk is full" in caplog.text


def damage_under_the_agent(path: Path) -> None:
    """Spoil the file in place; the next connection finds nothing of it in the WAL."""
    sqlite3.connect(path).execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(bytes(size - 4096))


def test_damage_found_while_the_agent_runs_ends_it_with_the_reason(
    broker: Address, platform: PlayedPlatform, tmp_path: Path, stack: ExitStack, caplog: pytest.LogCaptureFixture
) -> None:
    failed = threading.Event()
    with open_store(tmp_path / "s.db") as store:
        store.append(events(1, 300))
    settings = Settings("d", tmp_path / "s.db", address=broker, catch_up=100)
    agent = stack.enter_context(Agent(settings, on_failure=failed.set))
    first = platform.batch()
    damage_under_the_agent(tmp_path / "s.db")
    platform.answer(first)
    assert failed.wait(30)
    with pytest.raises(StoreError, match=r"s\.db: is damaged: .*--set-aside-damaged"):
        agent.wait(0)
    assert not (tmp_path / "s.db.damaged-1").exists()
    assert "Traceback" not in caplog.text


def test_damage_found_while_the_agent_runs_is_set_aside_and_all_go_on_in_a_new_store(
    start: Start, platform: PlayedPlatform, tmp_path: Path
) -> None:
    with open_store(tmp_path / "s.db") as store:
        store.append(events(1, 300))
    agent, recorder = start(set_aside=True)
    first = platform.batch()
    damage_under_the_agent(tmp_path / "s.db")
    platform.answer(first)
    wait_until((tmp_path / "s.db.damaged-1").exists)
    recorder.record_all(events(301, 302))
    batch = platform.batch(lambda batch: batch.epoch != first.epoch and len(batch.events) == 2)
    platform.answer(batch)
    agent.wait_acked()


def test_a_store_that_was_replaced_by_a_damaged_one_is_checked(start: Start, platform: PlayedPlatform, tmp_path: Path) -> None:
    agent, _ = start(set_aside=True)
    first = platform.batch(lambda _: True)
    with open_store(tmp_path / "new.db") as store:
        store.append(events(1, 300))
    whole = (tmp_path / "new.db").read_bytes()
    (tmp_path / "new.db").write_bytes(whole[:-8192])
    (tmp_path / "new.db").rename(tmp_path / "s.db")
    wait_until((tmp_path / "s.db.damaged-1").exists)
    assert platform.batch(lambda batch: batch.epoch != first.epoch).events == ()
    agent.wait(0)


@pytest.mark.mosquitto
def test_the_agent_works_through_mosquitto_and_survives_its_kill(
    new_mosquitto: Callable[..., Mosquitto], tmp_path: Path, stack: ExitStack
) -> None:
    server = new_mosquitto()
    agent = stack.enter_context(Agent(Settings("d", tmp_path / "s.db", address=server.address, threshold=0.8)))
    recorder = stack.enter_context(Recorder(agent.open_store, agent.wake))
    assert agent.wait_connected(10)
    with platform_on(server.address) as platform:
        recorder.record_all([event(1, 0.9)])
        assert platform.wait(Match)[1].qos == 0
        lost = platform.batch()
        server.kill()
    server.start()
    with platform_on(server.address) as platform:
        again = platform.batch()
        assert (again.epoch, again.boot, again.events) == (lost.epoch, lost.boot, lost.events)
        platform.answer(again)
        agent.wait_acked()
        stack.close()
