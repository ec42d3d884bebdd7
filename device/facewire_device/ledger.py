"""The ledger of a store whose events come from elsewhere: which foreign records it has.

    ledger   place | form | key | mark | epoch | seq | at     one row for each foreign record
    shared   shared | form | place                            keys that copies in other forms share
    note     name | value                                     a bridge's notes about its records

A record and its row are one transaction, so a record that is acked to its source is in both or in
neither. The ledger outlives the ring, 20 times its capacity, and a fork: it has the epoch and the
seq under which a record was recorded.

A source may report one event in several forms that share no key. The n-th event of a form is a copy
if another form has reported n events with the same shared key already.
"""

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from facewire.events import Event
from facewire_device.schema import LEDGER_TABLES
from facewire_device.store import Store

#: How many times the ring's capacity the ledger holds.
TIMES_CAPACITY: Final = 20
#: Rows that are too old are deleted this many at a time.
_TRIM_EVERY: Final = 256


@dataclass(frozen=True, slots=True)
class Entry:
    """A foreign record, as it goes into the ledger."""

    form: str
    #: Its key within the form.
    key: str
    #: None if the record can be no event: then a seq is skipped for it.
    event: Event | None
    #: Why a seq is skipped.
    reason: str = ""
    #: Whether the event may become a match.
    realtime: bool = True
    #: Distinguishes it from another record with its key (`mark_of`).
    mark: str = ""
    shared: tuple[str, ...] = ()


class Outcome(enum.Enum):
    """The outcome for a foreign record. With any of them it may be acked to its source."""

    #: It is durable here now.
    RECORDED = "recorded"
    #: It was recorded before, under this key or in another form.
    REPEATED = "repeated"
    #: It is older than the ledger remembers: it may have been recorded, so it is not recorded now.
    TOO_OLD = "too old"


class Ledger:
    """The ledger of an open store, on the store's thread.

    Raises:
        StoreError: here and in every method, if the store cannot do it.
    """

    def __init__(self, store: Store) -> None:
        self.store = store
        self._untrimmed = _TRIM_EVERY
        with store.transaction():
            for statement in LEDGER_TABLES:
                store.execute(statement)
            #: No forgotten record was made after this. Only the holder of the ledger moves it.
            self._horizon_ms = int(self.note(_HORIZON) or -(2**63))

    def mark_of(self, form: str, key: str) -> str | None:
        """The mark that a record has in the ledger; None if it is not there."""
        found = self.store.query("SELECT mark FROM ledger WHERE form = ? AND key = ?", form, key)
        return str(found[0][0]) if found else None

    def note(self, name: str) -> str | None:
        """The note under a name, as the last record left it."""
        found = self.store.query("SELECT value FROM note WHERE name = ?", name)
        return str(found[0][0]) if found else None

    def write_notes(self, notes: Mapping[str, str]) -> None:
        """Note without a record."""
        with self.store.transaction():
            self._note(notes)

    def skip(self, count: int, reason: str, notes: Mapping[str, str]) -> None:
        """Name `count` foreign records as lost, and note that, in one commit."""
        with self.store.transaction():
            self.store.skip(count, reason)
            self._note(notes)

    def record(self, entries: Sequence[Entry], *, now_ms: int, notes: Mapping[str, str] | None = None) -> list[Outcome]:
        """Record foreign records in one commit: on return all are durable, or none is.

        Args:
            entries: in the order in which they came.
            now_ms: the bridge's clock, ms since 1970 UTC.
            notes: notes to write with them, by name.

        Returns:
            The outcome for each.
        """
        with self.store.transaction():
            outcomes = [self._record(entry, now_ms) for entry in entries]
            self._note(notes or {})
            horizon_ms = self._trim()
        self._horizon_ms = horizon_ms
        return outcomes

    def _record(self, entry: Entry, now_ms: int) -> Outcome:
        at_ms = now_ms if entry.event is None else min(entry.event.timestamp, now_ms)
        is_copy = any(self._is_copy(entry.form, shared) for shared in entry.shared)
        if at_ms <= self._horizon_ms and not is_copy:
            return Outcome.TOO_OLD if self.mark_of(entry.form, entry.key) is None else Outcome.REPEATED
        ring = self.store.ring()
        if not self._write(entry, ring.epoch, 0 if is_copy else ring.head + 1, at_ms) or is_copy:
            return Outcome.REPEATED
        if entry.event is None:
            self.store.skip(1, entry.reason)
        else:
            self.store.append([entry.event], realtime=lambda _: entry.realtime)
        return Outcome.RECORDED

    def _write(self, entry: Entry, epoch: str, seq: int, at_ms: int) -> bool:
        """Write the row of a record, unless there is one."""
        if not self.store.execute(_INSERT, entry.form, entry.key, entry.mark, epoch, seq, at_ms):
            return False
        self._untrimmed += 1
        if entry.shared:
            place = self.store.query("SELECT last_insert_rowid()")[0][0]
            for shared in entry.shared:
                self.store.execute("INSERT INTO shared (shared, form, place) VALUES (?, ?, ?)", shared, entry.form, place)
        return True

    def _is_copy(self, form: str, shared: str) -> bool:
        reported: dict[str, int] = dict(self.store.query("SELECT form, count(*) FROM shared WHERE shared = ? GROUP BY form", shared))
        return max(reported.values(), default=0) > reported.get(form, 0)

    def _note(self, notes: Mapping[str, str]) -> None:
        for name, value in notes.items():
            self.store.execute("INSERT OR REPLACE INTO note (name, value) VALUES (?, ?)", name, value)

    def _trim(self) -> int:
        """Forget rows over the limit, if they are enough to be worth it; return the horizon."""
        if self._untrimmed < _TRIM_EVERY:
            return self._horizon_ms
        self._untrimmed = 0
        last, first = self.store.query("SELECT (SELECT max(place) FROM ledger), (SELECT min(place) FROM ledger)")[0]
        least = (last or 0) - TIMES_CAPACITY * self.store.capacity + 1
        if first is None or first >= least:
            return self._horizon_ms
        newest = self.store.query("SELECT max(at) FROM ledger WHERE place < ?", least)[0][0]
        horizon_ms: int = max(newest, self._horizon_ms)
        self._note({_HORIZON: str(horizon_ms)})
        self.store.execute("DELETE FROM ledger WHERE place < ?", least)
        self.store.execute("DELETE FROM shared WHERE place < ?", least)
        return horizon_ms


_HORIZON: Final = "ledger.horizon"
_INSERT: Final = "INSERT INTO ledger (form, key, mark, epoch, seq, at) VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING"
