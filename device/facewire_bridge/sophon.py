"""The SophonAI family: SE3, SE5, SE6. Pure.

    form        how it comes                                  its key at the source
    realtime    V2's POST; V5's and V6's WebSocket            event_id, or its content
    history     POST from the box, all versions               its content: no push has an id
    query       answers of the box's event API                _id or event_id

The WebSocket and the query share `id` keys. A copy of an event in another form has the same
`shared`: time, identity, score and camera. A stranger has an id in some forms and none in others,
so a stranger's id counts in no form.
"""

import json
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final
from urllib.parse import parse_qsl

from facewire.events import PersonType
from facewire.vendor import common_form
from facewire_bridge.record import Poison, Record

#: The answer that means "stored". Sibling interfaces give it; no version documents it for this one.
STORED: Final = b'{"status":0,"code":0,"message":"SUCCESS","data":null}'
#: Where V5 and V6 list their cameras.
V5_CAMERAS: Final = "/SophonDevice/api/Devices"
V6_CAMERAS: Final = "/sophon/v2/face/getmediadevices"
#: A page of the event API.
PAGE: Final = 100


def read_push(form: str, body: object) -> list[Record | Poison]:
    """Read a POST (`realtime`, `history`) or a WebSocket message: an object, or an array."""
    if isinstance(body, list):
        return [_read(form, item) for item in body]
    return [_read(form, body)]


def read_events(answer: object) -> tuple[list[tuple[Record | Poison, object]], int]:
    """Read an answer of the event API: records, each with its row, and the range's `total_count`.

    Raises:
        ValueError: it is no such answer.
    """
    if not isinstance(answer, Mapping):
        raise ValueError(f"answer is {type(answer).__name__}, not an object")  # noqa: TRY004  # of a payload
    rows = answer.get("events", answer.get("data"))
    pagination = answer.get("pagination")
    total = pagination.get("total_count") if isinstance(pagination, Mapping) else None
    if not isinstance(rows, list) or type(total) is not int or total < 0:
        raise ValueError("answer has no list of events with a total_count")
    return [(_read("query", row), row) for row in rows], total


def read_body(content_type: str, raw: bytes) -> object:
    """Read a body that is JSON or a URL-encoded form; `read_form` reads a multipart one's fields.

    Raises:
        ValueError: it is neither.
    """
    if content_type.partition(";")[0].strip().lower() == "application/x-www-form-urlencoded" and raw.lstrip()[:1] not in {b"{", b"["}:
        return read_form(dict(parse_qsl(raw.decode(), keep_blank_values=True, strict_parsing=True)))
    try:
        # A name that is cut within a character, or in another encoding, must not cost the event.
        return _unwrapped(json.loads(raw.decode("utf-8-sig", errors="replace")))
    except (ValueError, RecursionError) as exc:
        raise ValueError(f"body is not JSON: {exc}") from exc


def read_form(fields: Mapping[str, str | bytes]) -> object:
    """The object in a form: its fields may be JSON, or one of them may hold all of it."""
    return _unwrapped({name: _form_value(value) for name, value in fields.items()})


def _unwrapped(body: object) -> object:
    """Return the value in an object that holds events, unless the object is an event itself."""
    if isinstance(body, dict) and "timestamp" not in body:
        for value in body.values():
            if (isinstance(value, list) and any(_is_event(one) for one in value)) or _is_event(value):
                return value
    return body


def _is_event(value: object) -> bool:
    return isinstance(value, dict) and "timestamp" in value


def websocket_request(version: int, cameras: list[str]) -> bytes:
    """The request after which the WebSocket of a V5 or V6 box sends; it sends nothing before."""
    if version >= 6:
        return json.dumps({"with_face_image": True, "with_register_image": False, "media_device_ids": cameras}).encode()
    return json.dumps({"need_face": True, "need_register": False, "event_list": cameras}).encode()


def cameras(answer: object) -> list[str]:
    """The cameras' ids in an answer of `Devices` (V5) or `getmediadevices` (V6)."""
    return list(dict.fromkeys(_ids(answer)))


def time_range(first_ms: int, last_ms: int, unit: float) -> dict[str, float]:
    """The filters for events of `first_ms` to `last_ms`, both included.

    Args:
        first_ms: box clock, ms since 1970 UTC.
        last_ms: the same.
        unit: 1.0 if the box counts in ms, 0.001 if in seconds. Then times have fractions, and the
            last ms is included to its end: otherwise an event could be in neither of two ranges.
    """
    if unit == 1.0:
        return {"datetime_gte": first_ms, "datetime_lte": last_ms}
    return {"datetime_gte": first_ms * unit, "datetime_lte": math.nextafter((last_ms + 1) * unit, 0.0)}


def threshold(answer: object) -> float | None:
    """The box's threshold, on its scale, in an answer of `Configs` (V5) or `getconfigs` (V6)."""
    for name, value in _pairs(answer):
        if name in {"THRESHOLD", "MATCH_THRESHOLD"}:
            try:
                number = float(value)
            except (TypeError, ValueError):
                continue
            if math.isfinite(number):
                return number
    return None


