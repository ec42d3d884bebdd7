"""The four messages of the wire, and their bytes (docs/contract.md, Payloads).

    decode(kind, payload)  ->  Match | Batch | Ack | Status, or an error that names the fault
    encode(message)        ->  bytes

A device builds matches and batches from packed events (`splice_match`, `splice_batch`).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Final, Generic, NamedTuple, TypeAlias, TypeVar

from facewire import codec
from facewire.codec import Decoded, Format
from facewire.errors import BatchRefused, DecodeError, EventError
from facewire.events import MAX_INT, Event, event_from_map, read_seq
from facewire.fields import Fields
from facewire.topics import Kind

MAX_BATCH_EVENTS: Final = 100
#: A store that forks more often forgets the oldest of its epochs.
MAX_ORIGINS: Final = 16

#: The form in which a batch holds its events.
E_co = TypeVar("E_co", covariant=True)


@dataclass(frozen=True, slots=True)
class Match:
    """An event over the threshold, published the moment it was made."""

    epoch: str
    boot: str
    #: Device clock at publishing, ms since 1970 UTC.
    sent_at: int
    event: Event
    #: The device clock minus the platform's at any time of the last minute, by a round trip, ms.
    clock_error_ms: int | None = None
    #: How far that may be from the truth, ms.
    clock_uncertainty_ms: int | None = None


class BadEvent(NamedTuple):
    """One bad event of a good batch."""

    #: None if it is unreadable: then only the quarantine has the event.
    seq: int | None
    reason: str
    raw: bytes


class Origin(NamedTuple):
    """An older epoch of the same store, whose seqs `first` to `last` are recorded again from 1 on.

    older epoch   1 ─────────── first ──────────── last
    this epoch                    1 ──────── last - first + 1 ───────▶
    """

    #: The older one.
    epoch: str
    #: The lowest of its seqs that is recorded again; the platform had acked all before.
    first: int
    #: The highest one, `first` - 1 if no event is recorded again.
    last: int
    #: The platform knows other events under these seqs (docs/contract.md, Device, R4). Otherwise
    #: the store only moved to another machine, and a seq means the same event on both sides.
    diverged: bool = False


@dataclass(frozen=True, slots=True)
class BatchOf(Generic[E_co]):
    """A batch of history whose events have a form that suits its reader (see `decode_batch_of`)."""

    epoch: str
    boot: str
    #: The device's cursor.
    after: int
    #: Seq of the last event sent.
    cursor: int
    head: int
    oldest: int
    events: Sequence[E_co]
    bad: tuple[BadEvent, ...] = ()
    #: The epochs that this one continues, the nearest first.
    origins: tuple[Origin, ...] = ()
    format: Format = field(default=Format.MSGPACK, compare=False)


@dataclass(frozen=True, slots=True)
class Batch(BatchOf[Event]):
    """History: the events in (`after`, `cursor`] that the device still holds; a probe if empty."""


class Rejected(NamedTuple):
    """An event that the platform keeps in quarantine and counts as handled."""

    seq: int | None
    reason: str


@dataclass(frozen=True, slots=True)
class Ack:
    """The platform's cumulative answer to one batch, with the batch's `epoch`, `boot` and `key`."""

    epoch: str
    boot: str
    key: int
    #: The watermark.
    cursor: int
    #: Identity of the platform's store.
    store: str
    conflict: int | None = None
    rejected: tuple[Rejected, ...] = ()
    #: The platform asks for patience, ms.
    retry_after: int | None = None
    #: The batch was refused whole, and why.
    error: str | None = None
    #: Platform clock when the batch had arrived, ms since 1970 UTC.
    received_at: int | None = None
    #: Platform clock before the ack is published, ms since 1970 UTC.
    sent_at: int | None = None


@dataclass(frozen=True, slots=True)
class Status:
    """A device's report on itself; with `online` false and nothing else, its last will."""

    boot: str
    online: bool
    #: Device clock, ms since 1970 UTC. Of a will: when the session started.
    at: int
    epoch: str | None = None
    head: int | None = None
    oldest: int | None = None
    cursor: int | None = None
    threshold: float | None = None
    #: Seconds between batches.
    period: float | None = None
    capacity: int | None = None
    #: Events overwritten before they were acked, this epoch.
    dropped: int | None = None
    version: str | None = None
    #: Matches of this boot that missed the realtime lane: there was no session, or they were found
    #: too late.
    missed: int | None = None
    #: A bridged device's proof that its source lost nothing: proven, reconciled or best effort.
    proof: str | None = None
    #: The time until which it is reconciled, or since which it is proven if the source began its
    #: numbers anew; ms since 1970 UTC.
    proof_at: int | None = None
    #: Records of the source that are missing and not declared lost.
    unexplained: int | None = None
    #: The source's clock minus the bridge's, ms.
    source_offset: int | None = None
    #: The device clock minus the platform's at any time of the last minute, by a round trip, ms.
    clock_error_ms: int | None = None
    #: How far that may be from the truth, ms.
    clock_uncertainty_ms: int | None = None


