import pytest
from platform_model import BOOT, EPOCH, bad_event, batch, event

from facewire.errors import BatchRefused
from facewire.messages import BadEvent, Match, Status
from facewire_platform.intake.rates import EPOCHS, EVENTS, QUARANTINE_BYTES, Rates
from facewire_platform.store.writer import Message, Unreadable


def message(body: object, device: str = "d") -> Message:
    return Message(device, body, 1)  # type: ignore[arg-type]  # the bodies below are right


def full_batch(number: int = 0, epoch: str = EPOCH) -> Message:
    return message(batch(number * 100, number * 100 + 100, *range(number * 100 + 1, number * 100 + 101), epoch=epoch))


def test_a_whole_ring_twice_over_and_five_events_a_second_for_ever_are_within_the_rate() -> None:
    rates = Rates()
    assert [rates.judge(full_batch(number), 0.0) for number in range(200)] == [None] * 200
    for number in range(10_000):
        match, now = message(Match(EPOCH, BOOT, 1, event(number + 1))), 200.0 + number / 5
        assert rates.judge(match, now) is None
        assert number % 100 or rates.judge(full_batch(), now) is None


def test_a_batch_over_the_rate_is_postponed_until_there_is_room_and_a_match_is_dropped() -> None:
    rates = Rates()
    while (excess := rates.judge(full_batch(), 0.0)) is None:
        pass
    assert excess.rate == "events"
    assert excess.answer is not None
    assert (excess.answer.epoch, excess.answer.boot, excess.answer.key, excess.answer.retry_after) == (EPOCH, BOOT, 100, 1_000)
    match = rates.judge(message(Match(EPOCH, BOOT, 1, event(1))), 0.0)
    assert match is not None
    assert match.answer is None
    assert rates.judge(message(Status(BOOT, True, 1)), 0.0) is not None
    assert rates.judge(full_batch(), 1.0) is None
    assert rates.judge(message(batch(0, 1, 1), "other"), 1.0) is None


@pytest.mark.parametrize("kind", ["batch", "match"])
def test_a_device_begins_144_new_epochs_a_day_at_most_beyond_its_first_twenty(kind: str) -> None:
    rates, begun, day = Rates(), 0, 86_400
    for number in range(100_000):
        epoch = f"{number:016x}"
        body = batch(0, 1, 1, epoch=epoch) if kind == "batch" else Match(epoch, BOOT, 1, event(1))
        begun += rates.judge(message(body), number * day / 100_000) is None
    assert begun <= EPOCHS[0] + 144


def test_a_known_epoch_costs_nothing() -> None:
    rates = Rates()
    for number in range(1_000):
        assert rates.judge(message(batch(0, 1, 1, epoch=f"{number % 20:016x}")), 0.0) is None
    excess = rates.judge(message(batch(0, 1, 1, epoch="f" * 16)), 0.0)
    assert excess is not None
    assert excess.rate == "epochs"
    assert excess.answer is not None
    assert excess.answer.retry_after == 600_000


def test_bytes_for_the_quarantine_are_bounded_whatever_carries_them() -> None:
    rates, stored = Rates(), 0
    for number in range(50_000):
        bodies = (Unreadable("t", "bad", bytes(100_000)), batch(0, 1, bad=(BadEvent(1, "bad", bytes(100_000)),)))
        stored += 100_000 * sum(rates.judge(message(body), number / 100) is None for body in bodies)
    assert stored <= QUARANTINE_BYTES[0] + 500 * QUARANTINE_BYTES[1] + 100_000
    assert rates.judge(message(Unreadable("t", "bad", b"x"), "other"), 500.0) is None
    assert rates.judge(message(batch(0, 1, bad=(bad_event(1),)), "other"), 500.0) is None


def test_a_flood_over_the_rate_gets_one_answer_a_second() -> None:
    rates = Rates()
    for _ in range(int(EVENTS[0])):
        assert rates.judge(message(Status(BOOT, True, 1)), 0.0) is None
    refused = message(BatchRefused("bad", epoch=EPOCH, boot=BOOT, key=7))
    found = [rates.judge(refused, number / 100_000) for number in range(10_000)]
    answers = [excess.answer for excess in found if excess is not None and excess.answer is not None]
    assert all(answer.key == 7 for answer in answers)
    assert len(answers) == 20
