"""Events as JSON Lines, from a pipe or a file, for recognition processes that are not Python."""

import codecs
import os
from collections.abc import Callable, Iterator
from typing import Final, NamedTuple

from facewire import codec
from facewire.errors import DecodeError, EventError
from facewire.events import MAX_EVENT_BYTES, Event, event_from_source

CHUNK_BYTES: Final = 64 * 1024
#: An event takes more room in JSON than packed; a line longer than this is over the event's limit.
MAX_LINE_BYTES: Final = 8 * MAX_EVENT_BYTES


class BadLine(NamedTuple):
    """A line that is not an event, and the reason."""

    number: int
    reason: str


def read_events(fd: int, readable: Callable[[int], bool] = lambda _: True) -> Iterator[tuple[list[Event], list[BadLine]]]:
    """Read events as they arrive. Each step yields the lines that one read of `fd` completed.

    The caller stores a step before it asks for the next. So it reads no faster than it stores,
    and the writer of a pipe waits.

    Args:
        fd: the descriptor to read.
        readable: waits until it can be read. If it returns false, the reading ends, and half a line
            is left out.
    """
    number = 0
    for lines in _lines(fd, readable):
        events, bad = [], []
        for line in lines:
            number += 1
            if number == 1:
                line = line.removeprefix(codecs.BOM_UTF8)
            if not line.strip():
                continue
            try:
                events.append(read_event(line))
            except DecodeError as exc:
                bad.append(BadLine(number, str(exc)))
        yield events, bad


def read_event(line: bytes) -> Event:
    """Read one line.

    Raises:
        DecodeError: it is not a JSON object, or not an event.
    """
    text = line.strip()
    if len(text) > MAX_LINE_BYTES:
        raise EventError(f"line of {len(text)} bytes is over the limit of {MAX_LINE_BYTES}")
    if not text.startswith(b"{"):
        # Show no more of the line: it may be a name.
        raise EventError(f"line begins with {text[:1].decode(errors='replace')!a}, not with '{{': it is not a JSON object")
    return event_from_source(codec.decode(text).map)


def _lines(fd: int, readable: Callable[[int], bool]) -> Iterator[list[bytes]]:
    """The lines; a too long one is cut to `MAX_LINE_BYTES` + 1, which `read_event` refuses."""
    rest = b""
    while readable(fd):
        chunk = os.read(fd, CHUNK_BYTES)
        if not chunk:
            if rest:
                yield [rest]
            return
        *lines, rest = (rest + chunk).split(b"\n")
        rest = rest[: MAX_LINE_BYTES + 1]
        if lines:
            yield lines