Message: TypeAlias = Match | Batch | Ack | Status


def decode(kind: Kind, payload: bytes) -> Message:
    """Read a message of one kind.

    Raises:
        BatchRefused: a batch breaks the contract as a whole, and its key is readable: answer with
            `error`.
        DecodeError: the message is unreadable for any other reason.
    """
    return _READERS[kind](payload)


def encode(message: Message, fmt: Format = Format.MSGPACK) -> bytes:
    """Write a message, without keys that have no value."""
    return codec.encode(to_map(message), fmt)


def to_map(message: Message) -> dict[str, Any]:
    """The message under its wire names."""
    values = {f.name: getattr(message, f.name) for f in fields(message) if f.name not in {"format", "bad"}}
    wire = {name: value for name, value in values.items() if value is not None and value != ()}
    match message:
        case Match():
            del wire["event"]  # it goes last, as in `splice_match`
            wire["event"] = message.event.to_map()
        case Batch():
            wire["events"] = [event.to_map() for event in message.events]
            wire |= _origins_to_map(message.origins)
        case Ack() if message.rejected:
            wire["rejected"] = [rejected._asdict() for rejected in message.rejected]
    return wire


def splice_match(epoch: str, boot: str, sent_at: int, event: bytes, *, clock: tuple[int, int] | None = None) -> bytes:
    """A Match around a packed event; `clock` is the clock's error and its uncertainty, ms."""
    keys = {"epoch": epoch, "boot": boot, "sent_at": sent_at}
    if clock is not None:
        keys |= dict(zip(("clock_error_ms", "clock_uncertainty_ms"), clock, strict=True))
    return codec.splice(keys, "event", event)


def splice_batch(
    epoch: str,
    boot: str,
    *,
    after: int,
    cursor: int,
    head: int,
    oldest: int,
    events: Sequence[bytes],
    origins: Sequence[Origin] = (),
) -> bytes:
    """A Batch around packed events."""
    keys = {"epoch": epoch, "boot": boot, "after": after, "cursor": cursor, "head": head, "oldest": oldest}
    return codec.splice(keys | _origins_to_map(origins), "events", events)


def _origins_to_map(origins: Sequence[Origin]) -> dict[str, Any]:
    maps = [{key: value for key, value in origin._asdict().items() if value is not False} for origin in origins]
    return {"origins": maps} if maps else {}


def decode_match(payload: bytes) -> Match:
    """Read a Match. Raises `DecodeError`."""
    decoded = codec.decode(payload)
    m = Fields(decoded.map)
    event = m.get("event", dict, "a map")
    return Match(
        m.identity("epoch"),
        m.identity("boot"),
        m.integer("sent_at", least=-MAX_INT),
        event_from_map(event, clean=decoded.clean),
        **_read_clock(m),
    )


def decode_batch(payload: bytes) -> Batch:
    """Read a Batch, its bad events set apart. Raises `BatchRefused`, `DecodeError` (`decode`)."""
    keys, origins, items, decoded = _read_batch(payload)
    return Batch(*keys, *_sort_out(items, decoded), origins, decoded.format)


def decode_batch_of(payload: bytes, read_events: Callable[[Sequence[Any]], Sequence[E_co]]) -> BatchOf[E_co | Event]:
    """Read a batch, with its events in a form of the caller's.

    Args:
        payload: as received.
        read_events: reads the maps of all events. It is not asked if the codec does not vouch
            for them (`codec.Decoded.clean`): the batch then is what `decode_batch` returns.

    Raises:
        BatchRefused, DecodeError: see `decode`; and what `read_events` raises.
    """
    keys, origins, items, decoded = _read_batch(payload)
    if decoded.clean:
        return BatchOf(*keys, read_events(items), origins=origins, format=decoded.format)
    return Batch(*keys, *_sort_out(items, decoded), origins, decoded.format)


def _read_batch(payload: bytes) -> tuple[tuple[str, str, int, int, int, int], tuple[Origin, ...], list[Any], Decoded]:
    decoded = codec.decode(payload)
    m = Fields(decoded.map)
    epoch, boot, cursor = m.identity("epoch"), m.identity("boot"), m.integer("cursor")
    try:
        after, head, oldest = m.integer("after"), m.integer("head"), m.integer("oldest", least=1)
        items = m.get("events", list, "a list")
        _check_shape(after, cursor, head, items)
        origins = _read_origins(m)
    except DecodeError as exc:
        raise BatchRefused(str(exc), epoch=epoch, boot=boot, key=cursor) from exc
    return (epoch, boot, after, cursor, head, oldest), origins, items, decoded


