"""Follows the topics until it is time to stop: arriving messages become rows.

paho's thread ──▶ DropNewestInbox ──▶ Follower.rows() ──┬─▶ render ──▶ standard output
                                      └── notices ──────│──▶ standard error
fresh_matches (--fresh) ─────▶ FreshFollower.rows() ────┘
                               └── refused matches ────────▶ standard error
"""

import queue
import select
import time
from collections.abc import Generator, Iterator
from typing import TYPE_CHECKING, Final, TextIO

import click

from facewire.counted import counted
from facewire.errors import BrokerError, CredentialsRefused
from facewire.topics import Topics
from facewire_cli import render
from facewire_cli.ending import Ending
from facewire_cli.main import EXIT_TIMED_OUT
from facewire_cli.output import visible
from facewire_mqtt.reasons import Reasons
from facewire_system.clock import now_ms

if TYPE_CHECKING:
    from facewire_gate.matches import FreshMatches
    from facewire_mqtt import Happening

#: Messages that may wait to be shown, and bytes of them; further ones are counted and not shown.
INBOX_MESSAGES: Final = 10_000
INBOX_BYTES: Final = 64 * 1024 * 1024
#: The time between two notices of that, s.
COMPLAIN_EVERY: Final = 5.0
#: How soon we notice a signal, or a reader that has gone as `head` does, while no message
#: arrives, s.
LOOK_EVERY: Final = 0.1


class Until:
    """When to stop following.

    Args:
        ending: a signal ends the command with code 0.
        deadline: monotonic, s; ends the command with code 124.
        out: if its reader has gone, the command ends with code 0.
    """

    def __init__(self, ending: Ending, deadline: float | None, out: TextIO) -> None:
        self._ending, self._deadline, self._out = ending, deadline, out

    def turns(self) -> Iterator[float]:
        """How long to wait for the next message, s, until it is time to stop.

        Raises:
            click.exceptions.Exit: the deadline is past.
            BrokenPipeError: nobody reads what we write.
        """
        while not self._ending.asked:
            left = LOOK_EVERY if self._deadline is None else self._deadline - time.monotonic()
            if left <= 0:
                raise click.exceptions.Exit(EXIT_TIMED_OUT)
            yield min(left, LOOK_EVERY)
            if _reader_is_gone(self._out):
                raise BrokenPipeError


class DropNewestInbox:
    """Holds what paho's thread reports for the thread that shows it. Bounded; never blocks paho."""

    def __init__(self, most: int = INBOX_MESSAGES, most_bytes: int = INBOX_BYTES) -> None:
        self._most, self._most_bytes = most, most_bytes
        #: Bytes of payloads since the start. Each is counted by one thread alone.
        self._put_bytes = self._taken_bytes = 0
        self._queue: queue.SimpleQueue[tuple[int, Happening]] = queue.SimpleQueue()
        #: Messages that arrived while the inbox was full.
        self.dropped = 0

    def put(self, happening: "Happening") -> None:
        from facewire_mqtt import Received

        if isinstance(happening, Received):
            waiting = self._put_bytes - self._taken_bytes
            if self._queue.qsize() >= self._most or waiting + len(happening.payload) > self._most_bytes:
                self.dropped += 1
                return
            self._put_bytes += len(happening.payload)
        self._queue.put((now_ms(), happening))

    def get(self, timeout: float) -> "tuple[int, Happening] | None":
        """The time of arrival, ms since 1970 UTC, and the happening; None if none arrived."""
        from facewire_mqtt import Received

        try:
            item = self._queue.get(timeout=timeout)
        except queue.Empty:
            return None
        if isinstance(item[1], Received):
            self._taken_bytes += len(item[1].payload)
        return item


