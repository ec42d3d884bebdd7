"""The `mqtt/face` family: JSON over MQTT 3.1.1 at QoS 0, an ack for each record. Pure.

    {prefix}/{id}/Rec, Snap     records of people, and of strangers: RecPush, StrSnapPush
    {prefix}/{id}               our answers and requests: PushAck, Online-Ack, ManualPush…
    {prefix}/{id}/Ack           the device's answers to our requests
    {prefix}/basic, heartbeat   Online, Offline (last will), HeartBeat

Numbers come as text, blank fields as `" "`, the name as `personName` or `persionName`, and the
device's id behind `@@@`. We write no request that deletes anything on a device.
"""

import datetime as dt
import json
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from facewire.events import PersonType
from facewire_bridge.clock import read_local
from facewire_bridge.record import Poison, Record

DEFAULT_PREFIX: Final = "mqtt/face"

#: By the last level of a record topic: form, `PushAckType`, the field that has the number.
_RECORDS: Final = {"Rec": ("rec", 2, "RecordID"), "Snap": ("snap", 1, "SnapID")}
_ACK_TYPES: Final = {form: ack_type for form, ack_type, _ in _RECORDS.values()}
_PULLS: Final = {"rec": "ManualPushRecords", "snap": "ManualPushSnaps"}
#: Personal fields: left out unless the owner asks for them.
PRIVATE: Final = frozenset({"idCard", "telnum"})
_NAMED: Final = frozenset({"customId", "personId", "personName", "persionName", "similarity1", "facesluiceId", "time"})


@dataclass(frozen=True, slots=True)
class Source:
    """One device, as we know it.

    Attributes:
        zone: the zone of its clock.
        keep: the private fields to keep.
    """

    zone: dt.tzinfo
    keep: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Presence:
    """`Online`, `Offline` or `HeartBeat`."""

    operator: str
    device: str
    #: The time on the source's clock as it wrote it; empty if it wrote none.
    time: str
    #: Its name for itself, with the prefix before `@@@`.
    called: str = ""


@dataclass(frozen=True, slots=True)
class PullAnswer:
    """How many records a range has."""

    message_id: str
    count: int | None


def subscriptions(prefix: str) -> list[str]:
    """The filters that match all messages of devices."""
    return [f"{prefix}/+/Rec", f"{prefix}/+/Snap", f"{prefix}/+/Ack", f"{prefix}/basic", f"{prefix}/heartbeat"]


def parse_topic(prefix: str, topic: str) -> tuple[str, str]:
    """Device and kind (`Rec`, `Snap`, `Ack`, `basic`, `heartbeat`) of a topic; else both empty."""
    levels = topic.removeprefix(f"{prefix}/").split("/") if topic.startswith(f"{prefix}/") else []
    if len(levels) == 1 and levels[0] in {"basic", "heartbeat"}:
        return "", levels[0]
    if len(levels) == 2 and levels[1] in {*_RECORDS, "Ack"}:
        return levels[0], levels[1]
    return "", ""


def read_payload(payload: bytes) -> dict[str, Any]:
    """Read a message's JSON.

    Raises:
        ValueError: it is no JSON object.
    """
    try:
        # A name that is cut within a character, or in another encoding, must not cost the record.
        message = json.loads(payload.decode("utf-8-sig", errors="replace"))
    except (ValueError, RecursionError) as exc:
        raise ValueError(f"is not JSON: {exc}") from exc
    if not isinstance(message, dict):
        raise ValueError(f"is {type(message).__name__}, not a JSON object")  # noqa: TRY004  # of the payload, not of a call
    return message


def read_record(
    kind: str, payload: bytes, source: Source, *, made_before: Callable[[int], int | None] = lambda _: None, now_ms: int | None = None
) -> Record | Poison:
    """Read a message of a record topic (`kind` is `Rec` or `Snap`).

    Args:
        kind: the topic's last level.
        payload: as received.
        source: the device.
        made_before: when the record before a number was made, ms since 1970 UTC, if that is known.
        now_ms: the time now on the device's clock, if known.
    """
    form, _, number_field = _RECORDS[kind]
    number, info = None, None
    try:
        info = read_payload(payload).get("info")
        if not isinstance(info, dict):
            raise ValueError(f"info is {type(info).__name__}, not an object")  # noqa: TRY004, TRY301
        number = _integer(info, number_field)
        fresh = not was_asked_for(info)
        timestamp = read_local(info.get("time"), source.zone, after_ms=made_before(number), now_ms=now_ms if fresh else None)
        event = _person(info) if form == "rec" else _stranger(number)
    except ValueError as exc:
        mark = f"poison|{_text(info, 'time')}" if isinstance(info, dict) else ""
        return Poison(form, "" if number is None else str(number), str(exc), number, mark)
    event = _extras(info, source.keep) | event | {"timestamp": timestamp, "source_time": info["time"], "ep_id": device_of(info)}
    realtime = form == "rec" and _may_match(info)
    return Record(form, str(number), event, realtime, number=number, mark=_mark(form, info, event["score"]))


