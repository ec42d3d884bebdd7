import itertools
import math
import random
import resource
from collections.abc import Callable
from dataclasses import replace

import pytest

from facewire.errors import BrokerError
from facewire.events import event_from_map
from facewire.messages import MAX_BATCH_EVENTS, Ack, Origin, decode_batch, decode_match
from facewire_device.uploader import Adopt, Fork
from facewire_fleet import net
from facewire_fleet.fleet import OFFICE_DAY, REGULARS, Comparison, Device, MemoryStore, Plan, Rhythm, compare, crowd, percentile

NOW_MS = 1_764_054_000_000
PLAN = Plan(rate=0.2, duration=1_000.0, people=crowd(500, random.Random(1).random), rhythm=Rhythm())


def counter(first: int = 1) -> Callable[[], str]:
    ids = itertools.count(first)
    return lambda: f"{next(ids):016x}"


def device(name: str = "sim-00001", plan: Plan = PLAN, seed: int = 7, starts_at: float = 100.0) -> Device:
    return Device(name, plan, starts_at=starts_at, random=random.Random(f"{seed} {name}").random, jitter=lambda: 0.5, new_id=counter())


def pass_all(device: Device) -> list[float]:
    """Let everybody pass; when they did."""
    moments = []
    while device.next_at < math.inf:
        moments.append(device.next_at)
        device.record(NOW_MS + len(moments), 0)
    return moments


def ack(device: Device, key: int, cursor: int, conflict: int | None = None) -> Ack:
    return Ack(device.memory.ring.epoch, device.boot, key, cursor, "store", conflict=conflict)


def send(device: Device, now: float) -> int:
    device.uploader.connected(now)
    batch = device.batch()
    device.uploader.sent(now, batch.epoch, batch.key)
    return batch.key


def test_events_come_at_the_mean_rate_and_all_within_the_run() -> None:
    moments = [moment for n in range(50) for moment in pass_all(device(f"sim-{n}"))]
    assert 0.9 < len(moments) / (50 * PLAN.rate * PLAN.duration) < 1.1
    assert min(moments) >= 100.0
    assert max(moments) <= 100.0 + PLAN.duration


def test_a_rush_hour_is_busier_than_a_lull_as_in_the_badge_data() -> None:
    moments = [moment - 100.0 for n in range(50) for moment in pass_all(device(f"sim-{n}"))]
    part = PLAN.duration / len(OFFICE_DAY)
    counts = [sum(1 for moment in moments if n * part <= moment < (n + 1) * part) for n in range(len(OFFICE_DAY))]
    rush, lull = OFFICE_DAY.index(2.50), OFFICE_DAY.index(0.46)
    assert 3 < counts[rush] / counts[lull] < 9


def test_the_rhythm_reaches_from_the_first_moment_to_the_last() -> None:
    rhythm = Rhythm((1, 3, 0, 4))
    assert rhythm.at(0.0) == 0.0
    assert rhythm.at(0.125) == pytest.approx(0.25)
    assert rhythm.at(1.0) == 1.0
    shares = [rhythm.at(n / 100) for n in range(101)]
    assert shares == sorted(shares)


def test_the_same_seed_makes_the_same_people_at_the_same_times_and_another_seed_others() -> None:
    first, second, other = device(), device(), device(seed=8)
    assert pass_all(first) == pass_all(second) != pass_all(other)
    # Epoch and boot are given: those of a run are its own.
    assert first.batch().payload == second.batch().payload != other.batch().payload


def test_events_keep_the_contract_and_people_pass_repeatedly() -> None:
    busy = device(plan=replace(PLAN, rate=0.8))
    matches = []
    while busy.next_at < math.inf:
        if payload := busy.record(NOW_MS, 0):
            matches.append(decode_match(payload).event)
    batch = decode_batch(busy.batch().payload)
    assert not batch.bad
    assert [event.seq for event in batch.events] == list(range(1, MAX_BATCH_EVENTS + 1))
    strangers = [event for event in batch.events if event.person_type == 4]
    assert 0 < len(strangers) < 30
    assert all(event.score < 0.8 and not event.identity_name for event in strangers)
    assert all(match.score > 0.8 and match.person_type != 4 for match in matches)
    assert len({match.identity_id for match in matches}) <= REGULARS < len(matches)


def test_a_score_equal_to_the_threshold_is_no_match() -> None:
    sure = device()
    moment = NOW_MS
    payload = None
    while payload is None:
        payload = sure.record(moment, 0)
    score = decode_match(payload).event.score
    again = device(plan=replace(PLAN, threshold=score))
    recorded = [again.record(moment, 0) for _ in range(decode_match(payload).event.seq)]
    assert recorded[-1] is None


def test_a_photo_goes_with_each_event_and_a_batch_stays_within_its_bytes() -> None:
    seen = device(plan=replace(PLAN, photo=bytes(50_000)))
    for _ in range(10):
        seen.record(NOW_MS, 0)
    batch = decode_batch(seen.batch().payload)
    assert [len(event.extra["photo"]) for event in batch.events] == [50_000] * 4
    assert (batch.cursor, batch.head) == (4, 10)


def test_first_batches_are_spread_over_the_period() -> None:
    at = []
    for n in range(200):
        one = device(f"sim-{n}")
        one.uploader.connected(90.0)
        assert one.uploader.wakes_at is not None
        at.append(one.uploader.wakes_at)
    assert 100 <= min(at) < 102
    assert 118 < max(at) <= 120


