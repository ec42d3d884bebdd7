"""The result of reading a foreign message: the seam between a translator and the rest. Pure.

    foreign message ──▶ translator ──▶ Record | Poison ──▶ ledger and store ──▶ foreign ack

A translator is a pure module for one family of boxes. It names each record as its source does, so
that the ledger can tell a repeated record from a new one.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Record:
    """One comparison, as its source describes it."""

    #: The form in which the source sends it, such as `rec` or `history`.
    form: str
    #: The source's name for it. The same key in the same form is the same record, sent again.
    key: str
    #: As `event_from_source` reads it, photographs included.
    event: Mapping[str, Any]
    #: Whether it may become a match: the source says that it is fresh, and that the person was let
    #: in.
    realtime: bool = False
    #: Names that copies of this record share across forms with different keys; empty if none.
    shared: tuple[str, ...] = ()
    #: Its number, if the source numbers its records.
    number: int | None = None
    #: Distinguishes it from another record with the same number, after the source's counter was
    #: reset.
    mark: str = ""


@dataclass(frozen=True, slots=True)
class Poison:
    """A foreign record that can be no event. We keep it raw, and ack it: else it blocks others."""

    form: str
    #: As in `Record`; empty if it cannot be read.
    key: str
    reason: str
    number: int | None = None
    mark: str = ""
