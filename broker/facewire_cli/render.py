"""How `facewire tail` shows a message: a row for programs, a line for people.

Received  ──to_row──▶  row (JSON)  ──narrow──▶  row, or None if nobody asked for it
├──line──▶  12:00:01.123 match    lobby-1  seq 17  score 0.91  小明 (666666) employee  age 12 ms
└──flat──▶  the same for a spreadsheet
"""

import base64
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final, TypeAlias

from facewire import messages
from facewire.counted import counted
from facewire.errors import BatchRefused, FacewireError
from facewire.events import PersonType
from facewire.proof import describe_proof
from facewire.topics import KINDS, Topics
from facewire_cli.output import moment, visible

Row: TypeAlias = Mapping[str, Any]

#: How much of an unreadable payload is shown, bytes.
SHOWN_BYTES: Final = 64

_LABELS: Final = {known.value: known.label for known in PersonType}

_EVENT_COLUMNS: Final = ("seq", "timestamp", "score", "identity_id", "identity_name", "person_type", "group_name", "ep_id")
#: The columns of CSV.
COLUMNS: Final = (
    *("received_at", "topic", "device", "kind", "qos", "retain", "epoch", "boot", "sent_at"),
    *_EVENT_COLUMNS,
    *("after", "cursor", "head", "oldest", "key", "conflict", "online", "at", "dropped", "error", "size_bytes", "payload"),
)


def to_row(topics: Topics, topic: str, payload: bytes, *, qos: int, retain: bool, received_at: int) -> Row:
    """The row of a message; of an unreadable one, with the reason.

    Args:
        topics: the topics that we follow.
        topic: topic of the message.
        payload: as received.
        qos: as received.
        retain: as received.
        received_at: ms since 1970 UTC, our clock.
    """
    row = {"received_at": received_at, "topic": topic, "device": None, "kind": None, "qos": qos, "retain": retain}
    try:
        row["device"], kind = topics.parse(topic)
        row["kind"] = kind
        return row | _contents(messages.decode(kind, payload))
    except FacewireError as exc:
        name = topic.rpartition("/")[2]
        row["kind"] = name if name in KINDS else None
        return row | _complaint(exc, payload)


def match_row(topics: Topics, device: str, match: messages.Match, *, qos: int, received_at: int) -> Row:
    """The row of a decoded match."""
    head = {"received_at": received_at, "topic": topics.of(device, "match"), "device": device, "kind": "match", "qos": qos, "retain": False}
    return head | _contents(match)


def _contents(message: messages.Message) -> dict[str, Any]:
    wire = messages.to_map(message)
    if isinstance(message, messages.Batch) and message.bad:
        wire["bad"] = [{"seq": bad.seq, "reason": bad.reason} for bad in message.bad]
    return wire


def _complaint(exc: FacewireError, payload: bytes) -> dict[str, Any]:
    key = {"epoch": exc.epoch, "boot": exc.boot, "cursor": exc.key} if isinstance(exc, BatchRefused) else {}
    return {"error": str(exc), **key, "payload": base64.b64encode(payload[:SHOWN_BYTES]).decode(), "size_bytes": len(payload)}


def narrow(row: Row, person: str | None, min_score: float | None) -> Row | None:
    """Keep the wanted events; None if none is left.

    If a person or a score is wanted, a row without events is left out. `batch_events` counts all
    events of a batch.
    """
    if person is None and min_score is None:
        return row

    def wanted(event: Row) -> bool:
        return (person is None or event["identity_id"] == person) and (min_score is None or event["score"] >= min_score)

    if "event" in row:
        return row if wanted(row["event"]) else None
    events = row.get("events", ())
    kept = [event for event in events if wanted(event)]
    return {**row, "events": kept, "batch_events": len(events)} if kept else None


def flat(row: Row) -> Row:
    """The row with a match's event beside its other fields."""
    event = row.get("event", {})
    return {**row, **{name: event.get(name) for name in _EVENT_COLUMNS}}


def line(row: Row) -> str:
    """The row for people: one line, safe for a terminal."""
    parts = _error(row) if "payload" in row else _LINES[row["kind"]](row)
    mark = "  RETAINED" if row["retain"] and row["kind"] != "status" else ""
    head = f"{moment(row['received_at'])[11:]} {row['kind'] or '?':8} {row['device'] or row['topic']}"
    return visible("  ".join((head, *parts)) + mark)


def duration(ms: int) -> str:
    """Show a duration in one or two units. It may be negative, because two clocks made it."""
    sign, ms = "-" if ms < 0 else "", abs(ms)
    if ms < 1000:
        return f"{sign}{ms} ms"
    if ms < 60_000:
        return f"{sign}{ms / 1000:.1f} s"
    minutes = ms // 60_000
    if minutes < 60:
        return f"{sign}{minutes} m {ms // 1000 % 60} s"
    hours = minutes // 60
    return f"{sign}{hours} h {minutes % 60} m" if hours < 48 else f"{sign}{hours // 24} d {hours % 24} h"


def _match(row: Row) -> Iterator[str]:
    event = row["event"]
    kind = _LABELS.get(event["person_type"], f"type {event['person_type']}")
    yield f"seq {event['seq']}"
    yield f"score {event['score']:.4g}"
    yield f"{event['identity_name'] or '-'} ({event['identity_id'] or '-'}) {kind}"
    yield f"age {duration(row['received_at'] - row['sent_at'])}"


def _history(row: Row) -> Iterator[str]:
    after, cursor, bad = row["after"], row["cursor"], row.get("bad", ())
    shown, held = len(row["events"]), row.get("batch_events", len(row["events"]))
    if cursor == after:
        yield f"probe at {cursor}"
    else:
        count = counted(held, "event") if shown == held else f"{shown} of {counted(held, 'event')}"
        yield f"seqs {after + 1}..{cursor} ({count})"
    yield f"head {row['head']}"
    yield f"lag {row['head'] - cursor}"
    if (lost := cursor - after - held - len(bad)) > 0:
        yield f"lost {lost}"
    if bad:
        yield f"bad {len(bad)}: " + "; ".join(f"seq {item['seq']}: {item['reason']}" for item in bad)


def _ack(row: Row) -> Iterator[str]:
    yield f"key {row['key']}"
    yield f"cursor {row['cursor']}"
    if "conflict" in row:
        yield f"conflict at {row['conflict']}"
    if rejected := row.get("rejected"):
        yield f"rejected {len(rejected)}: " + "; ".join(f"seq {item['seq']}: {item['reason']}" for item in rejected)
    if "retry_after" in row:
        yield f"retry after {duration(row['retry_after'])}"
    if "error" in row:
        yield f"error: {row['error']}"


def _status(row: Row) -> Iterator[str]:
    yield "online" if row["online"] else "offline"
    for name in ("head", "cursor"):
        if name in row:
            yield f"{name} {row[name]}"
    if "head" in row and "cursor" in row:
        yield f"lag {row['head'] - row['cursor']}"
    for name in ("dropped", "threshold", "version"):
        if name in row:
            yield f"{name} {row[name]}"
    if row.get("missed"):
        yield f"missed {row['missed']}"
    if proof := describe_proof(row):
        yield proof
    yield f"boot {row['boot']}"


def _error(row: Row) -> Iterator[str]:
    yield f"ERROR {row['error']}"
    yield f"{row['size_bytes']} bytes"
    if row["payload"]:
        yield row["payload"]


_LINES: Final[dict[str, Callable[[Row], Iterator[str]]]] = {"match": _match, "history": _history, "ack": _ack, "status": _status}
