"""One terminal of the mqtt/face family: its records in, answers and requests out. On its member's lane.

Rec, Snap ──▶ mqtt_face (reads) ──▶ numbering (places) ──▶ member (one commit) ──▶ PushAck
heartbeat, Online ──▶ clock offset, Online-Ack        holes ──▶ pulling ──▶ ManualPush…, or named as lost
"""

import dataclasses
import json
import logging
import statistics
from collections import deque
from collections.abc import Callable
from typing import Any, Final, Literal

from facewire.proof import Proof
from facewire_bridge import mqtt_face
from facewire_bridge.clock import read_local, write_local
from facewire_bridge.member import Member, Placed
from facewire_bridge.mqtt_face import Presence, Source
from facewire_bridge.numbering import Hole, Numbers, Seen
from facewire_bridge.pulling import MOST_PULLS, Pull, Puller
from facewire_bridge.record import Poison, Record
from facewire_bridge.settings import FaceDevice
from facewire_device.ledger import Ledger

log = logging.getLogger(__name__)

#: A clock that is off by less is taken to be right: a source's times have whole seconds, ms.
CLOCK_TOLERANCE: Final = 3_000
#: A source with resume off is asked this often for what nobody missed yet, s.
SWEEP_EVERY: Final = 3_600.0

_RESET: Final = "numbers.reset"

Form = Literal["rec", "snap"]
_FORMS: Final[tuple[Form, ...]] = ("rec", "snap")


