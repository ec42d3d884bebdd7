from hypothesis import given
from hypothesis import strategies as st

from facewire.messages import MAX_ORIGINS, Origin
from facewire_device.ring import Ring


def test_a_new_ring_is_empty() -> None:
    ring = Ring("e")
    assert (ring.head, ring.oldest, ring.cursor, ring.lag, ring.dropped) == (0, 1, 0, 0, 0)


def test_an_event_that_still_fits_overwrites_nothing() -> None:
    assert Ring("e", head=9).appended(1, 10) == Ring("e", head=10)


def test_an_event_overwritten_before_its_ack_is_counted_as_dropped() -> None:
    assert Ring("e", head=10, cursor=0).appended(3, 10) == Ring("e", head=13, oldest=4, cursor=0, dropped=3)


def test_an_event_overwritten_after_its_ack_is_not_dropped() -> None:
    assert Ring("e", head=10, cursor=2).appended(3, 10) == Ring("e", head=13, oldest=4, cursor=2, dropped=1)


def test_dropped_events_are_counted_once_while_the_cursor_stays() -> None:
    assert Ring("e", head=13, oldest=4, dropped=3).appended(1, 10).dropped == 4


def test_a_ring_keeps_the_last_of_more_events_than_it_can_hold() -> None:
    assert Ring("e", head=2, cursor=2).appended(25, 10) == Ring("e", head=27, oldest=18, cursor=2, dropped=15)


def test_a_smaller_capacity_overwrites_at_once_and_a_larger_one_restores_nothing() -> None:
    shrunk = Ring("e", head=10, cursor=4).appended(0, 3)
    assert shrunk == Ring("e", head=10, oldest=8, cursor=4, dropped=3)
    assert shrunk.appended(0, 100) == shrunk


def test_a_fork_begins_with_seq_1_and_a_cursor_of_0() -> None:
    forked = Ring("e", head=10, cursor=7, dropped=5).forked("f", 8, diverged=True)
    assert forked == Ring("f", head=3, origins=(Origin("e", 8, 10, diverged=True),))


def test_a_fork_past_the_head_is_empty() -> None:
    before = Ring("e", head=10, oldest=4, cursor=10)
    assert before.forked("f", 11, diverged=False) == Ring("f", origins=(Origin("e", 11, 10),))
    assert before.forked("f", 500, diverged=False) == Ring("f", origins=(Origin("e", 11, 10),))


def test_events_overwritten_since_the_fork_point_stay_a_gap_in_the_new_epoch() -> None:
    forked = Ring("e", head=20, oldest=11, cursor=2).forked("f", 3, diverged=False)
    assert forked == Ring("f", head=18, oldest=9, dropped=8, origins=(Origin("e", 3, 20),))


def test_a_second_fork_tells_where_the_events_of_the_first_epoch_are_now() -> None:
    second = Ring("e", head=20, cursor=10).forked("f", 11, diverged=False).appended(5, 100)
    third = second.adopted(4).forked("g", 5, diverged=True)
    assert third.origins == (Origin("f", 5, 15, diverged=True), Origin("e", 15, 20))
    fourth = third.adopted(8).forked("h", 9, diverged=False)
    assert fourth.origins == (Origin("g", 9, 11), Origin("f", 13, 15, diverged=True), Origin("e", 21, 20))


def test_origins_are_bounded() -> None:
    ring = Ring("0", head=1)
    for epoch in range(1, 40):
        ring = ring.forked(str(epoch), 1, diverged=False)
    assert [origin.epoch for origin in ring.origins] == [str(epoch) for epoch in range(38, 38 - MAX_ORIGINS, -1)]


counts = st.integers(0, 30)


@given(st.lists(st.tuples(counts, counts, counts)), st.integers(1, 12))
def test_the_ring_never_overflows_and_every_event_is_acked_held_or_dropped(steps: list[tuple[int, int, int]], capacity: int) -> None:
    ring = Ring("0")
    for epoch, (appended, acked, fork) in enumerate(steps):
        ring = ring.appended(appended, capacity)
        ring = ring.adopted(min(ring.head, max(ring.cursor, acked)))
        if fork % 5 == 0:
            ring = ring.forked(str(epoch), min(ring.head + 1, max(1, fork)), diverged=False)
        assert 1 <= ring.oldest <= ring.head + 1
        assert 0 <= ring.head - ring.oldest + 1 <= capacity
        assert 0 <= ring.cursor <= ring.head
        assert ring.lag <= (ring.head - ring.oldest + 1) + ring.dropped
