"""Messages that broke the contract: a human inspects them, then retries or drops them.

    event of a batch     entry with stream and seq    retry: it is stored, and counted as stored
                                                      drop: its seq stays counted as quarantined
    any other message    entry without seq            retry: handled as if it arrived now, but
                                                      without an ack

So watermark = stored + gaps + quarantined + continued always holds, even beside a running worker.
"""

from collections.abc import Iterator, Sequence
from contextlib import closing
from typing import Any, Final, Literal, NamedTuple

from facewire import codec
from facewire.errors import DecodeError, ProtocolError, StoreError
from facewire.events import event_from_map
from facewire.messages import Ack, Match, Status, decode
from facewire.topics import Topics
from facewire_platform.history.reader import Row
from facewire_platform.store.database import open_database
from facewire_platform.store.drivers import Location, store_errors
from facewire_platform.store.schema import QuarantineRow, StreamRow
from facewire_platform.store.writer import Message, Store, open_store

#: Entries deleted in one transaction.
DROP_CHUNK: Final = 500

_COLUMNS: Final = tuple(column for column in QuarantineRow._meta.sorted_fields if column.name not in {"digest", "payload"})


class Retried(NamedTuple):
    """The result of one retry: `stored`, `kept` in quarantine, or `dropped` as nothing to store."""

    id: int
    outcome: Literal["stored", "kept", "dropped"]
    reason: str = ""


def entries(location: Location, device: str | None = None) -> Iterator[Row]:
    """The entries without their bytes, oldest first; a bad event has its device, epoch, seq.

    Raises:
        StoreError: the database cannot be read.
    """
    with closing(open_database(location, "read")) as database, store_errors(location):
        streams = {stream.id: stream for stream in StreamRow.select().bind(database)}
        rows: Any = QuarantineRow.select(*_COLUMNS).order_by(QuarantineRow.id).bind(database).dicts()
        for row in rows:
            described = _described(row, streams.get(row["stream"]))
            if device in {None, described["device"]}:
                yield described


def entry(location: Location, number: int) -> Row:
    """One entry with `payload`, its first bytes. Raises `StoreError` if there is no such entry."""
    with closing(open_database(location, "read")) as database, store_errors(location):
        row = _find(database, number)
        if row is None:
            raise StoreError(f"quarantine has no entry {number}")
        return _described(row, _stream(database, StreamRow.id == row["stream"])) | {"payload": bytes(row["payload"])}


def drop(location: Location, numbers: Sequence[int] | None = None) -> int:
    """Delete these entries, or all; returns how many. Their seqs stay counted as quarantined."""
    dropped = 0
    with closing(open_database(location, "write")) as database, store_errors(location):
        wanted = _numbers(database) if numbers is None else numbers
        for start in range(0, len(wanted), DROP_CHUNK):
            chunk = QuarantineRow.id.in_(wanted[start : start + DROP_CHUNK])
            dropped += QuarantineRow.delete().where(chunk).bind(database).execute()
    return dropped


def retry(location: Location, topics: Topics, numbers: Sequence[int] | None = None) -> Iterator[Retried]:
    """Read these entries again, or all, and store those that are good now.

    Raises:
        StoreError: the database cannot be written; the results before it are done.
    """
    with open_store(location, alone=False) as store, closing(open_database(location, "write")) as database:
        for number in _numbers(database) if numbers is None else numbers:
            with store_errors(location):
                row = _find(database, number)
            if row is None:
                yield Retried(number, "kept", "there is no such entry")
                continue
            retried = _retry(store, database, topics, row)
            if retried.outcome != "kept":
                with store_errors(location):
                    QuarantineRow.delete().where(QuarantineRow.id == number).bind(database).execute()
            yield retried


def _retry(store: Store, database: Any, topics: Topics, row: Row) -> Retried:
    if row["size_bytes"] > len(row["payload"]):
        return Retried(row["id"], "kept", f"only the first {len(row['payload'])} of its {row['size_bytes']} bytes were kept")
    try:
        message = _read_message(database, topics, row) if row["stream"] is None else _read_event(database, row)
    except (DecodeError, ProtocolError) as exc:
        return Retried(row["id"], "kept", str(exc))
    if message is None:
        return Retried(row["id"], "dropped", "a status describes only its moment")
    try:
        [outcome] = store.store([message])
    except StoreError:
        raise
    except Exception as exc:  # noqa: BLE001  # the worker may have failed on it, and we may too
        return Retried(row["id"], "kept", f"internal error: {type(exc).__name__}")
    return Retried(row["id"], "stored") if outcome else Retried(row["id"], "kept", str(row["reason"]))


def _read_event(database: Any, row: Row) -> Message:
    """A bad event as a match: the store takes it on either side of the watermark.

    It is no sign of life of its device, so the time of arrival is the stream's `last_seen`.
    """
    stream = _stream(database, StreamRow.id == row["stream"])
    if stream is None:
        raise ProtocolError(f"there is no stream {row['stream']}")
    try:
        event = event_from_map(codec.unpack(bytes(row["payload"])))
    except ValueError as exc:  # it could not be packed, so the entry is only its text
        raise DecodeError("its bytes cannot be read") from exc
    return Message(stream.device, Match(stream.epoch, stream.boot, 0, event), stream.last_seen)


def _read_message(database: Any, topics: Topics, row: Row) -> Message | None:
    device, kind = topics.parse(row["topic"])
    message = decode(kind, bytes(row["payload"]))
    if isinstance(message, Status):
        return None
    if isinstance(message, Ack):
        raise ProtocolError("an ack is not for us")
    stream = _stream(database, (StreamRow.device == device) & (StreamRow.epoch == message.epoch))
    return Message(device, message, stream.last_seen if stream else row["last_at"])


def _find(database: Any, number: int) -> Row | None:
    rows: Any = QuarantineRow.select().where(QuarantineRow.id == number).bind(database).dicts()
    return next(iter(rows), None)


def _numbers(database: Any) -> list[int]:
    rows: Any = QuarantineRow.select(QuarantineRow.id).order_by(QuarantineRow.id).bind(database).tuples()
    return [number for (number,) in rows]


def _stream(database: Any, which: Any) -> StreamRow | None:
    return next(iter(StreamRow.select().where(which).bind(database)), None)


def _described(row: Row, stream: StreamRow | None) -> Row:
    head = {"id": row["id"], "device": stream and stream.device, "epoch": stream and stream.epoch}
    return head | {name: row[name] for name in ("seq", "topic", "reason", "times", "size_bytes", "first_at", "last_at")}