class FaceSource:
    """One terminal.

    Args:
        device: its settings.
        member: what it becomes.
        send: publishes to the terminal's command topic.
        pace: what the waits before pulls are multiplied by.
    """

    def __init__(self, device: FaceDevice, member: Member, send: Callable[[bytes], None], pace: float = 1.0) -> None:
        self.device, self.member = device, member
        self._send = send
        self._source = Source(device.zone, device.keep)
        self._puller = Puller(pace)
        self._numbers: dict[str, Numbers] = {}
        self._loaded_from: Ledger | None = None
        self._offsets: deque[int] = deque(maxlen=5)
        self._heard_at = float("-inf")
        self._sweep_at = float("-inf")
        self._message = 0
        self._called = device.id
        self._reset_ms: int | None = None
        self.resets = 0
        member.agent.describe_source = self.describe

    @property
    def offset_ms(self) -> int | None:
        """How far its clock is ahead of ours, as measured at its heartbeats; None if it was not."""
        return round(statistics.median(tuple(self._offsets))) if self._offsets else None

    def describe(self) -> dict[str, Any]:
        """What its status says of its proof; from any thread."""
        return {"proof": Proof.PROVEN, "proof_at": self._reset_ms, "unexplained": self.missing, "source_offset": self.offset_ms}

    @property
    def missing(self) -> int:
        """Numbers that are unexplained so far."""
        return sum(numbers.missing for numbers in tuple(self._numbers.values()))

    def take(self, kind: str, payload: bytes, *, now: float, now_ms: int) -> None:
        """A message of a record topic. What is not acked, the terminal still has. Raises `StoreError`."""
        self._heard_at = now
        form = "rec" if kind == "Rec" else "snap"
        numbers = self._load()[form]
        source_ms = now_ms + (self.offset_ms or 0)
        record = mqtt_face.read_record(kind, payload, self._source, after_ms=numbers.at_ms or None, now_ms=source_ms)
        if isinstance(record, Poison) or mqtt_face.was_asked_for(record.event):
            self._puller.received(now, form)
        if record.number is None:
            self.member.keep_poison(payload, record.reason if isinstance(record, Poison) else "has no number")
            return
        late = isinstance(record, Poison) or mqtt_face.was_asked_for(record.event)
        at_ms, at = (record.event["timestamp"], record.event["source_time"]) if isinstance(record, Record) else (numbers.at_ms, numbers.at)
        seen, after = numbers.see(record.number, at_ms, at, record.mark, late=late, mark_of=self._mark_of(form))
        if not seen.repeated:
            self._record(self._corrected(record, late=late), seen, after, payload, now_ms)
        elif after != numbers:
            self.member.with_ledger(lambda ledger: ledger.write_notes({_note(form): _dump(after)}))
        self._numbers[form] = after
        self._send(mqtt_face.push_ack(form, record.number, self._next_message()))

    def hear(self, presence: Presence, *, now: float, now_ms: int) -> None:
        """`Online`, `Offline` or a heartbeat."""
        self._heard_at = now
        self._called = presence.called or self.device.id
        if presence.time:
            self._measure(presence.time, now_ms)
        if presence.operator == "Online":
            log.info("source online device=%s clock_offset_ms=%s", self.member.name, self.offset_ms)
            self._send(mqtt_face.online_ack(self._called, self._next_message()))
            self._sweep_at = now

    def answered(self, payload: bytes, *, now: float) -> None:
        """A message of its answer topic."""
        self._heard_at = now
        if answer := mqtt_face.read_answer(payload):
            self._puller.answered(now, answer.message_id, answer.count)

    def connected(self, now: float) -> None:
        """We can hear it again: what it pushed meanwhile has to be asked for, unless it repeats that."""
        self._sweep_at = now

    def tick(self, *, now: float, now_ms: int) -> None:
        """Called about twice a second. Raises `StoreError`."""
        numbers = self._load()
        if ended := self._puller.ended(now, self._heard_at):
            self._end_pull(*ended)
        if not self.device.resume and now >= self._sweep_at:
            self._sweep_at = now + SWEEP_EVERY
            self._want_sweep(now_ms)
        if (pull := self._puller.poll(now, numbers)) and self._heard_at > float("-inf"):
            message_id = self._next_message()
            self._send(mqtt_face.pull(pull.form, self._called, pull.first, pull.last, message_id))
            self._puller.sent(now, pull, message_id, self._heard_at)
            log.info("pulled device=%s form=%s first=%s last=%s", self.member.name, pull.form, pull.first, pull.last)

    def _record(self, record: Record | Poison, seen: Seen, after: Numbers, payload: bytes, now_ms: int) -> None:
        key = f"{seen.generation}/{record.number}"
        notes = {_note(record.form): _dump(after)} | ({_RESET: str(now_ms)} if seen.reset else {})

        def use(ledger: Ledger) -> None:
            with ledger.store.transaction():
                if seen.reset:
                    self._name_before_reset(ledger, record.form)
                self.member.take([Placed(record, key, payload)], now_ms=now_ms, notes=notes)

        if not seen.reset:
            self.member.take([Placed(record, key, payload)], now_ms=now_ms, notes=notes)
            return
        self.member.with_ledger(use)
        self.resets += 1
        self._reset_ms = now_ms
        log.warning("source was reset device=%s form=%s at=%s: losses before it are unknown", self.member.name, record.form, after.at)

    def _name_before_reset(self, ledger: Ledger, form: str) -> None:
        """What was missing cannot be asked for any more."""
        if missing := self._numbers[form].missing:
            ledger.skip(missing, f"{form}: the source was reset before it sent them", {})

    def _end_pull(self, pull: Pull, counts: bool) -> None:
        if pull.hole is None or not counts:
            return
        before = self._numbers[pull.form]
        after = before.pulled(pull.hole)
        lost = [hole for hole in after.holes if hole.pulls >= MOST_PULLS]
        for hole in lost:
            after = after.without(hole)
        if after == before:
            return
        notes = {_note(pull.form): _dump(after)}
        if lost:
            self.member.with_ledger(lambda ledger: ledger.skip(sum(hole.count for hole in lost), _why(pull.form, lost), notes))
            self.member.agent.wake()
        else:
            self.member.with_ledger(lambda ledger: ledger.write_notes(notes))
        self._numbers[pull.form] = after

    def _want_sweep(self, now_ms: int) -> None:
        until = write_local(now_ms + (self.offset_ms or 0), self.device.zone)
        for form, numbers in self._numbers.items():
            if numbers.at:
                self._puller.want(Pull(form, min(numbers.at, until), max(numbers.at, until)))

    def _corrected(self, record: Record | Poison, *, late: bool) -> Record | Poison:
        """With the time as our clock has it, if the source's clock is known to be off now."""
        offset = self.offset_ms
        if isinstance(record, Poison) or late or offset is None or abs(offset) < CLOCK_TOLERANCE:
            return record
        return dataclasses.replace(record, event={**record.event, "corrected_timestamp": record.event["timestamp"] - offset})

    def _measure(self, text: str, now_ms: int) -> None:
        try:
            offset = read_local(text, self.device.zone, now_ms=now_ms + (self.offset_ms or 0)) - now_ms
        except ValueError:
            return
        if self._offsets and abs(offset - self._offsets[-1]) > CLOCK_TOLERANCE:
            log.warning("source clock stepped device=%s offset_ms=%d before_ms=%d", self.member.name, offset, self._offsets[-1])
            self._offsets.clear()
        self._offsets.append(offset)

    def _load(self) -> dict[str, Numbers]:
        ledger = self.member.with_ledger(lambda ledger: ledger)
        if ledger is not self._loaded_from:  # at the start, or after its file was replaced
            self._loaded_from = ledger
            read = {form: self.member.with_ledger(lambda ledger, form=form: ledger.note(_note(form))) for form in _FORMS}  # type: ignore[misc]
            self._numbers = {form: _parse(note) for form, note in read.items()}
            reset = ledger.note(_RESET)
            self._reset_ms = None if reset is None else int(reset)
        return self._numbers

    def _mark_of(self, form: str) -> Callable[[int, int], str | None]:
        return lambda generation, number: self.member.with_ledger(lambda ledger: ledger.mark_of(form, f"{generation}/{number}"))

    def _next_message(self) -> str:
        self._message += 1
        return f"facewire-{self._message}"


def _why(form: str, holes: list[Hole]) -> str:
    ranges = ", ".join(f"{hole.first} to {hole.last}" for hole in holes)
    return f"{form}: the source does not have {ranges}, asked {MOST_PULLS} times"


def _note(form: str) -> str:
    return f"numbers.{form}"


def _dump(numbers: Numbers) -> str:
    return json.dumps(dataclasses.asdict(numbers))


def _parse(note: str | None) -> Numbers:
    if note is None:
        return Numbers()
    fields: dict[str, Any] = json.loads(note)
    return Numbers(**fields | {"holes": tuple(Hole(**hole) for hole in fields["holes"])})
