from hypothesis import given
from hypothesis import strategies as st

from facewire_platform.presence import REMEMBERED, counts, seen

boots = st.lists(st.sampled_from("abcdefgh"), unique=True).map(tuple)


def test_a_new_boot_becomes_the_newest() -> None:
    assert seen(("a",), "b") == ("a", "b")
    assert seen((), "a") == ("a",)


def test_a_boot_seen_before_does_not_become_the_newest_again() -> None:
    assert seen(("a", "b"), "a") == ("a", "b")


def test_the_will_of_an_old_boot_does_not_count() -> None:
    assert not counts(("a", "b"), "a", online=False)
    assert counts(("a", "b"), "b", online=False)


def test_a_late_online_status_of_an_old_boot_does_not_count() -> None:
    assert not counts(("a", "b"), "a", online=True)


def test_an_online_status_of_an_unknown_boot_counts_and_its_will_does_not() -> None:
    assert counts(("a",), "b", online=True)
    assert not counts(("a",), "b", online=False)


def test_the_first_status_of_a_device_always_counts() -> None:
    assert counts((), "a", online=False)


@given(boots, st.sampled_from("abcdefgh"), st.booleans())
def test_the_boot_of_a_status_that_counts_is_the_newest_afterwards(known: tuple[str, ...], boot: str, online: bool) -> None:
    if counts(known, boot, online=online):
        assert seen(known, boot)[-1] == boot


def test_a_bounded_number_of_boots_is_remembered_the_newest_ones() -> None:
    known: tuple[str, ...] = ()
    for number in range(REMEMBERED + 5):
        known = seen(known, str(number))
    assert len(known) == REMEMBERED
    assert known[-1] == str(REMEMBERED + 4)
    assert known[0] == "5"
