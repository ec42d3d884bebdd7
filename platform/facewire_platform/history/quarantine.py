"""What broke the contract: looked at by a human, then tried again or dropped.

    an event of a batch    an entry of (stream, seq)    retry: stored, and no more counted as quarantined
                                                        drop: the entry goes, the seq stays counted as quarantined
    any other message      an entry without seq         retry: taken as if it came now; its device is sent no ack

So watermark = stored + gaps + quarantined holds whatever is done here, beside a running worker too.
"""

from collections.abc import Iterator, Sequence
from contextlib import closing
from typing import Any, Final, Literal, NamedTuple

from facewire import codec
from facewire.errors import DecodeError, ProtocolError, StoreError
from facewire.events import event_from_map
from facewire.messages import Ack, Match, Status, decode
from facewire.topics import Topics
from facewire_platform.history.queries import Row
from facewire_platform.store.database import open_database
from facewire_platform.store.drivers import Location, store_errors
from facewire_platform.store.schema import QuarantineRow, StreamRow
from facewire_platform.store.writer import Message, Store, open_store

#: Entries deleted in one transaction.
DROP_CHUNK: Final = 500

_COLUMNS: Final = tuple(column for column in QuarantineRow._meta.sorted_fields if column.name not in {"digest", "payload"})


class Retried(NamedTuple):
    """What came of an entry: `stored`, `kept` in quarantine, or `dropped`, as there was nothing in it to store."""

    id: int
    outcome: Literal["stored", "kept", "dropped"]
    reason: str = ""


def entries(location: Location, device: str | None = None) -> Iterator[Row]:
    """The entries without their bytes, oldest first; of a bad event with its device, epoch and seq.

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
    """One entry with its bytes, `payload`, of which the first are kept. Raises `StoreError` where there is none."""
    with closing(open_database(location, "read")) as database, store_errors(location):
        row = _find(database, number)
        if row is None:
            raise StoreError(f"quarantine has no entry {number}")
        return _described(row, _stream(database, StreamRow.id == row["stream"])) | {"payload": bytes(row["payload"])}


def drop(location: Location, numbers: Sequence[int] | None = None) -> int:
    """Delete entries, all without `numbers`, and say how many there were. Their seqs stay counted as quarantined."""
    dropped = 0
    with closing(open_database(location, "write")) as database, store_errors(location):
        wanted = _numbers(database) if numbers is None else numbers
        for start in range(0, len(wanted), DROP_CHUNK):
            chunk = QuarantineRow.id.in_(wanted[start : start + DROP_CHUNK])
            dropped += QuarantineRow.delete().where(chunk).bind(database).execute()
    return dropped


def retry(location: Location, topics: Topics, numbers: Sequence[int] | None = None) -> Iterator[Retried]:
    """Read entries again, all without `numbers`, and store what is good now, as after an upgrade of facewire.

    Raises:
        StoreError: the database cannot be written; what was told before is done.
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
        store.store([message])
    except StoreError:
        raise
    except Exception as exc:  # noqa: BLE001  # what the worker failed on when it came, we may fail on again
        return Retried(row["id"], "kept", f"internal error: {type(exc).__name__}")
    return Retried(row["id"], "stored")


def _read_event(database: Any, row: Row) -> Message:
    """A bad event as a match, which is stored on either side of the watermark; not as a sign of life of its device."""
    stream = _stream(database, StreamRow.id == row["stream"])
    if stream is None:
        raise ProtocolError(f"there is no stream {row['stream']}")
    try:
        event = event_from_map(codec.unpack(bytes(row["payload"])))
    except ValueError as exc:  # it could not be packed when it came: what is kept is for the eye
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
