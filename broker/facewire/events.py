"""One comparison of a face against the enrolled people (docs/contract.md, Event)."""

import enum
import numbers
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain, repeat
from math import isfinite
from typing import Any, Final, NamedTuple

from facewire import codec
from facewire.codec import CONTAINERS
from facewire.errors import DecodeError, EventError
from facewire.photographs import Photograph, take_out
from facewire.vendor import common_form

#: SQLite's and PostgreSQL's integers end here.
MAX_INT: Final = 2**63 - 1
_MIN_INT: Final = -MAX_INT

#: `record()` refuses a larger event: it must fit a broker's packet limit (256 KiB in ours).
MAX_EVENT_BYTES: Final = 192 * 1024


class PersonType(enum.IntEnum):
    """The kinds of persons that boxes distinguish. An event keeps other numbers too."""

    EMPLOYEE = 1
    VISITOR = 2
    BLOCKLISTED = 3
    STRANGER = 4
    VIP = 5

    @property
    def label(self) -> str:
        """The name that people read."""
        return "VIP" if self is PersonType.VIP else self.name.lower()


#: For a help text: each number with its label.
PERSON_TYPES: Final = ", ".join(f"{known.value} {known.label}" for known in PersonType)


class Event(NamedTuple):
    """An event as it travels. A named tuple: we make 200,000 a second and store each as a row."""

    #: Place in its device's store, from 1; 0 while no store has it.
    seq: int
    #: When the comparison was made, device clock, ms since 1970 UTC.
    timestamp: int
    #: The vendor's scale, fractions or points; finite.
    score: float
    #: Enrolled person, or the id given to a stranger; may be empty.
    identity_id: str
    identity_name: str
    # A `PersonType`, or another number.
    person_type: int
    #: Group compared against.
    group_name: str | None
    #: Capture endpoint (camera, turnstile) attached to the box.
    ep_id: str | None
    #: Every other field of the vendor, unchanged.
    extra: dict[str, Any]

    def to_map(self) -> dict[str, Any]:
        """The event under its wire names, without optional fields that it lacks."""
        fields = {name: value for name, value in zip(self._fields, self, strict=True) if name != "extra" and value is not None}
        return fields | self.extra


def event_from_map(fields: object, *, clean: bool = False) -> Event:
    """Read an event from the wire.

    Args:
        fields: as received; not changed.
        clean: whether the codec vouches for texts and numbers (`codec.Decoded.clean`).

    Raises:
        EventError: it breaks the contract; names the field, the value and the limit.
    """
    if not isinstance(fields, dict):
        raise EventError(f"event {_show(fields)} is not a map")
    seq = read_seq(fields)
    if seq is None:
        raise EventError(f"seq {_show(fields.get('seq'))} is not an integer from 1 to {MAX_INT}")
    return _event(fields, seq, clean=clean)


def columns_from_maps(maps: Sequence[Any]) -> list[list[Any]]:
    """Read many events from the wire in half the time, if the codec vouches for them.

    Args:
        maps: as received; each value that `Event` has a field for is taken out of them.

    Returns:
        For each field of `Event`, the values of all events in order.

    Raises:
        EventError: one of them breaks the contract; `event_from_map` says which, and how.
    """
    if not set(map(type, maps)) <= {dict}:
        raise EventError("an event is not a map")
    columns = [list(map(dict.pop, maps, repeat(name), repeat(None))) for name in Event._fields[:-1]]
    seqs, timestamps, scores, ids, names, person_types, *optional = columns
    if not (
        _are(scores, float, int)
        and all(map(isfinite, scores))
        and all(_are(column, int) and _fit(column) for column in (seqs, timestamps, person_types))
        and min(seqs, default=1) >= 1
        and all(_are(column, str) for column in (ids, names, set().union(*maps)))
        and all(_are(column, str, type(None)) for column in optional)
    ):
        raise EventError("an event has a field that is wrong")
    if not _are(scores, float):
        if not _fit([score for score in scores if type(score) is int]):
            raise EventError("an event has a score that is too large")
        columns[2] = list(map(float, scores))
    if not CONTAINERS.isdisjoint(map(type, chain.from_iterable(map(dict.values, maps)))):
        for extra in maps:
            if codec.is_deeper(extra, codec.MAX_DEPTH):
                raise EventError("an event nests too deep")
    return [*columns, list(maps)]


def _are(values: Iterable[object], *types: type) -> bool:
    return set(map(type, values)) <= set(types)


def _fit(integers: Sequence[int]) -> bool:
    return min(integers, default=0) >= _MIN_INT and max(integers, default=0) <= MAX_INT


def event_from_source(fields: object) -> Event:
    """The event of `read_source`, without its photographs."""
    return read_source(fields)[0]


