"""Where events come from when the recognition process is not Python: JSON Lines on a pipe or in a file."""

import codecs
import os
from collections.abc import Iterator
from typing import Final, NamedTuple

from facewire import codec
from facewire.errors import DecodeError, EventError
from facewire.events import MAX_EVENT_BYTES, Event, event_from_source

CHUNK_BYTES: Final = 64 * 1024
#: JSON may take more room than what it says; past this a line cannot be an event that we take.
MAX_LINE_BYTES: Final = 8 * MAX_EVENT_BYTES


class BadLine(NamedTuple):
    """A line that is no event, and why."""

    number: int
    reason: str


def read_events(fd: int) -> Iterator[tuple[list[Event], list[BadLine]]]:
    """Read events as they come: each step gives what one read of the descriptor completed, which may be one line.

    Whoever iterates stores a step before taking the next, and so reads no faster than it stores: a pipe's writer waits.
    """
    number = 0
    for lines in _lines(fd):
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
        DecodeError: it is no JSON object, or no event.
    """
    text = line.strip()
    if len(text) > MAX_LINE_BYTES:
        raise EventError(f"line of {len(text)} bytes is over the limit of {MAX_LINE_BYTES}")
    if not text.startswith(b"{"):
        # Not more of it: it may be a name.
        raise EventError(f"line begins with {text[:1].decode(errors='replace')!a}, not with '{{': it is not a JSON object")
    return event_from_source(codec.decode(text).map)


def _lines(fd: int) -> Iterator[list[bytes]]:
    """Lines of up to `MAX_LINE_BYTES`; of a longer one that much and a byte, so that it is refused as too long."""
    rest = b""
    while chunk := os.read(fd, CHUNK_BYTES):
        *lines, rest = (rest + chunk).split(b"\n")
        rest = rest[: MAX_LINE_BYTES + 1]
        if lines:
            yield lines
    if rest:
        yield [rest]
