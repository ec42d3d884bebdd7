"""What a bridge reads out of a foreign message: the seam between a translator and the rest. Pure.

    foreign message ──▶ translator ──▶ Record | Poison ──▶ ledger and store ──▶ foreign ack

A translator is a pure module for one family of boxes. It says what each record is called at its
source, so that the ledger can tell a repeated record from a new one.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Record:
    """One comparison, as its source describes it."""

    #: Which of the source's lanes or forms it came in, such as `rec` or `history`.
    form: str
    #: What the source calls it. The same key in the same form is the same record, sent again.
    key: str
    #: As `event_from_source` takes it, photographs included.
    event: Mapping[str, Any]
    #: Whether it may become a match: it is fresh, and the person was let in, by the source's own
    #: word.
    realtime: bool = False
    #: What copies of this record share across forms that call it differently; empty if it has none.
    shared: tuple[str, ...] = ()
    #: Its number, if the source numbers its records.
    number: int | None = None
    #: What tells it from another record that has the same number, after the source's counter was
    #: reset.
    mark: str = ""


@dataclass(frozen=True, slots=True)
class Poison:
    """A foreign record that can be no event: kept raw, and acked, or it would block its source."""

    form: str
    #: As in `Record`; empty if it cannot be read.
    key: str
    reason: str
    number: int | None = None
    mark: str = ""
