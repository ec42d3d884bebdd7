"""The uploader, with time as an argument. test_exploration.py shows that its rules lose nothing."""

import math
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from facewire.messages import Ack
from facewire_device import uploader as module
from facewire_device.ring import Ring
from facewire_device.uploader import ACK_TIMEOUT, AFTER_CONNECT, BACKOFF, MAX_RETRY_AFTER, Adopt, Fork, Ignore, Retry, Uploader

EPOCH, BOOT = "e" * 16, "b" * 16


def new(*, now: float = 0.0, jitter: float = 0.0, **options: Any) -> Uploader:
    return Uploader(BOOT, now=now, jitter=lambda: jitter, **options)


def ack(key: int, cursor: int | None = None, **more: Any) -> Ack:
    values = {"epoch": EPOCH, "boot": BOOT} | more
    return Ack(key=key, cursor=key if cursor is None else cursor, store="s", **values)


def up(**options: Any) -> Uploader:
    """Connected at 0 s, its first batch due at 0.5 s."""
    uploader = new(**options)
    uploader.connected(0.0)
    return uploader


def due_at(uploader: Uploader) -> float:
    """When it is due, exactly: not a moment before."""
    at = uploader.wakes_at
    assert at is not None
    assert not uploader.poll(math.nextafter(at, -math.inf))
    assert uploader.poll(at)
    return at


@pytest.mark.parametrize("period", [19.999, 0.0, -1.0, math.nan])
def test_a_period_below_20_s_is_refused_with_value_and_limit(period: float) -> None:
    with pytest.raises(ValueError, match=rf"period of {period:g} s is below the limit of 20 s"):
        new(period=period)


@pytest.mark.parametrize("catch_up", [0, -3])
def test_a_catch_up_below_1_is_refused_with_value_and_limit(catch_up: int) -> None:
    with pytest.raises(ValueError, match=rf"catch-up of {catch_up} batches a period is below the limit of 1"):
        new(catch_up=catch_up)


def test_nothing_is_due_before_there_is_a_session() -> None:
    uploader = new()
    assert uploader.wakes_at is None
    assert not uploader.poll(1e9)


@pytest.mark.parametrize("jitter", [0.0, 0.5, 0.999])
def test_the_first_batch_is_due_shortly_after_the_connect_spread_over_a_fleet(jitter: float) -> None:
    assert due_at(up(jitter=jitter)) == AFTER_CONNECT * (0.5 + jitter)


def test_a_batch_is_due_with_nothing_to_send_r1() -> None:
    uploader = up()
    uploader.sent(due_at(uploader), EPOCH, 0)
    assert uploader.acked(1.0, ack(0), Ring(EPOCH)) == Adopt(0)
    assert due_at(uploader) == 20.5


@pytest.mark.parametrize("lag", [0, 500])
def test_the_next_batch_comes_a_period_after_the_one_before_however_large_the_backlog(lag: int) -> None:
    uploader = up(period=30.0)
    uploader.sent(0.5, EPOCH, 100)
    assert uploader.acked(3.0, ack(100), Ring(EPOCH, head=100 + lag)) == Adopt(100)
    assert due_at(uploader) == 30.5


def test_an_ack_later_than_the_period_makes_the_next_batch_due_at_once() -> None:
    uploader = up()
    uploader.sent(0.5, EPOCH, 100)
    uploader.acked(33.0, ack(100), Ring(EPOCH, head=200))
    assert due_at(uploader) == 33.0


def test_catch_up_sends_so_many_batches_a_period_each_after_the_ack_before() -> None:
    uploader = up(catch_up=3)
    for key in (100, 200, 300):
        at = due_at(uploader)
        assert at == 0.5 + (key - 100) / 100
        uploader.sent(at, EPOCH, key)
        uploader.acked(at + 1.0, ack(key), Ring(EPOCH, head=1000))
    assert due_at(uploader) == 20.5
    uploader.sent(20.5, EPOCH, 400)
    uploader.acked(21.0, ack(400), Ring(EPOCH, head=1000))
    assert due_at(uploader) == 21.0, "a new period has as many again"


