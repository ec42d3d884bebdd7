"""When a range is asked for again, and when a pull counts against a hole."""

from facewire_bridge.numbering import Hole, Numbers
from facewire_bridge.pulling import MOST_PULLS, QUIET, WAITS, Pull, Puller

HOLE = Hole(4, 5, "2025-11-25 10:00:00", "2025-11-25 10:05:00")
NUMBERS = {"rec": Numbers(1, 6, 0, "2025-11-25 10:05:00", (HOLE,))}
PULL = Pull("rec", "2025-11-25 09:59:59", "2025-11-25 10:05:01", HOLE)


def pulled() -> Puller:
    """A pull is under way since 3.0 s."""
    puller = Puller()
    assert puller.poll(0.0, NUMBERS) is None
    assert puller.poll(WAITS[0], NUMBERS) == PULL
    puller.sent(WAITS[0], PULL, "m", heard_at=0.0)
    assert puller.poll(100.0, NUMBERS) is None, "one at a time"
    return puller


def test_a_number_may_be_late_before_it_is_asked_for() -> None:
    pulled()


def test_a_hole_between_times_that_fall_is_asked_for_from_the_earlier() -> None:
    puller, numbers = Puller(), {"rec": Numbers(holes=(Hole(1, 1, "2025-11-25 10:05:00", "2025-11-25 09:00:00"),))}
    puller.poll(0.0, numbers)
    found = puller.poll(WAITS[0], numbers)
    assert found is not None
    assert (found.first, found.last) == ("2025-11-25 08:59:59", "2025-11-25 10:05:01")


def test_a_pull_ends_when_every_counted_record_has_come() -> None:
    puller = pulled()
    puller.answered(4.0, "m", 2)
    assert puller.ended(4.0, 4.0) is None
    puller.received(4.1, "rec")
    puller.received(4.2, "snap")
    assert puller.ended(4.2, 4.2) is None
    puller.received(4.3, "rec")
    assert puller.ended(4.3, 4.3) == (PULL, True)


def test_a_pull_that_found_nothing_counts() -> None:
    puller = pulled()
    puller.answered(4.0, "other", 7)
    puller.answered(4.0, "m", 0)
    assert puller.ended(4.0, 4.0) == (PULL, True)


def test_a_pull_of_which_a_part_was_lost_does_not_count() -> None:
    puller = pulled()
    puller.answered(4.0, "m", 2)
    puller.received(4.1, "rec")
    assert puller.ended(4.1 + QUIET, 4.1) == (PULL, False)


def test_a_source_that_does_not_answer_counts_only_if_it_is_heard_of() -> None:
    assert pulled().ended(WAITS[0] + QUIET, heard_at=0.0) == (PULL, False)
    assert pulled().ended(WAITS[0] + QUIET, heard_at=5.0) == (PULL, True)


def test_it_waits_longer_each_time_and_then_no_more() -> None:
    puller, at = Puller(), 0.0
    for pulls in range(MOST_PULLS):
        hole = Hole(4, 5, "a", "b", pulls)
        numbers = {"rec": Numbers(holes=(hole,))}
        puller.poll(at, numbers)
        assert puller.poll(at + WAITS[pulls] - 0.1, numbers) is None
        pull = puller.poll(at + WAITS[pulls], numbers)
        assert pull is not None
        at += WAITS[pulls]
        puller.sent(at, pull, "m", at)
        puller.answered(at, "m", 0)
        assert puller.ended(at, at) == (pull, True)
    assert puller.poll(at + 10_000, {"rec": Numbers(holes=(Hole(4, 5, "a", "b", MOST_PULLS),))}) is None


def test_a_wanted_range_goes_first_and_once() -> None:
    puller, sweep = Puller(), Pull("snap", "a", "b")
    puller.want(sweep)
    puller.want(sweep)
    assert puller.poll(0.0, NUMBERS) == sweep
    puller.sent(0.0, sweep, "m", 0.0)
    puller.answered(0.1, "m", 0)
    assert puller.ended(0.1, 0.1) == (sweep, True)
    assert puller.poll(0.2, NUMBERS) is None


def test_the_range_grows_with_each_pull() -> None:
    ranges = []
    for pulls in range(MOST_PULLS):
        puller = Puller()
        numbers = {"rec": Numbers(holes=(Hole(4, 5, "2025-10-26 02:05:00", "2025-10-26 02:10:00", pulls),))}
        puller.poll(0.0, numbers)
        pull = puller.poll(1000.0, numbers)
        assert pull is not None
        ranges.append((pull.first[11:], pull.last[11:]))
    assert ranges == [("02:04:59", "02:10:01"), ("01:55:00", "02:20:00"), ("00:55:00", "03:20:00")]


def test_a_time_that_cannot_be_moved_stays() -> None:
    puller, numbers = Puller(), {"rec": Numbers(holes=(Hole(1, 1, "", "9999-12-31 23:59:59"),))}
    puller.poll(0.0, numbers)
    pull = puller.poll(1000.0, numbers)
    assert pull is not None
    assert (pull.first, pull.last) == ("", "9999-12-31 23:59:59")
