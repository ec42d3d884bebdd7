"""One terminal of mqtt/face, on its member's thread: records in, answers and requests out.

Rec, Snap ──▶ mqtt_face (reads) ──▶ numbering (places) ──▶ member (one commit) ──▶ PushAck
heartbeat, Online ──▶ clock offset, Online-Ack
holes ──▶ pulling ──▶ ManualPush…, or named as lost
"""

import dataclasses
import logging
import statistics
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Final

from facewire.proof import ProofClass
from facewire_bridge import mqtt_face
from facewire_bridge.clock import read_local, write_local
from facewire_bridge.member import Member
from facewire_bridge.mqtt_face import Presence, Source
from facewire_bridge.placing import Placing
from facewire_bridge.pulling import MOST_PULLS, Pull, Puller
from facewire_bridge.record import Poison, Record
from facewire_bridge.settings import FaceDevice

log = logging.getLogger(__name__)

#: A clock that is off by less counts as right, because sources write whole seconds, ms.
CLOCK_TOLERANCE: Final = 3_000
#: How often we ask a source with resume off for records that nobody has missed yet, s.
SWEEP_EVERY: Final = 3_600.0


class FaceSource:
    """One terminal.

    Args:
        device: its settings.
        member: the member that it becomes.
        send: publishes to the terminal's command topic.
        pace: factor of the waits before pulls.
    """

    def __init__(self, device: FaceDevice, member: Member, send: Callable[[bytes], None], pace: float = 1.0) -> None:
        self.device, self.member = device, member
        self._send = send
        self._source = Source(device.zone, device.keep)
        self._puller = Puller(pace)
        self._placing = Placing(member, ("rec", "snap"))
        self._offsets: deque[int] = deque(maxlen=5)
        self._heard_at = float("-inf")
        self._sweep_at = float("-inf")
        self._message = 0
        self._called = device.id
        member.agent.describe_source = self.describe

    @property
    def offset_ms(self) -> int | None:
        """How far its clock is ahead of ours, by its heartbeats; None without any."""
        return round(statistics.median(tuple(self._offsets))) if self._offsets else None

    def describe(self) -> dict[str, Any]:
        """The fields of its status about its proof. Any thread may ask."""
        return {
            "proof": ProofClass.PROVEN,
            "proof_at": self._placing.reset_ms,
            "unexplained": self._placing.missing,
            "source_offset": self.offset_ms,
        }

    def record(self, messages: Sequence[tuple[str, bytes]], *, now: float, now_ms: int) -> None:
        """Record messages of record topics in one commit. The terminal keeps those without an ack.

        Args:
            messages: the last level of each one's topic, and its payload.
            now: monotonic seconds.
            now_ms: our clock, ms since 1970 UTC.

        Raises:
            StoreError: none is recorded, and none acked.
        """
        self._heard_at = now
        acks = self.member.together(lambda: [self._record_one(kind, payload, now, now_ms) for kind, payload in messages])
        for form, number in acks:
            if number is not None:
                self._send(mqtt_face.push_ack(form, number, self._next_message()))

    def _record_one(self, kind: str, payload: bytes, now: float, now_ms: int) -> tuple[str, int | None]:
        form = "rec" if kind == "Rec" else "snap"
        source_ms = now_ms + (self.offset_ms or 0)
        made_before = self._placing.numbers()[form].made_before
        record = mqtt_face.read_record(kind, payload, self._source, made_before=made_before, now_ms=source_ms)
        late = isinstance(record, Poison) or mqtt_face.was_asked_for(record.event)
        if late:
            self._puller.received(now, form)
        if record.number is None:
            self.member.keep_poison(payload, record.reason if isinstance(record, Poison) else "has no number")
        else:
            self._placing.record(self._corrected(record, late=late), payload, late=late, now_ms=now_ms)
        return form, record.number

    def hear(self, presence: Presence, *, now: float, now_ms: int) -> None:
        """Note an `Online`, an `Offline` or a heartbeat."""
        self._heard_at = now
        self._called = presence.called or self.device.id
        if presence.time:
            self._measure(presence.time, now_ms)
        if presence.operator == "Online":
            log.info("source online device=%s clock_offset_ms=%s", self.member.name, self.offset_ms)
            self._send(mqtt_face.online_ack(self._called, self._next_message()))
            self._sweep_at = now

    def answered(self, payload: bytes, *, now: float) -> None:
        """Note a message of its answer topic."""
        self._heard_at = now
        if answer := mqtt_face.read_answer(payload):
            self._puller.answered(now, answer.message_id, answer.count)

    def connected(self, now: float) -> None:
        """Note that we hear it again: if it repeats no records, we ask for those that we missed."""
        self._sweep_at = now

    def tick(self, *, now: float, now_ms: int) -> None:
        """End and send pulls as they are due; called about twice a second. Raises `StoreError`."""
        if ended := self._puller.ended(now, self._heard_at):
            done, counts = ended
            if done.hole is not None and counts:
                self._placing.pulled(done.form, done.hole, MOST_PULLS)
        if now >= self._sweep_at and (self.device.since or not self.device.resume):
            self._sweep_at = now + SWEEP_EVERY
            self._want_sweep(now_ms)
        if (pull := self._puller.poll(now, self._placing.numbers())) and self._heard_at > float("-inf"):
            message_id = self._next_message()
            self._send(mqtt_face.pull(pull.form, self._called, pull.first, pull.last, message_id))
            self._puller.sent(now, pull, message_id, self._heard_at)
            log.info("pulled device=%s form=%s first=%s last=%s", self.member.name, pull.form, pull.first, pull.last)

    def _want_sweep(self, now_ms: int) -> None:
        until = write_local(now_ms + (self.offset_ms or 0), self.device.zone)
        for form, numbers in self._placing.numbers().items():
            first = self.device.since if not numbers.at else "" if self.device.resume else numbers.at
            if first:
                self._puller.want(Pull(form, min(first, until), max(first, until)))

    def _corrected(self, record: Record | Poison, *, late: bool) -> Record | Poison:
        """Add the time by our clock, if we know that the source's clock is off now."""
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

    def _next_message(self) -> str:
        self._message += 1
        return f"facewire-{self._message}"
