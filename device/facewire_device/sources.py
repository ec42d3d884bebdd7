"""Events as JSON Lines, from a pipe or a file, for recognition processes that are not Python."""

import codecs
import os
from collections.abc import Callable, Iterator
from typing import Final, NamedTuple

from facewire import codec
from facewire.errors import DecodeError, EventError
from facewire.events import Event, read_source
from facewire.photographs import Photograph

CHUNK_BYTES: Final = 64 * 1024
#: Photographs make lines long; a longer one is read by no codec.
MAX_LINE_BYTES: Final = codec.MAX_PAYLOAD_BYTES


class BadLine(NamedTuple):
    """A line that is not an event, and the reason."""

    number: int
    reason: str


def read_events(
    fd: int, readable: Callable[[int], bool] = lambda _: True, photographs: list[Photograph] | None = None
) -> Iterator[tuple[list[Event], list[BadLine]]]:
    """Read events as they arrive. Each step yields the lines that one read of `fd` completed.

    The caller stores a step before it asks for the next. So it reads no faster than it stores,
    and the writer of a pipe waits.

    Args:
        fd: the descriptor to read.
        readable: waits until it can be read. If it returns false, the reading ends, and half a line
            is left out.
        photographs: gets those of the events, to be kept before the events are recorded.
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
                events.append(read_event(line, photographs))
            except DecodeError as exc:
                bad.append(BadLine(number, str(exc)))
        yield events, bad


def read_event(line: bytes, photographs: list[Photograph] | None = None) -> Event:
    """Read one line; `photographs` gets the event's.

    Raises:
        DecodeError: it is not a JSON object, or not an event.
    """
    text = line.strip()
    if len(text) > MAX_LINE_BYTES:
        raise EventError(f"line of {len(text)} bytes is over the limit of {MAX_LINE_BYTES}")
    if not text.startswith(b"{"):
        # Show no more of the line: it may be a name.
        raise EventError(f"line begins with {text[:1].decode(errors='replace')!a}, not with '{{': it is not a JSON object")
    event, found = read_source(codec.decode(text).map)
    if photographs is not None:
        photographs += found
    return event


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
