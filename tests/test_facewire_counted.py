"""Numbers with their nouns."""

import pytest

from facewire.counted import counted


@pytest.mark.parametrize(("number", "text"), [(0, "0 events"), (1, "1 event"), (2, "2 events"), (1_234, "1,234 events")])
def test_a_noun_follows_its_number(number: int, text: str) -> None:
    assert counted(number, "event") == text


@pytest.mark.parametrize(("number", "text"), [(0, "0 boxes"), (1, "1 box"), (2, "2 boxes"), (1_234, "1,234 boxes")])
def test_a_plural_may_be_given(number: int, text: str) -> None:
    assert counted(number, "box", "boxes") == text
