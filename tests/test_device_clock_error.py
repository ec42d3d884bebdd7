"""A device's clock error, measured by round trips: pure, both clocks are arguments."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from facewire.messages import Ack
from facewire_device.clock_error import DRIFT, KEPT, ROUND_TRIPS, ROUNDING, WATCHED, ClockError, ClockReading

WALL = 1_764_000_000_000
HOUR = 3_600_000


def ack(received_at: int, sent_at: int) -> Ack:
    return Ack("0" * 16, "1" * 16, 0, 0, "s", received_at=WALL + received_at, sent_at=WALL + sent_at)


def measured(up: int, down: int) -> ClockError:
    """A device after one round trip. The platform's clock is right, and shows the elapsed time."""
    clock = ClockError()
    trip(clock, 0, up, down)
    return clock


def trip(clock: ClockError, at: int, up: int, down: int) -> None:
    clock.batch_sent(at)
    clock.acked(at + up + 50 + down, ack(at + up, at + up + 50))


def test_nothing_is_known_without_a_round_trip() -> None:
    assert ClockError().read(7, WALL) is None


@pytest.mark.parametrize("ahead", [0, 4_000, -10_000, 50 * 365 * 24 * HOUR])
def test_the_uncertainty_is_half_the_round_trip_without_the_time_at_the_platform(ahead: int) -> None:
    known = measured(30, 30).read(110, WALL + 110 + ahead)
    assert known == ClockReading(ahead, 30 + ROUNDING)


@given(st.integers(0, 20_000), st.integers(0, 20_000), st.integers(-HOUR, HOUR))
def test_the_truth_is_within_the_uncertainty_however_the_delay_is_shared(up: int, down: int, ahead: int) -> None:
    known = measured(up, down).read(50_000, WALL + 50_000 + ahead)
    assert known is not None
    assert abs(known.error - ahead) <= known.uncertainty <= (up + down) / 2 + ROUNDING + DRIFT * 50_000 + 2


def test_several_round_trips_tell_more_than_one() -> None:
    clock = measured(0, 4_000)
    trip(clock, 10_000, 4_000, 0)
    known = clock.read(14_050, WALL + 14_050)
    assert known is not None
    assert abs(known.error) < 10
    assert known.uncertainty < 10


def test_a_step_of_our_clock_is_known_without_another_round_trip() -> None:
    clock = measured(10, 10)
    clock.read(1_000, WALL + 1_000)
    stepped = clock.read(1_050, WALL + 1_050 + 8_000)
    assert stepped is not None
    # An event of a moment ago may have either time.
    assert stepped.error - stepped.uncertainty <= 0
    assert stepped.error + stepped.uncertainty >= 8_000
    for later in range(2_000, 3 * WATCHED, 1_000):
        stepped = clock.read(later, WALL + later + 8_000)
    assert stepped is not None
    assert abs(stepped.error - 8_000) <= stepped.uncertainty < 100


def test_the_uncertainty_grows_with_the_drift_and_after_an_hour_nothing_is_known() -> None:
    clock = measured(10, 10)
    known = clock.read(KEPT, WALL + KEPT)
    assert known is not None
    assert 10 + DRIFT * KEPT <= known.uncertainty <= 15 + DRIFT * KEPT
    assert clock.read(KEPT + 71, WALL + KEPT + 71) is None


def test_an_ack_without_times_teaches_nothing() -> None:
    clock = ClockError()
    clock.batch_sent(0)
    for silent in (replace(ack(0, 0), received_at=None), replace(ack(0, 0), sent_at=None)):
        clock.acked(20, silent)
    assert clock.read(30, WALL + 30) is None


def test_an_ack_of_an_earlier_batch_never_shows_the_clock_less_far_ahead() -> None:
    """It has the same key. It is 20 s late; the clock is 4 s ahead."""
    clock = measured(10, 10)
    clock.batch_sent(20_000)
    clock.acked(20_020, ack(10, 60))
    known = clock.read(20_030, WALL + 24_030)
    assert known is not None
    assert known.error + known.uncertainty >= 4_000
    trip(clock, 40_000, 10, 10)
    known = clock.read(40_100, WALL + 44_100)
    assert known is not None
    assert abs(known.error - 4_000) <= known.uncertainty < 20


def test_an_ack_during_which_the_platforms_clock_was_set_forward_teaches_nothing() -> None:
    clock = ClockError()
    clock.batch_sent(0)
    clock.acked(20, ack(10, 5_010))
    assert clock.read(30, WALL + 30) is None


def test_a_platform_whose_clock_was_set_is_believed_from_its_next_ack_on() -> None:
    clock = measured(10, 10)
    clock.batch_sent(20_000)
    clock.acked(20_020, ack(25_010, 25_010))
    known = clock.read(20_030, WALL + 20_030)
    assert known is not None
    assert abs(known.error + 5_000) <= known.uncertainty < 20


def test_an_old_round_trip_is_forgotten_for_new_ones() -> None:
    """Else one of a platform clock that was wrong would count for ever beside wider ones."""
    clock = measured(10, 10)
    for number in range(1, ROUND_TRIPS + 1):
        trip(clock, number * 20_000, 3_000, 3_000)
    known = clock.read(200_000, WALL + 200_000)
    assert known is not None
    assert known.uncertainty >= 3_000