def test_a_ring_in_memory_overwrites_the_oldest_and_reports_it() -> None:
    memory = MemoryStore("e" * 16, 5, counter())
    for n in range(8):
        memory.append({"timestamp": n, "score": 0.5, "identity_id": "", "identity_name": "", "person_type": 1})
    batch = decode_batch(memory.next_batch("b" * 16).payload)
    assert (batch.after, batch.cursor, batch.head, batch.oldest) == (0, 8, 8, 4)
    assert [event.seq for event in batch.events] == [4, 5, 6, 7, 8]
    assert memory.ring.dropped == 3


def test_an_ack_moves_the_cursor_ahead_or_back_and_the_next_batch_follows_it() -> None:
    one = device()
    for _ in range(8):
        one.record(NOW_MS, 0)
    key = send(one, 200.0)
    assert one.acked(201.0, ack(one, key, 5)) == Adopt(5)
    assert [event.seq for event in decode_batch(one.batch().payload).events] == [6, 7, 8]
    key = send(one, 220.0)
    assert one.acked(221.0, ack(one, key, 2)) == Adopt(2)
    assert decode_batch(one.batch().payload).after == 2


def test_without_anything_new_a_probe_is_sent() -> None:
    batch = decode_batch(device().batch().payload)
    assert (batch.after, batch.cursor, batch.events) == (0, 0, ())


def test_a_conflict_forks_into_a_new_epoch_with_the_rest_recorded_again() -> None:
    one = device()
    for n in range(6):
        one.record(NOW_MS + n, 0)
    before = decode_batch(one.batch().payload)
    assert one.acked(201.0, ack(one, send(one, 200.0), 3, conflict=4)) == Fork(4)
    after = decode_batch(one.batch().payload)
    assert after.epoch != before.epoch
    assert [event.seq for event in after.events] == [1, 2, 3]
    assert after.origins == (Origin(before.epoch, 4, 6, diverged=True),)
    assert [event.timestamp for event in after.events] == [event.timestamp for event in before.events[3:]]


def test_events_stored_once_or_declared_lost_are_accounted_for() -> None:
    heads = {("a", "1"): 3, ("b", "2"): 2, ("c", "3"): 0}
    assert compare(heads, {("a", "1"): [3, 1, 2], ("b", "2"): [2]}, {("b", "2"): 1}) == Comparison(stored=4, gaps=1)


@pytest.mark.parametrize(
    ("seqs", "expected"),
    [
        ([1, 2], Comparison(stored=2, missing=1)),
        ([1, 2, 2, 3], Comparison(stored=3, doubled=1)),
        ([1, 2, 2], Comparison(stored=2, doubled=1, missing=1)),
        ([1, 2, 3, 4], Comparison(stored=3, doubled=1)),
    ],
)
def test_missing_doubled_and_invented_events_are_found(seqs: list[int], expected: Comparison) -> None:
    assert compare({("a", "1"): 3}, {("a", "1"): seqs}, {}) == expected


def test_an_epoch_that_no_device_has_counts_as_doubled() -> None:
    assert compare({("a", "1"): 1}, {("a", "1"): [1], ("a", "9"): [1, 2]}, {}) == Comparison(stored=1, doubled=2)


def test_a_percentile_is_one_of_the_measured_values() -> None:
    rising = [float(n) for n in range(1, 1001)]
    assert [percentile(rising, share) for share in (0.5, 0.99, 0.999, 1.0)] == [500.0, 990.0, 999.0, 1000.0]
    assert percentile([4.0], 0.5) == 4.0
    assert percentile([], 0.5) is None


def test_the_people_of_a_fleet_have_names_and_kinds() -> None:
    people = crowd(200, random.Random(3).random)
    assert len({person.identity_id for person in people}) == 200
    assert {person.person_type for person in people} == {1, 2, 5}


def test_a_simulated_device_says_how_far_its_clock_is_off() -> None:
    one = device()
    assert one.status(NOW_MS, 0, "1").clock_error_ms is None
    one.clock.batch_sent(1_000)
    received = NOW_MS + 1_005 - 500
    one.clock.acked(1_010, Ack(one.memory.ring.epoch, one.boot, 0, 0, "s", received_at=received, sent_at=received))
    said = one.status(NOW_MS + 1_010, 1_010, "1")
    assert said.clock_error_ms is not None
    assert said.clock_uncertainty_ms is not None
    assert abs(said.clock_error_ms - 500) <= said.clock_uncertainty_ms <= 10
    while (payload := one.record(NOW_MS + 1_010, 1_010)) is None:
        pass
    assert decode_match(payload).clock_error_ms == said.clock_error_ms


def test_simulated_events_can_be_read_back() -> None:
    one = device()
    payload = one.record(NOW_MS, 0)
    while payload is None:
        payload = one.record(NOW_MS, 0)
    event = decode_match(payload).event
    assert event_from_map(event.to_map()) == event


def test_a_limit_of_open_files_that_cannot_be_raised_names_both_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise ValueError("not allowed to raise maximum limit")

    monkeypatch.setattr(resource, "getrlimit", lambda _: (256, 4096))
    monkeypatch.setattr(resource, "setrlimit", refuse)
    with pytest.raises(BrokerError, match=r"10000 devices need 10064 open files, but the limit here is 4096"):
        net.allow_files(10_000)
    net.allow_files(100)
