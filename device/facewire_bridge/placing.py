"""Gives numbered records their place, and notes it in the commit that records them.

All sources that number their records use it, on the member's thread.
"""

import dataclasses
import json
import logging
from collections.abc import Callable
from typing import Any, Final

from facewire_bridge.clock import without_fraction
from facewire_bridge.member import Member, Placed
from facewire_bridge.numbering import Hole, Numbers, Seen
from facewire_bridge.record import Poison, Record
from facewire_device.ledger import Ledger

log = logging.getLogger(__name__)

_RESET: Final = "numbers.reset"


class Placing:
    """The numbers of one device's records, by form.

    Args:
        member: the member that the device becomes.
        forms: the forms of its numbered records.

    Attributes:
        reset_ms: when its counter began anew last, bridge clock, ms since 1970 UTC; None if it
            never did.
    """

    def __init__(self, member: Member, forms: tuple[str, ...]) -> None:
        self._member, self._forms = member, forms
        self._numbers: dict[str, Numbers] = {}
        self._loaded_from: Ledger | None = None
        self.reset_ms: int | None = None

    @property
    def missing(self) -> int:
        """How many numbers are unexplained so far. Any thread may ask."""
        return sum(numbers.missing for numbers in tuple(self._numbers.values()))

    def numbers(self) -> dict[str, Numbers]:
        """The state of each form. Raises `StoreError`."""
        ledger = self._member.with_ledger(lambda ledger: ledger)
        if ledger is not self._loaded_from:  # at the start, or after its file was replaced
            self._numbers = {form: _parse(ledger.note(_note(form))) for form in self._forms}
            reset = ledger.note(_RESET)
            self.reset_ms = None if reset is None else int(reset)
            self._loaded_from = ledger
        return self._numbers

    def record(self, record: Record | Poison, raw: bytes, *, late: bool, now_ms: int) -> None:
        """Record one that has a number: on return it may be acked. Raises `StoreError`."""
        number = record.number
        assert number is not None  # noqa: S101  # the caller has looked
        numbers = self.numbers()[record.form]
        at_ms, at = numbers.at_ms, numbers.at
        if isinstance(record, Record):
            at_ms, at = record.event["timestamp"], without_fraction(str(record.event.get("source_time", "")))
        seen, after = numbers.see(number, at_ms, at, record.mark, late=late, mark_of=self._mark_of(record.form))
        if not seen.repeated:
            self._record_new(record, raw, seen, after, now_ms)
        elif after != numbers:
            self._member.with_ledger(lambda ledger: ledger.write_notes({_note(record.form): _dump(after)}))
        self._numbers[record.form] = after

    def pulled(self, form: str, asked: Hole, most: int) -> None:
        """Note that a pull of a hole's range has ended; after `most` of them name the rest as lost.

        Raises:
            StoreError: the store cannot note it now.
        """
        before = self.numbers()[form]
        after = before.pulled(asked)
        lost = [hole for hole in after.holes if hole.pulls >= most]
        for hole in lost:
            after = after.without(hole)
        if after == before:
            return
        notes = {_note(form): _dump(after)}
        if lost:
            ranges = ", ".join(f"{hole.first} to {hole.last}" for hole in lost)
            reason = f"{form}: the source does not have {ranges}, asked {most} times"
            self._member.with_ledger(lambda ledger: ledger.skip(sum(hole.count for hole in lost), reason, notes))
        else:
            self._member.with_ledger(lambda ledger: ledger.write_notes(notes))
        self._numbers[form] = after

    def _record_new(self, record: Record | Poison, raw: bytes, seen: Seen, after: Numbers, now_ms: int) -> None:
        placed = Placed(record, f"{seen.generation}/{record.number}", raw)
        notes = {_note(record.form): _dump(after)}
        if not seen.reset:
            self._member.record([placed], now_ms=now_ms, notes=notes)
            return
        missing = self._numbers[record.form].missing

        def work() -> None:
            if missing:  # nobody can ask for them any more
                reason = f"{record.form}: the source was reset before it sent them"
                self._member.with_ledger(lambda ledger: ledger.skip(missing, reason, {}))
            self._member.record([placed], now_ms=now_ms, notes=notes | {_RESET: str(now_ms)})

        self._member.together(work)
        self.reset_ms = now_ms
        log.warning("source was reset device=%s form=%s at=%s: losses before it are unknown", self._member.name, record.form, after.at)

    def _mark_of(self, form: str) -> Callable[[int, int], str | None]:
        return lambda generation, number: self._member.with_ledger(lambda ledger: ledger.mark_of(form, f"{generation}/{number}"))


def _note(form: str) -> str:
    return f"numbers.{form}"


def _dump(numbers: Numbers) -> str:
    return json.dumps(dataclasses.asdict(numbers))


def _parse(note: str | None) -> Numbers:
    if note is None:
        return Numbers()
    fields: dict[str, Any] = json.loads(note)
    return Numbers(**fields | {"holes": tuple(Hole(**hole) for hole in fields["holes"])})