def _read_origins(m: Fields) -> tuple[Origin, ...]:
    items = m.optional("origins", list, "a list") or ()
    if len(items) > MAX_ORIGINS:
        raise DecodeError(f"{len(items)} origins are over the limit of {MAX_ORIGINS}")
    return tuple(map(_read_origin, items))


def _read_origin(item: object) -> Origin:
    if not isinstance(item, dict):
        raise DecodeError("origins has an item that is not a map")
    m = Fields(item)
    diverged = m.optional("diverged", bool, "true or false") or False
    origin = Origin(m.identity("epoch"), m.integer("first", least=1), m.integer("last"), diverged)
    if origin.last < origin.first - 1:
        raise DecodeError(f"origin's last {origin.last} is before {origin.first - 1}, its first - 1")
    return origin


def _check_shape(after: int, cursor: int, head: int, items: list[Any]) -> None:
    if len(items) > MAX_BATCH_EVENTS:
        raise DecodeError(f"{len(items)} events are over the limit of {MAX_BATCH_EVENTS}")
    if cursor < after:
        raise DecodeError(f"cursor {cursor} is before after {after}")
    if cursor > head:
        raise DecodeError(f"cursor {cursor} is past head {head}")
    if not items and cursor != after:
        raise DecodeError(f"a probe's cursor {cursor} is not its after {after}")
    before = after
    for seq in filter(None, map(read_seq, items)):
        if not before < seq <= cursor:
            raise DecodeError(f"seq {seq} after {before} is not rising in ({after}, {cursor}]")
        before = seq


def _sort_out(items: list[Any], decoded: Decoded) -> tuple[tuple[Event, ...], tuple[BadEvent, ...]]:
    events, bad = [], []
    for item in items:
        try:
            events.append(event_from_map(item, clean=decoded.clean))
        except EventError as exc:
            bad.append(BadEvent(exc.seq, str(exc), _raw(item)))
    return tuple(events), tuple(bad)


def _raw(item: object) -> bytes:
    try:
        return codec.pack(item)
    except ValueError:
        pass
    # A value that cannot be packed again (a lone surrogate) is kept as Python shows it.
    try:
        return ascii(item).encode()
    except RecursionError:
        return b"(nested too deep to be shown)"


def decode_ack(payload: bytes) -> Ack:
    """Read an Ack. Raises `DecodeError`."""
    m = Fields(codec.decode(payload).map)
    rejected = []
    for item in m.optional("rejected", list, "a list") or ():
        if not isinstance(item, dict):
            raise DecodeError("rejected has an item that is not a map")
        rejected.append(Rejected(read_seq(item), Fields(item).optional("reason", str, "text") or ""))
    return Ack(
        m.identity("epoch"),
        m.identity("boot"),
        m.integer("key"),
        m.integer("cursor"),
        m.get("store", str, "text"),
        conflict=m.optional_integer("conflict", least=1),
        rejected=tuple(rejected),
        retry_after=m.optional_integer("retry_after"),
        error=m.optional("error", str, "text"),
        received_at=m.optional_integer("received_at", least=-MAX_INT),
        sent_at=m.optional_integer("sent_at", least=-MAX_INT),
    )


def decode_status(payload: bytes) -> Status:
    """Read a Status. Raises `DecodeError`."""
    m = Fields(codec.decode(payload).map)
    return Status(
        m.identity("boot"),
        m.get("online", bool, "true or false"),
        m.integer("at", least=-MAX_INT),
        epoch=m.identity("epoch") if m.map.get("epoch") is not None else None,
        head=m.optional_integer("head"),
        oldest=m.optional_integer("oldest", least=1),
        cursor=m.optional_integer("cursor"),
        threshold=m.optional_number("threshold"),
        period=m.optional_number("period"),
        capacity=m.optional_integer("capacity", least=1),
        dropped=m.optional_integer("dropped"),
        version=m.optional("version", str, "text"),
        missed=m.optional_integer("missed"),
        proof=m.optional("proof", str, "text"),
        proof_at=m.optional_integer("proof_at", least=-MAX_INT),
        unexplained=m.optional_integer("unexplained"),
        source_offset=m.optional_integer("source_offset", least=-MAX_INT),
        **_read_clock(m),
    )


def _read_clock(m: Fields) -> dict[str, int | None]:
    return {
        "clock_error_ms": m.optional_integer("clock_error_ms", least=-MAX_INT),
        "clock_uncertainty_ms": m.optional_integer("clock_uncertainty_ms"),
    }


_READERS: Final[dict[Kind, Callable[[bytes], Message]]] = {
    "match": decode_match,
    "history": decode_batch,
    "ack": decode_ack,
    "status": decode_status,
}