class Notices:
    """Writes to standard error how the connection fares."""

    def __init__(self, broker: str) -> None:
        self._broker = broker
        #: None before the first answer.
        self._up: bool | None = None
        self._reasons = Reasons()

    def tell(self, happening: "Happening") -> None:
        """Write a notice. Raises `CredentialsRefused` or `BrokerError` if the broker refuses us."""
        from facewire_mqtt import Connected, Disconnected, Refused

        match happening:
            case Refused(reason, credentials=True):
                raise CredentialsRefused(f"{self._broker} refused our credentials: {reason}")
            case Refused(reason):
                raise BrokerError(f"{self._broker}: {reason}")
            case Connected():
                self._up = True
                self._reasons.connected()
                _say(f"connected to {self._broker}")
            case Disconnected(reason) if self._reasons.is_news(reason, time.monotonic()):
                lost, self._up = self._up, False
                _say(f"lost {self._broker}: {reason}; trying again" if lost else f"waiting for {self._broker}: {reason}")


class _Paced:
    """Keeps notices about a number that grows `COMPLAIN_EVERY` apart; the first comes at once."""

    def __init__(self) -> None:
        self._noted, self._at = 0, 0.0

    def new(self, count: int, *, last: bool) -> int:
        """By how much it grew since the last notice; 0 if it is too soon for another."""
        now, grown = time.monotonic(), count - self._noted
        if self._noted and not last and now - self._at < COMPLAIN_EVERY:
            return 0
        if grown:
            self._noted, self._at = count, now
        return grown


class Follower:
    """Empties an inbox: messages become rows, all else becomes notices or errors."""

    def __init__(self, inbox: DropNewestInbox, topics: Topics, broker: str, until: Until) -> None:
        self._inbox = inbox
        self._topics = topics
        self._notices = Notices(broker)
        self._until = until
        self._paced = _Paced()

    def rows(self) -> Iterator[render.Row]:
        """The messages.

        Raises:
            click.exceptions.Exit, BrokenPipeError: as `Until.turns` does.
            CredentialsRefused, BrokerError: the broker refuses.
        """
        try:
            for wait in self._until.turns():
                arrived = self._inbox.get(wait)
                self._complain()
                if arrived is not None:
                    yield from self._shown(*arrived)
        finally:
            self._complain(last=True)

    def _shown(self, at_ms: int, happening: "Happening") -> Iterator[render.Row]:
        from facewire_mqtt import Received

        if isinstance(happening, Received):
            topic, payload, qos, retain = happening.topic, happening.payload, happening.qos, happening.retain
            yield render.to_row(self._topics, topic, payload, qos=qos, retain=retain, received_at=at_ms)
        else:
            self._notices.tell(happening)

    def _complain(self, *, last: bool = False) -> None:
        if new := self._paced.new(self._inbox.dropped, last=last):
            _say(f"{counted(new, 'message')} not shown: they arrive faster than your reader takes them")


class FreshFollower:
    """Shows fresh matches as they arrive; sums up the refused ones on standard error."""

    def __init__(self, matches: "FreshMatches", topics: Topics, until: Until) -> None:
        self._matches = matches
        self._topics = topics
        self._until = until
        self._paced = _Paced()

    def rows(self) -> Generator[render.Row, None, None]:
        """The matches. Raises as `Follower.rows` does."""
        try:
            for wait in self._until.turns():
                fresh = self._matches.take(wait)
                self._complain()
                if fresh is not None:
                    yield render.match_row(self._topics, fresh.device, fresh.match, qos=fresh.received.qos, received_at=fresh.received_at)
        finally:
            self._complain(last=True)

    def _complain(self, *, last: bool = False) -> None:
        refused = self._matches.refused
        if self._paced.new(refused.total(), last=last):
            _say("refused so far: " + ", ".join(f"{count} {reason}" for reason, count in refused.most_common()))


def _reader_is_gone(out: TextIO) -> bool:
    try:
        pipe = select.poll()
        pipe.register(out.fileno(), 0)
        return any(event & select.POLLERR for _, event in pipe.poll(0))
    except (OSError, ValueError):  # it has no file descriptor, as in a test
        return False


def _say(notice: str) -> None:
    click.echo(visible(notice), err=True)