def login_answer(version: int, history_url: str, status_url: str, rabbitmq: Mapping[str, Any]) -> dict[str, Any]:
    """Tells a box in mq mode where to send its history. It keeps the owner's RabbitMQ."""
    if version >= 6:
        return {
            "mq_login_status": 0,
            "mq_login_token": "facewire",
            "history_event_upload_url": history_url,
            "history_report_period": 20,
            "media_device_monitor_url": status_url,
            "device_monitor_url": status_url,
            "mq_server_configs": dict(rabbitmq),
        }
    return {
        "message": "登录成功",
        "token": "facewire",
        "imgServerAddr": "",
        "recordAddr": history_url,
        "recordUploadPeriod": 20,
        "recordUploadReg": 0,
        "recordUploadSpotPic": 1,
        "recordUploadRecognizeFace": 1,
        "recordUploadInfo": 1,
        "deviceMonitorAddr": status_url,
        "deviceMonitorPeriod": 20,
        "rabbitmq": dict(rabbitmq),
    }


def _read(form: str, item: object) -> Record | Poison:
    try:
        if not isinstance(item, Mapping):
            raise ValueError(f"record is {type(item).__name__}, not an object")  # noqa: TRY004, TRY301
        event = _event(item)
    except ValueError as exc:
        return Poison(form, "", str(exc))
    own_id = item.get("event_id") or item.get("_id")
    key_form, key = ("id", str(own_id)) if own_id else (form, _content_key(item, event))
    return Record(key_form, key, event, realtime=form == "realtime", shared=_shared_keys(item, event))


def _event(item: Mapping[str, Any]) -> dict[str, Any]:
    inner = {name: _with_numbers(value) for name in ("common", "ext_data") if isinstance(value := item.get(name), Mapping)}
    event = common_form(_with_numbers(item) | inner)
    for name in ("identity_id", "identity_name"):
        event[name] = _text(event.get(name))
    if type(item.get("timestamp")) is not int:
        event["source_time"] = str(item.get("timestamp"))
    if type(event.get("timestamp")) is not int:
        raise ValueError(f"timestamp {ascii(item.get('timestamp'))[:40]} is not a time")
    if not _is_finite(event.get("score")):
        raise ValueError(f"score {ascii(event.get('score'))[:40]} is not a finite number")
    return event


def _is_finite(value: object) -> bool:
    try:
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    except OverflowError:  # an integer that no float holds
        return False


def _with_numbers(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Read the numbers that a form writes as text."""
    event = dict(fields)
    for name, read in (("timestamp", float), ("score", float), ("person_type", int)):
        if isinstance(value := event.get(name), str):
            event[name] = _parsed(name, value, read)
    return event


def _parsed(name: str, text: str, read: Callable[[str], float]) -> float:
    try:
        # A time of milliseconds is an integer, in a form too.
        return int(text) if text.isascii() and text.isdigit() else read(text)
    except ValueError as exc:
        raise ValueError(f"{name} {ascii(text)[:40]} is not a number") from exc


def _content_key(item: Mapping[str, Any], event: Mapping[str, Any]) -> str:
    return f"{event['timestamp']}|{event['identity_id']}|{float(event['score'])}|{_camera(item)}"


def _shared_keys(item: Mapping[str, Any], event: Mapping[str, Any]) -> tuple[str, ...]:
    # V2 gives a stranger the same id in both of its forms; later versions do not. V6's query may
    # lack the camera.
    is_v6 = "user_type" in item
    is_v2 = "ext_data" in item and "device_id" not in item and not is_v6
    identity = event["identity_id"] if is_v2 or event["person_type"] != PersonType.STRANGER else ""
    raw = item.get("timestamp")
    # A push may have rounded the seconds of a query up or down.
    times = {event["timestamp"], math.floor(raw * 1000)} if type(raw) is float and abs(raw) < 1e11 else {event["timestamp"]}
    camera = "" if is_v6 else _camera(item)
    return tuple(f"{at}|{identity}|{float(event['score'])}|{camera}" for at in sorted(times))


def _camera(item: Mapping[str, Any]) -> str:
    """The camera's name, which is the same in all forms of one version."""
    endpoint = _map(item, "ep_info") or _map(_map(item, "common"), "ep_info")
    candidates = (
        _map(item, "media_device_info").get("media_device_id"),
        item.get("media_device_id"),
        endpoint.get("device_id"),
        item.get("device_id"),
        _map(item, "ext_data").get("device_ip"),
    )
    return next((_text(value) for value in candidates if _text(value)), "")


def _form_value(value: str | bytes) -> Any:
    if isinstance(value, bytes):
        return value
    if value[:1] in {"{", "["}:
        try:
            return json.loads(value)
        except (ValueError, RecursionError):
            return value
    return value


def _map(fields: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = fields.get(name)
    return value if isinstance(value, Mapping) else {}


def _text(value: object) -> str:
    return "" if value is None else str(value)


def _ids(answer: object) -> Iterator[str]:
    for name, value in _pairs(answer):
        if name in {"device_id", "media_device_id"} and isinstance(value, str) and value:
            yield value


def _pairs(answer: object, depth: int = 8) -> Iterator[tuple[str, Any]]:
    if isinstance(answer, Mapping):
        # Settings may also be a list of {name: …, value: …}.
        named = answer.get("name", answer.get("key"))
        if isinstance(named, str) and "value" in answer:
            yield named, answer["value"]
        yield from answer.items()
    children = answer.values() if isinstance(answer, Mapping) else answer if isinstance(answer, list) else ()
    if depth:
        for child in children:
            yield from _pairs(child, depth - 1)
