"""Any event that the codec accepts, for hypothesis."""

from typing import Any

from hypothesis import strategies as st

from facewire import codec
from facewire.events import MAX_INT, Event

NAMED = set(Event._fields) - {"extra"}

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
INTS = st.integers(-MAX_INT, MAX_INT)
FLOATS = st.floats(allow_nan=False, allow_infinity=False)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | FLOATS | TEXT | st.binary(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT | st.integers(), inner, max_size=3),
    max_leaves=6,
).filter(lambda value: not codec.is_deeper(value, 10))
EXTRAS = st.dictionaries(TEXT.filter(lambda name: name not in NAMED), VALUES, max_size=3)
EVENTS = st.builds(
    Event, st.integers(1, MAX_INT), INTS, FLOATS, TEXT, TEXT, INTS, st.none() | TEXT, st.none() | TEXT, st.just({}) | EXTRAS
).filter(lambda event: codec_can(event))


def codec_can(event: Event) -> bool:
    try:
        codec.pack(event)
    except ValueError:
        return False
    return True


def nested(levels: int) -> Any:
    """A list in a list, so many levels deep."""
    value: Any = 1
    for _ in range(levels):
        value = [value]
    return value
