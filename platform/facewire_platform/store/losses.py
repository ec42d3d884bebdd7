"""Lost events (gaps) and quarantine. Both are rare, so the queries need not be compiled once."""

import hashlib
from collections.abc import Sequence
from typing import Any, Final

import peewee

from facewire_platform.ingest import Decision, Decisive, Range
from facewire_platform.store.schema import ChangedRow, GapRow, QuarantineRow, RejectedRow

#: Quarantine keeps at most so many entries, and so many bytes of each.
MOST_QUARANTINED: Final = 10_000
MOST_RAW_BYTES: Final = 64 * 1024
#: Rows in one INSERT.
ROWS_AT_ONCE: Final = 1_000


class Losses:
    """Writes losses, inside the transaction of the store."""

    def __init__(self, database: Any) -> None:
        self._db = database

    def change(self, stream: int, events: Sequence[tuple[int, int]]) -> None:
        """Note that events (seq, timestamp) at or below the watermark are new: the column files lack them."""
        for start in range(0, len(events), ROWS_AT_ONCE):
            some = [{"stream": stream, "seq": seq, "timestamp": at} for seq, at in events[start:][:ROWS_AT_ONCE]]
            self._run(ChangedRow.insert_many(some))

    def fill(self, stream: int, seqs: tuple[int, ...]) -> tuple[int, int]:
        """Take seqs out of gaps and quarantine, because their events arrived after all.

        Returns:
            How many were in each. A seq that was in neither had been deleted by retention.
        """
        gaps = quarantined = 0
        for seq in seqs:
            before = GapRow.select().where((GapRow.stream == stream) & (GapRow.first <= seq)).order_by(GapRow.first.desc()).limit(1)
            gap = next(iter(self._run(before)), None)
            if gap is not None and seq <= gap.last:
                gaps += 1
                self._split_gap(stream, seq, gap)
            quarantined += self._run(RejectedRow.delete().where((RejectedRow.stream == stream) & (RejectedRow.seq == seq)))
            self._run(QuarantineRow.delete().where((QuarantineRow.stream == stream) & (QuarantineRow.seq == seq)))
        return gaps, quarantined

    def _split_gap(self, stream: int, seq: int, gap: GapRow) -> None:
        self._run(GapRow.delete().where((GapRow.stream == stream) & (GapRow.first == gap.first)))
        parts = (Range(gap.first, seq - 1), Range(seq + 1, gap.last))
        self.declare(stream, [part for part in parts if part.size], gap.declared_at)

    def declare(self, stream: int, gaps: Sequence[Range], declared_at: int) -> None:
        """Record gaps. `declared_at`: platform clock, ms since 1970 UTC."""
        for start in range(0, len(gaps), ROWS_AT_ONCE):
            rows = [
                {"stream": stream, "first": gap.first, "last": gap.last, "declared_at": declared_at} for gap in gaps[start:][:ROWS_AT_ONCE]
            ]
            self._run(GapRow.insert_many(rows))

    def reject(self, device: str, stream: int, decision: Decision[Decisive], now_ms: int) -> None:
        """Quarantine the bad events of a batch, and count those that the watermark passes."""
        for bad in decision.rejected:
            self.quarantine(f"{device}/history", bad.reason, bad.raw, now_ms, stream, bad.seq)
        for seq in decision.quarantined:
            self._run(RejectedRow.insert(stream=stream, seq=seq))

    def quarantine(self, topic: str, reason: str, raw: bytes, now_ms: int, stream: int | None = None, seq: int | None = None) -> None:
        """Keep an unreadable message for a human; one that comes again is only counted."""
        digest = hashlib.sha256(repr((topic, stream, seq)).encode() + raw).digest()
        entry = {
            "digest": digest,
            "topic": topic,
            "reason": reason,
            "payload": raw[:MOST_RAW_BYTES],
            "size_bytes": len(raw),
            "first_at": now_ms,
            "last_at": now_ms,
            "stream": stream,
            "seq": seq,
        }
        again = {"last_at": now_ms, "times": QuarantineRow.times + 1}
        self._run(QuarantineRow.insert(entry).on_conflict(conflict_target=[QuarantineRow.digest], update=again))
        oldest = QuarantineRow.select(peewee.fn.MAX(QuarantineRow.id) - MOST_QUARANTINED)
        self._run(QuarantineRow.delete().where(QuarantineRow.id <= oldest))

    def _run(self, query: Any) -> Any:
        return query.bind(self._db).execute()