def test_catch_up_ends_with_the_backlog() -> None:
    uploader = up(catch_up=3)
    uploader.sent(0.5, EPOCH, 100)
    uploader.acked(1.0, ack(100), Ring(EPOCH, head=100))
    assert due_at(uploader) == 20.5


def test_catch_up_ends_with_a_batch_that_moved_nothing() -> None:
    """A store that ends with skipped seqs has a backlog, and nothing to send of it."""
    uploader = up(catch_up=3)
    uploader.sent(0.5, EPOCH, 90)
    uploader.acked(1.0, ack(90), Ring(EPOCH, head=100, cursor=90))
    assert due_at(uploader) == 20.5


def test_catch_up_goes_on_at_once_after_a_fork_that_left_something_to_send() -> None:
    uploader = up(catch_up=2)
    uploader.sent(0.5, EPOCH, 100)
    assert uploader.acked(1.0, ack(100, conflict=50), Ring(EPOCH, head=100)) == Fork(50)
    assert due_at(uploader) == 1.0


def test_without_an_ack_the_batch_is_resent_after_a_backoff_that_doubles_up_to_its_limit() -> None:
    uploader = up(jitter=0.999_999)
    shortest, longest = BACKOFF
    at, waits = due_at(uploader), []
    for resends in range(12):
        assert uploader.sent(at, EPOCH, 1) == resends
        waits.append(due_at(uploader) - at - ACK_TIMEOUT)
        at = due_at(uploader)
    assert waits[0] == 0.0
    assert waits[1:7] == pytest.approx([shortest * 2**n for n in range(6)], rel=1e-5)
    assert waits[8:] == pytest.approx([longest] * 4, rel=1e-5)


@pytest.mark.parametrize("jitter", [0.0, 0.5])
def test_jitter_takes_up_to_half_of_the_backoff(jitter: float) -> None:
    uploader = up(jitter=jitter)
    uploader.sent(1.0, EPOCH, 1)
    uploader.sent(10.0, EPOCH, 1)
    assert due_at(uploader) == 10.0 + ACK_TIMEOUT + BACKOFF[0] * (0.5 + jitter / 2)


def test_an_outage_of_days_does_not_overflow_the_backoff() -> None:
    uploader = up()
    for _ in range(5_000):
        uploader.sent(due_at(uploader), EPOCH, 1)
    assert due_at(uploader) < 5_000 * (ACK_TIMEOUT + BACKOFF[1])


def test_an_ack_ends_the_backoff() -> None:
    uploader = up()
    for at in (1.0, 10.0, 20.0):
        uploader.sent(at, EPOCH, 1)
    uploader.acked(21.0, ack(1), Ring(EPOCH, head=1))
    assert uploader.sent(41.0, EPOCH, 1) == 0
    assert due_at(uploader) == 41.0 + ACK_TIMEOUT


def test_an_ack_after_the_timeout_still_counts() -> None:
    uploader = up()
    uploader.sent(1.0, EPOCH, 7)
    assert uploader.poll(1.0 + ACK_TIMEOUT)
    assert uploader.acked(1.5 + ACK_TIMEOUT, ack(7), Ring(EPOCH, head=7)) == Adopt(7)


def test_an_ack_for_a_batch_that_was_replaced_by_a_larger_one_is_ignored() -> None:
    uploader = up()
    uploader.sent(1.0, EPOCH, 7)
    uploader.sent(6.0, EPOCH, 9)
    assert uploader.acked(6.1, ack(7), Ring(EPOCH, head=9)) == Ignore()
    assert uploader.acked(6.2, ack(9), Ring(EPOCH, head=9)) == Adopt(9)


