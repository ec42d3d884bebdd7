"""Forgets a device, or one of its epochs: afterwards no table, report or column file knows it.

    pass 1   delete its events, in small transactions; column files follow
    pass 2   if no events arrived meanwhile, delete its streams and all rows about them in one
             transaction

If it is killed, start it again. A device that still has its credential comes back with its next
message, and sends what it holds once more.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from facewire_platform.history.retention import CHUNK, Retention
from facewire_platform.store.drivers import store_errors
from facewire_platform.store.schema import TABLES, DeviceRow, EventRow, QuarantineRow, StreamRow

#: The columns by which a table is about a stream.
_OF_STREAM: Final = ("stream", "older", "newer")
#: Values in one statement.
_AT_ONCE: Final = 500


@dataclass(frozen=True, slots=True)
class Forgotten:
    """The progress; with `dry_run`, what would be forgotten."""

    epochs: int = 0
    events: int = 0
    #: Entries of the quarantine.
    quarantined: int = 0


class Forgetting(Retention):
    """A database open for it. The arguments are those of `Retention`."""

    def device(self, device: str, epoch: str | None = None) -> Iterator[Forgotten]:
        """Forget a device, or only one of its epochs.

        Yields:
            The progress after each transaction; at least once.
        """
        so_far = Forgotten()
        if not self._dry_run:
            self._dialect.start_erasing(self._db)
        with self._columns():
            for stream in self._streams(device, epoch):
                for events in self._delete_events_of(stream):
                    so_far = replace(so_far, events=so_far.events + events)
                    yield so_far
        done = False
        while not done:  # once, unless the device is busy
            with self._columns():
                more, done = self._finish(device, epoch)
            so_far = Forgotten(so_far.epochs + more.epochs, so_far.events + more.events, so_far.quarantined + more.quarantined)
            yield so_far
        if not self._dry_run:
            with store_errors(self._location):
                self._dialect.finish_erasing(self._db)

    def _streams(self, device: str, epoch: str | None) -> list[int]:
        query = StreamRow.select(StreamRow.id).where(StreamRow.device == device).order_by(StreamRow.id)
        return [stream for (stream,) in self._rows((query if epoch is None else query.where(StreamRow.epoch == epoch)).tuples())]

    def _delete_events_of(self, stream: int) -> Iterator[int]:
        after = 0
        while found := self._events_after(stream, after):
            yield self._delete(found)
            after = found[-1][1]

    def _events_after(self, stream: int, after: int) -> list[tuple[int, int, int]]:
        query = EventRow.select(EventRow.stream, EventRow.seq, EventRow.timestamp)
        query = query.where((EventRow.stream == stream) & (EventRow.seq > after)).order_by(EventRow.seq).limit(CHUNK)
        return self._rows(query.tuples())

    def _finish(self, device: str, epoch: str | None) -> tuple[Forgotten, bool]:
        """Forget all but the events, in one transaction; returns also whether that is all."""
        streams, left = self._streams(device, epoch), 0
        with self._transaction():
            if not self._dry_run:
                for stream in streams:
                    self._run(StreamRow.update(stored=StreamRow.stored).where(StreamRow.id == stream))  # locks it
                    if left < CHUNK:
                        left += self._delete_rows(events) if (events := self._events_after(stream, 0)) else 0
                if left or self._streams(device, epoch) != streams:
                    return Forgotten(events=left), False
            quarantined = self._quarantined(device, streams, whole=epoch is None)
            if not self._dry_run:
                self._delete_by(QuarantineRow.id, quarantined)
                for table in TABLES:
                    for column in (getattr(table, name, None) for name in _OF_STREAM):
                        if column is not None:
                            self._delete_by(column, streams)
                self._delete_by(StreamRow.id, streams)
                self._forget_state(device, epoch)
        return Forgotten(len(streams), 0, len(quarantined)), True

    def _quarantined(self, device: str, streams: Sequence[int], *, whole: bool) -> list[int]:
        """Entries that are about these streams, or with `whole` came on a topic of the device."""
        of_streams = set(streams)
        query = QuarantineRow.select(QuarantineRow.id, QuarantineRow.stream, QuarantineRow.topic)
        return [
            number
            for number, stream, topic in self._rows(query.tuples())
            if stream in of_streams or (whole and topic.split("/")[-2:-1] == [device])
        ]

    def _forget_state(self, device: str, epoch: str | None) -> None:
        of_device = DeviceRow.device == device
        if epoch is None:
            self._run(DeviceRow.delete().where(of_device))
            return
        newest = StreamRow.select(StreamRow.epoch).where(StreamRow.device == device).order_by(StreamRow.id.desc()).limit(1)
        self._run(DeviceRow.update(epoch=newest, status=None).where(of_device & (DeviceRow.epoch == epoch)))

    def _delete_by(self, column: Any, values: Sequence[int]) -> None:
        for start in range(0, len(values), _AT_ONCE):
            self._run(column.model.delete().where(column.in_(values[start : start + _AT_ONCE])))
