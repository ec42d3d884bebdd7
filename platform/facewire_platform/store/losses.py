"""Lost events (gaps) and quarantine. Both are rare, so the queries need not be compiled once."""

import hashlib
from collections.abc import Sequence
from typing import Any, Final

import peewee

from facewire_platform.ingest import Decision, Decisive, Loss, Range
from facewire_platform.store.group import Stream
from facewire_platform.store.schema import ChangedRow, ContinuedRow, GapRow, QuarantineRow, RejectedRow

#: Quarantine keeps at most so many entries, and so many bytes of each.
MOST_QUARANTINED: Final = 10_000
MOST_RAW_BYTES: Final = 64 * 1024
#: If there are more entries, so many are deleted at once: a search costs as much as 100 inserts.
ROOM: Final = 500
#: Rows in one INSERT.
ROWS_AT_ONCE: Final = 1_000


class Losses:
    """Writes losses, inside the transaction of the store."""

    def __init__(self, database: Any) -> None:
        self._db = database

    def change(self, stream: int, events: Sequence[tuple[int, int]]) -> None:
        """Note events (seq, timestamp), at or below the watermark, that are new or gone."""
        for start in range(0, len(events), ROWS_AT_ONCE):
            some = [{"stream": stream, "seq": seq, "timestamp": at} for seq, at in events[start:][:ROWS_AT_ONCE]]
            self._run(ChangedRow.insert_many(some))

    def add(self, stream: Stream, count: int, late: tuple[int, ...]) -> None:
        """Count events that are stored now.

        Args:
            stream: theirs.
            count: how many.
            late: the seqs of those at or below the watermark. They leave the gaps and the
                quarantine. A seq that was in neither had been deleted by retention.
        """
        stream.stored += count - len(late)
        if stream.gaps or stream.quarantined or stream.continued:
            for seq in late:
                gaps, quarantined, continued = self.cut(stream.id, Range(seq, seq))
                self._run(QuarantineRow.delete().where((QuarantineRow.stream == stream.id) & (QuarantineRow.seq == seq)))
                stream.stored += gaps + quarantined + continued
                stream.gaps -= gaps
                stream.quarantined -= quarantined
                stream.continued -= continued

    def cut(self, stream: int, span: Range) -> tuple[int, int, int]:
        """Cut a span out of a stream's ranges; returns its gaps, rejected and continued seqs."""
        gaps = self._cut_ranges(GapRow, stream, span)
        in_span = (RejectedRow.stream == stream) & RejectedRow.seq.between(*span)
        return gaps, self._run(RejectedRow.delete().where(in_span)), self._cut_ranges(ContinuedRow, stream, span)

    def _cut_ranges(self, table: Any, stream: int, span: Range) -> int:
        before = table.select(peewee.fn.MAX(table.first)).where((table.stream == stream) & (table.first <= span.first))
        start = peewee.fn.COALESCE(before, span.first)
        overlapping = (table.stream == stream) & (table.first >= start) & (table.first <= span.last) & (table.last >= span.first)
        count = 0
        for row in list(self._run(table.select().where(overlapping).dicts())):
            self._run(table.delete().where((table.stream == stream) & (table.first == row["first"])))
            parts = (Range(row["first"], span.first - 1), Range(span.last + 1, row["last"]))
            rest = [row | part._asdict() for part in parts if part.size > 0]
            if rest:
                self._run(table.insert_many(rest))
            count += min(row["last"], span.last) - max(row["first"], span.first) + 1
        return count

    def continue_elsewhere(self, stream: int, spans: Sequence[Range]) -> None:
        """Note that seqs of a stream belong to another stream now."""
        for span in spans:
            joined = (ContinuedRow.stream == stream) & (ContinuedRow.last == span.first - 1)
            if not self._run(ContinuedRow.update(last=span.last).where(joined)):
                self._run(ContinuedRow.insert(stream=stream, first=span.first, last=span.last))

    def declare(self, stream: int, gaps: Sequence[tuple[Range, Loss]], declared_at: int) -> None:
        """Record gaps and why they are lost. `declared_at`: platform clock, ms since 1970 UTC."""
        for start in range(0, len(gaps), ROWS_AT_ONCE):
            some = gaps[start:][:ROWS_AT_ONCE]
            rows = [gap._asdict() | {"stream": stream, "declared_at": declared_at, "reason": reason} for gap, reason in some]
            self._run(GapRow.insert_many(rows))

    def reject(self, device: str, stream: int, decision: Decision[Decisive], now_ms: int) -> None:
        """Quarantine the bad events of a batch, and count those that the watermark passes."""
        topic = f"{device}/history"
        self._keep([_entry(topic, bad.reason, bad.raw, now_ms, stream, bad.seq) for bad in decision.rejected])
        if decision.quarantined:
            self._run(RejectedRow.insert_many([{"stream": stream, "seq": seq} for seq in decision.quarantined]))

    def quarantine(self, topic: str, reason: str, raw: bytes, now_ms: int) -> None:
        """Keep an unreadable message for a human; one that comes again is only counted."""
        self._keep([_entry(topic, reason, raw, now_ms)])

    def _keep(self, entries: Sequence[dict[str, Any]]) -> None:
        found: dict[bytes, dict[str, Any]] = {}
        for entry in entries:
            found.setdefault(entry["digest"], entry | {"times": 0})["times"] += 1
        if found:
            again = {"last_at": peewee.EXCLUDED.last_at, "times": QuarantineRow.times + peewee.EXCLUDED.times}
            insert = QuarantineRow.insert_many(list(found.values()))
            self._run(insert.on_conflict(conflict_target=[QuarantineRow.digest], update=again))
            self._make_room()

    def _make_room(self) -> None:
        """Delete the oldest entries of the device with most: a flood pushes out only its own."""
        while (over := self._run(QuarantineRow.select(peewee.fn.COUNT(QuarantineRow.id)).tuples())[0][0] - MOST_QUARANTINED) > 0:
            rows = self._run(QuarantineRow.select(QuarantineRow.id, QuarantineRow.topic).order_by(QuarantineRow.id).tuples())
            by_device: dict[str, list[int]] = {}
            for number, topic in rows:
                by_device.setdefault(topic.rpartition("/")[0].rpartition("/")[2], []).append(number)
            most = max(by_device.values(), key=len)
            self._run(QuarantineRow.delete().where(QuarantineRow.id.in_(most[: max(over, min(ROOM, len(most) // 2))][:ROOM])))

    def _run(self, query: Any) -> Any:
        return query.bind(self._db).execute()


def _entry(topic: str, reason: str, raw: bytes, now_ms: int, stream: int | None = None, seq: int | None = None) -> dict[str, Any]:
    return {
        "digest": hashlib.sha256(repr((topic, stream, seq)).encode() + raw).digest(),
        "topic": topic,
        "reason": reason,
        "payload": raw[:MOST_RAW_BYTES],
        "size_bytes": len(raw),
        "first_at": now_ms,
        "last_at": now_ms,
        "stream": stream,
        "seq": seq,
    }