@pytest.mark.parametrize("change", [{"epoch": "f" * 16}, {"boot": "c" * 16}, {"key": 8}, {"key": 6}])
def test_an_ack_that_is_not_for_the_batch_in_flight_is_ignored_r2(change: dict[str, Any]) -> None:
    uploader = up()
    uploader.sent(1.0, EPOCH, 7)
    before = uploader.wakes_at
    assert uploader.acked(2.0, replace(ack(7), **change), Ring(EPOCH, head=9)) == Ignore()
    assert uploader.wakes_at == before


def test_an_ack_counts_once() -> None:
    uploader = up()
    assert uploader.acked(0.1, ack(0), Ring(EPOCH)) == Ignore(), "nothing was sent"
    uploader.sent(1.0, EPOCH, 7)
    uploader.acked(2.0, ack(7), Ring(EPOCH, head=7))
    assert uploader.acked(2.1, ack(7), Ring(EPOCH, head=7)) == Ignore()


@pytest.mark.parametrize(
    ("more", "outcome"),
    [
        ({"cursor": 100}, Adopt(100)),
        ({"cursor": 40}, Adopt(40)),
        ({"cursor": 0}, Adopt(0)),
        ({"cursor": 150}, Adopt(100)),
        ({"cursor": 201}, Adopt(100)),
        ({"cursor": 100, "conflict": 61}, Fork(61)),
        ({"cursor": 900, "conflict": 61}, Fork(61)),
        ({"cursor": 100, "conflict": 150}, Fork(101)),
    ],
)
def test_an_ack_moves_the_cursor_no_further_than_what_was_sent_or_forks_r3_r4(more: dict[str, Any], outcome: Adopt | Fork) -> None:
    uploader = up()
    uploader.sent(1.0, EPOCH, 100)
    assert uploader.acked(2.0, ack(100, **more), Ring(EPOCH, head=200, cursor=50)) == outcome


def test_a_platform_that_knows_events_past_our_head_makes_us_fork_r5() -> None:
    uploader = up()
    uploader.sent(1.0, EPOCH, 100)
    assert uploader.acked(2.0, ack(100, 101), Ring(EPOCH, head=100)) == Fork(101)


def test_if_the_head_grew_since_the_batch_the_fork_waits_for_a_batch_up_to_the_head() -> None:
    uploader = up()
    uploader.sent(1.0, EPOCH, 100)
    assert uploader.acked(2.0, ack(100, 105), Ring(EPOCH, head=103)) == Adopt(100)


def test_forged_conflicts_fork_a_few_times_a_day_and_lose_nothing() -> None:
    uploader, forks, now = up(), 0, 1.0
    ring = Ring(EPOCH, head=7)
    while now < 86_400:
        uploader.sent(now, EPOCH, 7)
        outcome = uploader.acked(now, ack(7, conflict=1), ring)
        assert isinstance(outcome, Fork) or uploader.in_flight == (EPOCH, 7)
        forks += isinstance(outcome, Fork)
        now += 1.0
    assert forks == 8 + 23
    assert isinstance(outcome, Retry)
    assert outcome.error == "asks to fork more than 8 times; the next fork is in 2 s"
    assert uploader.acked(now, ack(7), ring) == Adopt(7)


def test_a_refused_batch_is_resent_as_if_there_were_no_ack() -> None:
    uploader = up()
    uploader.sent(1.0, EPOCH, 7)
    before = due_at(uploader)
    assert uploader.acked(2.0, ack(7, error="no"), Ring(EPOCH, head=7)) == Retry("no")
    assert due_at(uploader) == before
    assert uploader.sent(before, EPOCH, 7) == 1


@pytest.mark.parametrize(("retry_after", "at"), [(90_000, 92.0), (1, 20.5), (10**15, 2.0 + MAX_RETRY_AFTER)])
def test_retry_after_is_obeyed_up_to_a_limit(retry_after: int, at: float) -> None:
    uploader = up()
    uploader.sent(0.5, EPOCH, 7)
    uploader.acked(2.0, ack(7, retry_after=retry_after), Ring(EPOCH, head=7))
    assert due_at(uploader) == at


