"""One foreign device as a facewire device of its own: agent, store, ledger, photographs.

    records that wait ──▶ photographs to their folder ──▶ one commit, ledger too ──▶ foreign acks

One thread works on a member and owns its connection to the store; the agent has a
connection of its own. A record that cannot be an event is poison: we keep it raw, and it takes a
seq that history declares lost. Then it may be acked; otherwise it would block its source.
"""

import contextlib
import hashlib
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, NamedTuple, TypeVar

from facewire.errors import EventError, StoreError
from facewire.events import event_from_source
from facewire.photographs import Photograph, take_out
from facewire_bridge.record import Poison, Record
from facewire_device.agent import Agent
from facewire_device.ledger import Entry, Ledger, Outcome
from facewire_device.photo_folder import PhotoFolder, photos_of
from facewire_device.store_database import ReplacedError

log = logging.getLogger(__name__)

T = TypeVar("T")

#: Bytes of poison that we keep for each device.
_POISON_BYTES: Final = 64 << 20


class Placed(NamedTuple):
    """A record, its key in the ledger, and its bytes as received."""

    record: Record | Poison
    key: str
    raw: bytes


@dataclass
class _Turn:
    """One commit: the files that must be durable before it, and the outcomes of its records."""

    photographs: list[Photograph] = field(default_factory=list)
    poison: list[Photograph] = field(default_factory=list)
    outcomes: list[tuple[Entry, Outcome]] = field(default_factory=list)


class Member:
    """One foreign device.

    Args:
        agent: the agent of the facewire device that it becomes.
        photo_bytes: bytes that its photographs may take.

    Attributes:
        counts: numbers of its records by outcome; `refused` counts commits.
    """

    def __init__(self, agent: Agent, photo_bytes: int) -> None:
        self.agent = agent
        store = agent.settings.store
        self.photos = PhotoFolder(photos_of(store), photo_bytes)
        self.poison = poison_of(store)
        self.counts = {"recorded": 0, "repeated": 0, "too_old": 0, "poison": 0, "refused": 0}
        self._ledger: Ledger | None = None
        self._turn: _Turn | None = None

    @property
    def name(self) -> str:
        return self.agent.settings.device

    @property
    def ledger(self) -> Ledger:
        """The ledger, on this member's thread. Raises `StoreError`."""
        if self._ledger is None:
            store = self.agent.open_store()
            try:
                self._ledger = Ledger(store)
            except BaseException:
                store.close()
                raise
        return self._ledger

    def open(self) -> None:
        """Open the ledger, on this member's thread. If that fails, the first record reports it."""
        with contextlib.suppress(StoreError):
            _ = self.ledger

    def close(self) -> None:
        """Close the store, on this member's thread."""
        ledger, self._ledger = self._ledger, None
        if ledger is not None:
            ledger.store.close()

    def with_ledger(self, use: Callable[[Ledger], T]) -> T:
        """Use the ledger, and again if its file was replaced meanwhile. Raises `StoreError`."""
        try:
            return use(self.ledger)
        except ReplacedError as exc:
            if self._turn is not None:  # then the whole commit begins anew
                raise
            log.warning("store opened anew device=%s error=%s", self.name, exc)
            self.close()
            return use(self.ledger)

    def together(self, work: Callable[[], T]) -> T:
        """Do `work` in one commit: on return, all that it recorded may be acked.

        Raises:
            StoreError: the store or the disk cannot be written to now. Nothing may be acked.
        """
        if self._turn is not None:
            return work()
        try:
            return self.with_ledger(lambda ledger: self._commit(ledger, work))
        except BaseException as exc:
            self.counts["refused"] += isinstance(exc, StoreError)
            # State that was read since may belong to records that were rolled back: read it again.
            self.close()
            raise

    def record(self, placed: Sequence[Placed], *, now_ms: int, notes: Mapping[str, str] | None = None) -> None:
        """Record in one commit, all or none. Raises as `together`."""

        def work() -> None:
            turn = self._turn
            assert turn is not None  # noqa: S101  # `together` began it
            entries = [_entry(one, turn.photographs, turn.poison) for one in placed]
            turn.outcomes += zip(entries, self.ledger.record(entries, now_ms=now_ms, notes=notes), strict=True)

        self.together(work)

    def keep_poison(self, raw: bytes, reason: str) -> None:
        """Keep a message without a number: nobody can ack or name it. Raises `StoreError`."""
        self.poison.keep([_raw(raw)])
        self.counts["poison"] += 1
        log.warning("poison device=%s reason=%s", self.name, reason)

    def _commit(self, ledger: Ledger, work: Callable[[], T]) -> T:
        turn = self._turn = _Turn()
        try:
            with ledger.store.transaction():
                done = work()
                self.photos.keep(turn.photographs)
                self.poison.keep(turn.poison)
        finally:
            self._turn = None
        for entry, outcome in turn.outcomes:
            self._count(entry, outcome)
        if any(outcome is Outcome.RECORDED and entry.event and entry.realtime for entry, outcome in turn.outcomes):
            self.agent.wake()
        return done

    def _count(self, entry: Entry, outcome: Outcome) -> None:
        is_poison = outcome is Outcome.RECORDED and entry.event is None
        self.counts["poison" if is_poison else outcome.name.lower()] += 1
        if is_poison:
            log.warning("poison device=%s form=%s key=%s reason=%s", self.name, entry.form, entry.key, entry.reason)
        elif outcome is Outcome.TOO_OLD:
            log.warning("refused as older than the ledger device=%s form=%s key=%s", self.name, entry.form, entry.key)


def _entry(placed: Placed, photographs: list[Photograph], poison: list[Photograph]) -> Entry:
    record = placed.record
    if isinstance(record, Record):
        fields, found = take_out(record.event)
        try:
            event = event_from_source({**fields, "source_id": f"{record.form}:{placed.key}"})
        except EventError as exc:
            record = Poison(record.form, record.key, str(exc), record.number, record.mark)
        else:
            photographs += found
            return Entry(record.form, placed.key, event, realtime=record.realtime, mark=record.mark, shared=record.shared)
    raw = _raw(placed.raw)
    poison.append(raw)
    key = placed.key or f"sha256:{raw.sha256}"
    return Entry(record.form, key, None, reason=f"poison {record.form} {key}: {record.reason}", mark=record.mark)


def _raw(raw: bytes) -> Photograph:
    return Photograph(hashlib.sha256(raw).hexdigest(), "application/octet-stream", raw)


def poison_of(store: Path) -> PhotoFolder:
    """The folder of poison beside a store."""
    return PhotoFolder(store.with_name(store.name + ".poison"), _POISON_BYTES)


def store_path(folder: Path, name: str) -> Path:
    """The path of a device's store."""
    return folder / f"{name}.db"
