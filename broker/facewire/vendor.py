"""Reads the vendor's forms of an event into the contract's form. Pure.

V2  realtime, history POST    score 0-1, person_type and device_ip in ext_data
V5  push                      person_type, ep_info{}
V5  query                     float seconds; common{} holds most fields
V6  push, query               user_type "employee", media_device_info{}; a query has float seconds
"""

import math
from collections.abc import Mapping
from typing import Any, Final

#: V6's texts in `user_type`; any other text is 0.
USER_TYPES: Final = {"employee": 1, "visitor": 2, "blacklist": 3, "stranger": 4, "vip": 5}
#: By the manual, an event without a type is an employee's.
_DEFAULT_PERSON_TYPE: Final = 1
#: The places of a camera's name: the first that an event has counts.
_ENDPOINTS: Final = (
    ("ext_data", "ep_id"),
    ("ep_info", "ep_id"),
    ("media_device_info", "media_device_id"),
    ("ext_data", "device_ip"),
)
#: A float below this is seconds: in milliseconds it would be a time before March 1973.
_LEAST_MS: Final = 1e11


def common_form(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return an event of any of the vendor's forms with the contract's fields in their places.

    Deeper fields stay in their old places too.
    """
    event = dict(fields)
    inner = event.get("common")
    if isinstance(inner, Mapping) and "identity_id" not in event:
        del event["common"]
        event |= {name: value for name, value in inner.items() if name not in event}
    if type(at := event.get("timestamp")) is float and math.isfinite(at):
        event["timestamp"] = round(at * 1000) if abs(at) < _LEAST_MS else round(at)
    if event.get("person_type") is None:
        event["person_type"] = _person_type(event)
    if event.get("ep_id") is None and (camera := _camera(event)):
        event["ep_id"] = camera
    group = event.get("permission_name")
    if event.get("group_name") is None and isinstance(group, str) and group:
        event["group_name"] = group
    return event


def _person_type(event: Mapping[str, Any]) -> Any:
    named = event.get("user_type")
    if isinstance(named, str):
        return USER_TYPES.get(named, 0)
    nested = event.get("ext_data")
    given = nested.get("person_type") if isinstance(nested, Mapping) else None
    return _DEFAULT_PERSON_TYPE if given is None else given


def _camera(event: Mapping[str, Any]) -> str:
    for outer, inner in _ENDPOINTS:
        nested = event.get(outer)
        name = nested.get(inner) if isinstance(nested, Mapping) else None
        if isinstance(name, str) and name:
            return name
    name = event.get("media_device_id")
    return name if isinstance(name, str) else ""