def test_after_a_reconnect_a_batch_in_flight_is_resent_soon_but_a_new_one_waits_for_its_period() -> None:
    uploader = up()
    uploader.sent(0.5, EPOCH, 7)
    uploader.disconnected()
    assert not uploader.poll(1e9)
    uploader.connected(2.0)
    assert due_at(uploader) == 2.5
    assert uploader.sent(2.5, EPOCH, 7) == 1
    uploader.acked(3.0, ack(7), Ring(EPOCH, head=7))
    uploader.disconnected()
    uploader.connected(4.0)
    assert due_at(uploader) == 20.5
    uploader.disconnected()
    uploader.connected(60.0)
    assert due_at(uploader) == 60.5


class Times(RuleBasedStateMachine):
    """Whatever the link does, no period has too many new batches, and none is forgotten."""

    @initialize(catch_up=st.integers(1, 3), period=st.floats(20.0, 60.0), jitter=st.floats(0.0, 0.99))
    def begin(self, catch_up: int, period: float, jitter: float) -> None:
        self.now = 0.0
        self.catch_up, self.period = catch_up, period
        self.uploader = Uploader(BOOT, now=0.0, period=period, catch_up=catch_up, jitter=lambda: jitter)
        self.ring = Ring(EPOCH)
        self.in_flight: int | None = None
        self.linked = False
        self.starts: list[float] = []

    @rule(seconds=st.floats(0.0, 30.0))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @rule(count=st.integers(1, 300))
    def record(self, count: int) -> None:
        self.ring = self.ring.appended(count, 10_000)

    @rule()
    def connect(self) -> None:
        self.uploader.connected(self.now)
        self.linked = True

    @rule()
    def disconnect(self) -> None:
        self.uploader.disconnected()
        self.linked = False

    @precondition(lambda self: self.uploader.poll(self.now))
    @rule()
    def send(self) -> None:
        assert self.linked
        key = min(self.ring.head, self.ring.cursor + 100)
        if self.in_flight is None:
            self.starts.append(self.now)
        self.in_flight = key
        self.uploader.sent(self.now, EPOCH, key)

    @precondition(lambda self: self.in_flight is not None)
    @rule(back=st.integers(0, 50))
    def acked(self, back: int) -> None:
        assert self.in_flight is not None
        cursor = max(0, self.in_flight - back)
        outcome = self.uploader.acked(self.now, ack(self.in_flight, cursor), self.ring)
        assert outcome == Adopt(cursor)
        self.ring = self.ring.adopted(cursor)
        self.in_flight = None

    @rule(key=st.integers(0, 1000), error=st.none() | st.just("no"))
    def stray(self, key: int, error: str | None) -> None:
        outcome = self.uploader.acked(self.now, ack(key, boot="c" * 16, error=error), self.ring)
        assert outcome == Ignore()

    @invariant()
    def no_period_has_more_batches_than_allowed(self) -> None:
        for first, beyond in zip(self.starts, self.starts[self.catch_up :], strict=False):
            assert beyond >= first + self.period or self.catch_up > 1
        for start in self.starts:
            assert sum(start <= other < start + self.period for other in self.starts) <= 2 * self.catch_up - 1

    @invariant()
    def a_session_always_has_a_next_batch(self) -> None:
        assert (self.uploader.wakes_at is None) != self.linked
        if self.uploader.wakes_at is not None:
            assert self.uploader.wakes_at <= self.now + max(self.period, ACK_TIMEOUT + BACKOFF[1])


TestTimes = Times.TestCase


def test_the_default_period_is_the_specifications() -> None:
    assert module.DEFAULT_PERIOD == module.MIN_PERIOD == 20.0
