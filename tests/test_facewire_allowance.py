import pytest
from hypothesis import given
from hypothesis import strategies as st

from facewire.allowance import Allowances


def test_an_idle_client_spends_its_burst_at_once_and_then_its_rate() -> None:
    allowances = Allowances[str](burst=3, per_second=0.5)
    assert [allowances.spend("a", 0.0) for _ in range(4)] == [0, 0, 0, 2.0]
    assert allowances.spend("b", 0.0) == 0
    assert [allowances.spend("a", 2.0), allowances.spend("a", 2.0)] == [0, 2.0]
    assert [allowances.spend("a", 1000.0) for _ in range(4)] == [0, 0, 0, 2.0]


def test_an_amount_over_the_burst_is_granted_once_the_bucket_is_full() -> None:
    allowances = Allowances[str](burst=10, per_second=1)
    assert allowances.spend("a", 0.0, 100) == 0
    assert allowances.spend("a", 0.0, 1) == 91
    assert allowances.spend("a", 91.0, 1) == 0


def test_a_clock_that_goes_back_gives_nothing() -> None:
    allowances = Allowances[str](burst=1, per_second=1)
    assert allowances.spend("a", 10.0) == 0
    assert allowances.spend("a", 5.0) == 1


def test_the_client_that_spent_longest_ago_is_forgotten() -> None:
    allowances = Allowances[int](burst=1, per_second=0.001, most=2)
    assert [allowances.spend(client, 0.0) for client in (1, 2, 1, 3)] == [0, 0, 1000, 0]
    assert allowances.spend(1, 0.0) == pytest.approx(1000)
    assert allowances.spend(2, 0.0) == 0


@given(st.lists(st.tuples(st.floats(0, 10), st.floats(0.1, 5)), max_size=50))
def test_nobody_gets_more_than_burst_and_rate(spending: list[tuple[float, float]]) -> None:
    allowances, now, granted = Allowances[str](burst=5, per_second=2), 0.0, 0.0
    for pause, amount in spending:
        now += pause
        wait = allowances.spend("a", now, amount)
        granted += 0 if wait else amount
        assert granted <= 5 + 2 * now + 1e-6
        assert wait <= 5 / 2
