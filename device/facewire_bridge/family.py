"""The shape of a family of boxes that post over HTTP, a pure module with a `FAMILY`. Pure.

POST /NAME/{id}/{kind} ──▶ Post ──▶ read ──▶ records ──▶ one commit ──▶ stored
"""

import datetime as dt
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

from facewire.proof import ProofClass
from facewire_bridge.record import Poison, Record


@dataclass(frozen=True, slots=True)
class Post:
    """A POST, as received."""

    #: Last level of its path.
    kind: str
    content_type: str
    body: bytes
    #: Fields of a multipart body: texts, and files as bytes. None for any other body.
    form: Mapping[str, str | bytes] | None = None


@dataclass(frozen=True, slots=True)
class Box:
    """The box that posts, as we know it.

    Attributes:
        zone: the zone of its clock.
        after_ms: when its highest numbered record was made; None if it has none.
    """

    zone: dt.tzinfo
    after_ms: int | None = None


#: Records, each with the posted value, which we keep if the record is poison.
Read: TypeAlias = list[tuple[Record | Poison, object]]


@dataclass(frozen=True, slots=True)
class Family:
    """A family of boxes.

    Attributes:
        name: first level of its paths.
        kinds: last levels of the paths that carry records.
        read: reads a post; a `ValueError` makes all of it poison.
        stored: the answer, with status 200, that means "stored" to the box.
        proof: the class of proof that its records allow.
        media_type: the media type of that answer.
    """

    name: str
    kinds: frozenset[str]
    read: Callable[[Post, Box], Read]
    stored: bytes
    proof: ProofClass = ProofClass.BEST_EFFORT
    media_type: str = "application/json"
