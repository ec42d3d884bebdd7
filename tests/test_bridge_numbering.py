"""Numbers of a source: holes, repeats, resets."""

from facewire_bridge.numbering import MOST_HOLES, Hole, Numbers, Seen


class Source:
    """Keeps marks as a ledger does."""

    def __init__(self) -> None:
        self.numbers = Numbers()
        self.marks: dict[tuple[int, int], str] = {}

    def see(self, number: int, at: int, mark: str = "", *, late: bool = False) -> Seen:
        mark = mark or f"{number}@{at}"
        seen, self.numbers = self.numbers.see(number, at, str(at), mark, late=late, mark_of=lambda *key: self.marks.get(key))
        if not seen.repeated:
            assert (seen.generation, number) not in self.marks
            self.marks[seen.generation, number] = mark
        return seen

    def holes(self) -> list[tuple[int, int]]:
        return [(hole.first, hole.last) for hole in self.numbers.holes]


def test_numbers_in_order_leave_no_hole() -> None:
    source = Source()
    assert [source.see(n, n) for n in (389, 390, 391)] == [Seen(1)] * 3
    assert source.holes() == []


def test_a_hole_lies_between_two_numbers_and_is_filled_piece_by_piece() -> None:
    source = Source()
    source.see(3, 30)
    source.see(7, 70)
    assert source.numbers.holes == (Hole(4, 6, "30", "70", after_ms=30),)
    assert source.numbers.missing == 3
    assert source.see(5, 50) == Seen(1)
    assert source.holes() == [(4, 4), (6, 6)]
    source.see(4, 40)
    source.see(6, 60)
    assert source.holes() == []


def test_a_repeat_is_the_same_number_with_the_same_mark() -> None:
    source = Source()
    source.see(3, 30)
    assert source.see(3, 30) == Seen(1, repeated=True)


def test_a_smaller_number_with_a_later_time_is_a_new_generation() -> None:
    source = Source()
    source.see(389, 1000)
    assert source.see(1, 2000) == Seen(2, reset=True)
    assert source.see(2, 2001) == Seen(2)
    assert source.holes() == []


def test_the_same_number_with_another_mark_is_another_record_at_any_time() -> None:
    source = Source()
    source.see(1, 1000, "a")
    assert source.see(1, 1000, "b") == Seen(2, reset=True)
    assert source.see(1, 1000, "a") == Seen(1, repeated=True)


def test_a_record_from_before_the_first_is_an_older_record() -> None:
    source = Source()
    source.see(389, 1000)
    assert source.see(380, 900) == Seen(1)
    assert source.numbers.highest == 389


def test_a_hole_that_is_filled_late_is_no_reset_though_the_clock_was_set_back() -> None:
    source = Source()
    source.see(5, 1000)
    source.see(7, 500)
    assert source.see(6, 1001, late=True) == Seen(1)
    assert source.holes() == []


def test_a_false_reset_mends_itself() -> None:
    source = Source()
    source.see(5, 1000)
    source.see(7, 500)
    assert source.see(6, 1001) == Seen(2, reset=True)
    source.see(8, 501)
    assert source.holes() == [(7, 7)]
    assert source.see(7, 500) == Seen(1, repeated=True)
    assert source.holes() == []


def test_a_pull_counts_for_the_rest_of_its_hole() -> None:
    source = Source()
    source.see(1, 10)
    source.see(5, 50)
    asked = source.numbers.holes[0]
    source.see(3, 30, late=True)
    numbers = source.numbers.pulled(asked)
    assert [(hole.first, hole.pulls) for hole in numbers.holes] == [(2, 1), (4, 1)]
    assert numbers.without(numbers.holes[0]).holes == numbers.holes[1:]


def test_holes_are_bounded() -> None:
    source = Source()
    for number in range(1, 3 * MOST_HOLES, 2):
        source.see(number, number)
    assert len(source.numbers.holes) == MOST_HOLES
    assert source.numbers.holes[-1].last == source.numbers.highest - 1


def test_the_time_of_the_record_before_is_known_behind_the_highest_and_in_a_hole() -> None:
    source = Source()
    assert source.numbers.made_before(1) is None
    source.see(3, 30)
    source.see(7, 70)
    assert [source.numbers.made_before(number) for number in (2, 4, 6, 7, 8, 100)] == [None, 30, 30, None, 70, 70]