def read_presence(payload: bytes) -> Presence | None:
    """Read a message of `basic` or `heartbeat`; None if it is neither."""
    try:
        message = read_payload(payload)
    except ValueError:
        return None
    info, operator = message.get("info"), message.get("operator")
    if not isinstance(info, dict) or operator not in {"Online", "Offline", "HeartBeat"}:
        return None
    return Presence(str(operator), device_of(info), _text(info, "time"), _text(info, "facesluiceId"))


def read_answer(payload: bytes) -> PullAnswer | None:
    """Read the answer to a pull, whose operator begins with `ManualPush`; None if it is none."""
    try:
        message = read_payload(payload)
        info = message.get("info")
        if not str(message.get("operator")).startswith("ManualPush") or not isinstance(info, dict):
            return None
        field = next((name for name in ("RecordNum", "SnapNum") if name in info), "")
        return PullAnswer(str(message.get("messageId", "")), _integer(info, field) if field else None)
    except ValueError:
        return None


def device_of(info: Mapping[str, Any]) -> str:
    """The device's id, which may stand behind a prefix and `@@@`."""
    return _text(info, "facesluiceId").rpartition("@@@")[2]


def was_asked_for(event: Mapping[str, Any]) -> bool:
    """Whether a record was pulled, or its source itself calls it late: it shows no reset."""
    return _text(event, "PushType") == "2" or _text(event, "Sendintime") == "0"


def push_ack(form: str, number: int, message_id: str) -> bytes:
    """The message that tells the device that a record is durable here."""
    return _message("PushAck", message_id, {"PushAckType": _ACK_TYPES[form], "SnapOrRecordID": number})


def online_ack(device_id: str, message_id: str) -> bytes:
    """The message that makes the device stop repeating `Online`."""
    return _message("Online-Ack", message_id, {"facesluiceId": device_id, "result": "ok"})


def pull(form: str, device_id: str, first: str, last: str, message_id: str) -> bytes:
    """A request for the records of a range of local times, inclusive."""
    return _message(_PULLS[form], message_id, {"facesluiceId": device_id, "TimeS": first, "TimeE": last})


def _message(operator: str, message_id: str, info: Mapping[str, Any]) -> bytes:
    return json.dumps({"operator": operator, "messageId": message_id, "info": info}).encode()


def _person(info: Mapping[str, Any]) -> dict[str, Any]:
    custom, person = _text(info, "customId"), _text(info, "personId")
    similarity = _text(info, "similarity1")
    event = {
        "score": _number("similarity1", similarity) if similarity else 0.0,
        "identity_id": custom or (f"p:{person}" if person else ""),
        "identity_name": _text(info, "personName") or _text(info, "persionName"),
        "person_type": (PersonType.BLOCKLISTED if _text(info, "PersonType") == "1" else PersonType.EMPLOYEE).value,
    }
    return event if similarity else event | {"score_absent": True}


def _stranger(number: int) -> dict[str, Any]:
    return {"score": 0.0, "identity_id": f"snap:{number}", "identity_name": "", "person_type": PersonType.STRANGER.value}


def _extras(info: Mapping[str, Any], keep: Iterable[str]) -> dict[str, Any]:
    left_out = _NAMED | PRIVATE.difference(keep)
    return {name: value for name, value in info.items() if name not in left_out}


def _may_match(info: Mapping[str, Any]) -> bool:
    wanted = {"VerifyStatus": "1", "PersonType": "0", "Sendintime": "1"}
    return all(_text(info, name) == value for name, value in wanted.items()) and _text(info, "PushType") != "2"


def _mark(form: str, info: Mapping[str, Any], score: float) -> str:
    """The fields that all copies of a record share: none about sending, none that may be edited."""
    if form == "snap":
        return f"{_text(info, 'time')}|{json.dumps(info.get('targetPosInScene'))}"
    return "|".join([*(_text(info, name) for name in ("time", "customId", "personId", "VerifyStatus")), f"{score:g}"])


def _text(info: Mapping[str, Any], name: str) -> str:
    value = info.get(name)
    return "" if value is None else str(value).strip()


def _integer(info: Mapping[str, Any], name: str) -> int:
    text = _text(info, name).removesuffix(".0")
    if not text.isascii() or not text.isdigit() or len(text) > 18:
        raise ValueError(f"{name} {ascii(info.get(name))[:40]} is not a number")
    return int(text)


def _number(name: str, text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise ValueError(f"{name} {ascii(text)[:40]} is not a finite number")
    return number
