"""A translator for a family of boxes, to copy: here a box that posts each record as JSON, numbered.

    POST /my-boxes/ID/record   {"no": 120, "at": "2025-11-25 15:00:07", "who": "417",
                                "name": "Ana Cruz", "score": 0.91, "pass": true, "late": false,
                                "jpeg": "/9j/4AAQ…"}
    200                        {"result": 0}

Pure: bytes in, records and answers out. The bridge keeps photographs, records the event with its
key in one commit, and only then sends the answer.
"""

import json
from typing import Any, Final

from facewire.events import PersonType
from facewire.proof import ProofClass
from facewire_bridge import Box, Family, Poison, Post, Read, Record, read_local

#: The answer that tells the box that all of a post is durable.
STORED: Final = b'{"result": 0}'


def read_post(post: Post, box: Box) -> Read:
    """Read one post. If your box posts arrays, return a record for each item, with the item."""
    return [(_record(post.body, box), post.body)]


def _record(body: bytes, box: Box) -> Record | Poison:
    try:
        said = json.loads(body)
        number = _number(said)
    except (ValueError, TypeError, KeyError, RecursionError) as exc:
        # It has no key: the bridge knows it by its bytes.
        return Poison("post", "", f"cannot be read: {exc!r}"[:200])
    try:
        event = _event(said, box)
    except (ValueError, TypeError, KeyError) as exc:
        return Poison("post", str(number), f"is no event: {exc!r}"[:200], number, mark=str(said.get("at")))
    # A record that is late or was refused is history only: a gate must never see it.
    realtime = said.get("pass") is True and said.get("late") is False
    # If the box's counter is reset, another record gets this number: the mark tells them apart.
    mark = f"{said['at']}|{said['who']}"
    return Record("post", str(number), event, realtime, number=number, mark=mark)


def _number(said: dict[str, Any]) -> int:
    number = said["no"]
    if type(number) is not int or number < 0:
        raise ValueError(f"no {number!a} is not a number")
    return number


def _event(said: dict[str, Any], box: Box) -> dict[str, Any]:
    """An event, as for `facewire device record`. The bridge takes photographs out of it."""
    return {
        "timestamp": read_local(said["at"], box.zone, after_ms=box.after_ms),
        "source_time": said["at"],
        "score": said["score"],
        "identity_id": said["who"],
        "identity_name": said.get("name") or "",
        "person_type": (PersonType.EMPLOYEE if said["who"] else PersonType.STRANGER).value,
        "spot_pic": said.get("jpeg") or "",
    }


#: Its records are numbered, so a missing number shows.
FAMILY: Final = Family("my-boxes", frozenset({"record"}), read_post, STORED, ProofClass.PROVEN)
