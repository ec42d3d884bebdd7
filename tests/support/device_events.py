"""Events to record in tests of the device."""

import json
from typing import Any

from facewire.events import Event


def event(number: int = 1, score: float = 0.5, **extra: Any) -> Event:
    """An event without a seq; `number` distinguishes it from others."""
    return Event(0, number, score, f"p{number}", "", 1, None, None, extra)


def events(first: int, last: int, **more: Any) -> list[Event]:
    return [event(number, **more) for number in range(first, last + 1)]


def line(number: int = 1, score: float = 0.5, **extra: Any) -> str:
    """The same event as a recognition process writes it."""
    fields = {"timestamp": number, "score": score, "identity_id": f"p{number}", "identity_name": "", "person_type": 1}
    return json.dumps(fields | extra)