def read_source(fields: object) -> tuple[Event, list[Photograph]]:
    """Read a recognition process's event, in any of the vendor's forms (`vendor.common_form`).

    The event has no seq yet: a seq in `fields` is the source's own, and is ignored. The photographs
    are returned apart, and the event names them by their hashes (`photographs.take_out`). Keep them
    before you record the event.

    Raises:
        EventError: it breaks the contract, or is over `MAX_EVENT_BYTES` without its photographs.
    """
    if not isinstance(fields, Mapping):
        raise EventError(f"event {_show(fields)} is not a map")
    known = common_form({name: _builtin(value) for name, value in fields.items()})
    known, photographs = take_out(known)
    packed = codec.pack(_event(known, 0, clean=False).to_map())
    if len(packed) > MAX_EVENT_BYTES:
        raise EventError(f"event of {len(packed)} bytes is over the limit of {MAX_EVENT_BYTES}")
    try:
        # As its readers will. An event that the codec refuses would spoil every batch that has it.
        decoded = codec.decode(packed).map
    except DecodeError as exc:
        raise EventError(f"event cannot be kept: {exc}") from exc
    return _event(decoded, 0, clean=True), photographs


def _builtin(value: Any) -> Any:
    """The number as Python's own: recognition processes compute with numpy, or use enums."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        return value
    return int(value) if isinstance(value, numbers.Integral) else float(value)


def read_seq(fields: object) -> int | None:
    """The seq of an event that may be bad, or None if it is unreadable."""
    seq = fields.get("seq") if isinstance(fields, dict) else None
    return seq if type(seq) is int and 1 <= seq <= MAX_INT else None


def _event(fields: Mapping[str, Any], seq: int, *, clean: bool) -> Event:
    extra = {**fields}
    take = extra.pop
    take("seq", None)
    timestamp, score = take("timestamp", None), take("score", None)
    identity_id, identity_name = take("identity_id", None), take("identity_name", None)
    person_type, group_name, ep_id = take("person_type", None), take("group_name", None), take("ep_id", None)
    if type(score) is int and _MIN_INT <= score <= MAX_INT:
        score = float(score)  # JSON, and some languages' msgpack, write 82.0 as 82
    # One expression, because it runs 200,000 times a second; `_first_wrong` finds the wrong field.
    if not (
        type(timestamp) is int
        and _MIN_INT <= timestamp <= MAX_INT
        and type(score) is float
        and isfinite(score)
        and type(identity_id) is str
        and type(identity_name) is str
        and type(person_type) is int
        and _MIN_INT <= person_type <= MAX_INT
        and (group_name is None or type(group_name) is str)
        and (ep_id is None or type(ep_id) is str)
    ):
        raise _first_wrong(fields, seq)
    simple = clean
    for name, value in extra.items():
        if type(name) is not str:
            raise EventError("event has a key that is not text", seq or None)
        simple = simple and type(value) not in CONTAINERS
    if not simple:
        _check_deeply((extra, identity_id, identity_name, group_name, ep_id), seq, clean=clean)
    return Event(seq, timestamp, score, identity_id, identity_name, person_type, group_name, ep_id, extra)


def _is_integer(value: object) -> bool:
    return type(value) is int and _MIN_INT <= value <= MAX_INT


def _is_number(value: object) -> bool:
    return isfinite(value) if type(value) is float else _is_integer(value)


def _is_text(value: object) -> bool:
    return type(value) is str


def _is_text_or_nothing(value: object) -> bool:
    return value is None or type(value) is str


#: The test of each field, and its wording for people.
_FIELDS: Final = (
    ("timestamp", _is_integer, "an integer of milliseconds"),
    ("score", _is_number, "a finite number"),
    ("identity_id", _is_text, "text"),
    ("identity_name", _is_text, "text"),
    ("person_type", _is_integer, "an integer"),
    ("group_name", _is_text_or_nothing, "text"),
    ("ep_id", _is_text_or_nothing, "text"),
)


def _check_deeply(parts: tuple[dict[str, Any], *tuple[str | None, ...]], seq: int, *, clean: bool) -> None:
    if codec.is_deeper(parts[0], codec.MAX_DEPTH):
        raise EventError(f"event nests deeper than {codec.MAX_DEPTH} levels", seq or None)
    if not clean:
        try:
            codec.pack(parts)
        except ValueError as exc:
            raise EventError(f"event cannot be kept: {exc}", seq or None) from exc


def _first_wrong(fields: Mapping[str, Any], seq: int) -> EventError:
    name, wanted = next((name, wanted) for name, is_right, wanted in _FIELDS if not is_right(fields.get(name)))
    state = f"{_show(fields.get(name))} is not" if name in fields else "is missing:"
    return EventError(f"{name} {state} {wanted}", seq or None)


def _show(value: object) -> str:
    # This goes into logs. A text may be a name, bytes a face, a container huge: show only the type.
    text = ascii(value) if isinstance(value, int | float | None) else type(value).__name__
    return text if len(text) <= 40 else f"{text[:37]}..."
