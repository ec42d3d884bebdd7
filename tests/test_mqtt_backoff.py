"""The wait before the next session: pure, time is an argument."""

import random

import pytest

from facewire_mqtt.backoff import LASTED, RECONNECT_WAIT, SUSPICIOUS, Backoff

#: A box sends its first batch at most this long after its connect, and has its ack soon after, s.
BATCH_AND_ACK = 2.0


def waits(backoff: Backoff, up_for: float | None, times: int) -> list[float]:
    seen = []
    for number in range(times):
        backoff.ended(number * 60.0, up_for, by_us=False)
        seen.append(backoff.wait)
    return seen


@pytest.mark.parametrize("up_for", [None, 0.0, 0.3, LASTED - 0.1])
def test_the_wait_grows_while_sessions_fail_or_end_soon(up_for: float | None) -> None:
    assert waits(Backoff(), up_for, 8) == [1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0, 30.0]


def test_the_wait_is_the_shortest_again_after_a_session_that_lasted() -> None:
    backoff = Backoff()
    waits(backoff, 0.3, 8)
    assert waits(backoff, LASTED, 1) == [RECONNECT_WAIT[0]]
    assert backoff.in_a_row == 0


def test_short_sessions_that_the_broker_ends_are_said_each_time_their_number_has_doubled() -> None:
    backoff = Backoff()
    said = [number for number in range(1, 50) if backoff.ended(number * 10.0, 0.3, by_us=False)]
    assert said == [SUSPICIOUS, 2 * SUSPICIOUS, 4 * SUSPICIOUS, 8 * SUSPICIOUS, 16 * SUSPICIOUS]
    assert backoff.takeovers(490.0) == 7
    assert backoff.takeovers(1_000.0) == 0


@pytest.mark.parametrize(("up_for", "by_us"), [(None, False), (0.3, True)])
def test_a_broker_that_is_away_and_a_session_that_we_end_are_no_takeover(up_for: float | None, by_us: bool) -> None:
    backoff = Backoff()
    assert not any(backoff.ended(float(number), up_for, by_us=by_us) for number in range(50))
    assert backoff.takeovers(49.0) == 0


@pytest.mark.parametrize("seed", range(5))
def test_two_boxes_with_one_id_leave_each_other_time_for_batches(seed: int) -> None:
    """Each connect ends the other's session: in ten minutes both drain, and both know why."""
    jitter = random.Random(seed)
    backoffs, due = (Backoff(), Backoff()), [0.0, 0.1]
    holder, since, takeovers = None, 0.0, 0
    drained, said = [0, 0], [0, 0]
    while min(due) < 600:
        box, now = (0, due[0]) if due[0] <= due[1] else (1, due[1])
        if holder is not None:
            takeovers += 1
            drained[holder] += now - since >= BATCH_AND_ACK
            said[holder] += backoffs[holder].ended(now, now - since, by_us=False)
            due[holder] = now + backoffs[holder].wait * jitter.uniform(0.5, 1.0)
        holder, since, due[box] = box, now, float("inf")
    assert min(drained) >= 10
    assert min(said) >= 1
    assert takeovers / 10 < 8  # a minute; it was 160
