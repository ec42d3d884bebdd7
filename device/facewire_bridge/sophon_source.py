"""One SophonAI box, on its member's thread: its posts, messages and answers become records.

A box cannot say which events it has forgotten, so its class of proof rests on the event API:
`reconciled` says until when the box's count of events and ours agreed.
"""

import logging
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any, Final

from facewire.proof import ProofClass
from facewire_bridge import sophon
from facewire_bridge.family import Post
from facewire_bridge.member import Member, Placed
from facewire_bridge.push_source import raw_of
from facewire_bridge.record import Poison, Record
from facewire_bridge.settings import SophonDevice

log = logging.getLogger(__name__)

_KINDS: Final = frozenset({"realtime", "history", "status"})
_CURSOR: Final = "sophon.cursor"
_RECONCILED: Final = "sophon.reconciled"
_UNRECONCILED: Final = "sophon.unreconciled"


class SophonSource:
    """One box.

    Attributes:
        device: its settings.
        member: the member that it becomes.
        status: its last report about itself; empty without one.
    """

    def __init__(self, device: SophonDevice, member: Member) -> None:
        self.device, self.member = device, member
        self.status: dict[str, object] = {}
        self._delays: deque[int] = deque(maxlen=50)
        self._reconciled_ms: int | None = None
        self._unexplained = 0
        member.agent.describe_source = self.describe

    @property
    def offset_ms(self) -> int | None:
        """How far its clock is ahead of ours at least, by realtime events; None without any."""
        return -min(tuple(self._delays)) if self._delays else None

    def describe(self) -> dict[str, Any]:
        """The fields of its status about its proof. Any thread may ask."""
        about: dict[str, Any] = {"source_offset": self.offset_ms, "unexplained": self._unexplained}
        if not self.device.api:
            return about | {"proof": ProofClass.BEST_EFFORT}
        return about | {"proof": ProofClass.RECONCILED, "proof_at": self._reconciled_ms}

    @property
    def path(self) -> tuple[str, str]:
        return "sophon", self.device.id

    @property
    def secret(self) -> str:
        return self.device.secret

    @property
    def kinds(self) -> frozenset[str]:
        return _KINDS

    @property
    def answer(self) -> tuple[bytes, str]:
        return sophon.STORED, "application/json"

    def receive(self, post: Post, *, now_ms: int) -> None:
        """Receive a post or a message of the box. On return it is durable. Raises `StoreError`."""
        try:
            body = sophon.read_body(post.content_type, post.body) if post.form is None else sophon.read_form(post.form)
        except ValueError as exc:
            if post.kind != "status":
                self.member.record([Placed(Poison(post.kind, "", str(exc)), "", post.body)], now_ms=now_ms)
            return
        if post.kind == "status":
            self.status = body if isinstance(body, dict) else {}
            return
        records = sophon.read_push(post.kind, body)
        self._record(list(zip(records, body if isinstance(body, list) else [body], strict=True)), now_ms)
        if post.kind == "realtime":
            self._delays.extend(now_ms - record.event["timestamp"] for record in records if isinstance(record, Record))

    def ask(self, kind: str, query: Mapping[str, str]) -> dict[str, Any] | None:
        """The answer to a login, if the settings say where to post to."""
        device = self.device
        if kind != "login" or not device.login:
            return None
        log.info("box logs in device=%s dev_sno=%s", self.member.name, ascii(query.get("dev_sno", ""))[:80])
        base = f"{device.login}/sophon/{device.id}" + (f"/{device.secret}" if device.secret else "")
        return sophon.login_answer(device.version, f"{base}/history", f"{base}/status", device.rabbitmq)

    def queried(self, answer: object, *, now_ms: int) -> tuple[set[str], int, int | None]:
        """Record an answer of the event API; return keys, the range's count, the newest time.

        Raises:
            StoreError: as `receive`.
            ValueError: it is no such answer.
        """
        found, total = sophon.read_events(answer)
        self._record(found, now_ms)
        times = [record.event["timestamp"] for record, _ in found if isinstance(record, Record)]
        return {_key(record, row) for record, row in found}, total, max(times, default=None)

    def cursor(self) -> int | None:
        """The newest event's time at the last agreement: box clock, ms since 1970 UTC."""
        note, reconciled = self.member.with_ledger(lambda ledger: (ledger.note(_CURSOR), ledger.note(_RECONCILED)))
        self._reconciled_ms = None if reconciled is None else int(reconciled)
        return None if note is None else int(note)

    def agreed(self, cursor_ms: int, now_ms: int) -> None:
        """Note that the box's count and ours agreed, for all events up to now."""
        notes = {_CURSOR: str(cursor_ms), _RECONCILED: str(now_ms), _UNRECONCILED: ""}
        self.member.with_ledger(lambda ledger: ledger.write_notes(notes))
        self._reconciled_ms, self._unexplained = now_ms, 0

    def disagreed(self, counted: int, held: int) -> None:
        """Note that the counts do not agree, however often we ask."""
        self._unexplained = abs(counted - held)
        self.member.with_ledger(lambda ledger: ledger.write_notes({_UNRECONCILED: f"the box counts {counted}, we hold {held}"}))

    def _record(self, found: Sequence[tuple[Record | Poison, object]], now_ms: int) -> None:
        placed = [Placed(record, record.key, raw_of(item)) for record, item in found]
        if placed:
            self.member.record(placed, now_ms=now_ms)


def _key(record: Record | Poison, row: object) -> str:
    return record.key or raw_of(row).decode()
