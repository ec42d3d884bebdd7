"""`facewire tail`: follow the topics live, decoded. It only listens.

paho's thread ──▶ DropNewestInbox ──▶ _Follower.rows() ────┬─▶ render ──▶ standard output
└── notices ──▶ standard error                              │
fresh_matches (--fresh) ──▶ _FreshFollower.rows() ──────────┘
└── what was refused ──▶ standard error
"""

import contextlib
import itertools
import queue
import secrets
import select
import time
from collections.abc import Generator, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Final, TextIO, cast

import click

from facewire.errors import BrokerError, CredentialsRefused
from facewire.topics import KINDS, QOS, Kind, Topics
from facewire_cli import render
from facewire_cli.ending import Ending
from facewire_cli.main import EXIT_TIMED_OUT
from facewire_cli.options import DEVICE, SECONDS, connection_options, output_option
from facewire_cli.output import Form, standard_output, visible, write_rows
from facewire_mqtt.clock import now_ms
from facewire_mqtt.reasons import Reasons

if TYPE_CHECKING:
    from facewire_gate.matches import FreshMatches
    from facewire_mqtt import Address, Happening

#: Messages that may wait to be shown, and bytes of them; further ones are counted and not shown.
INBOX_MESSAGES: Final = 10_000
INBOX_BYTES: Final = 64 * 1024 * 1024
#: The time between two notices of that, s.
COMPLAIN_EVERY: Final = 5.0
#: How soon we notice a signal, or a reader that has gone as `head` does, while no message
#: arrives, s.
LOOK_EVERY: Final = 0.1


@click.command()
@connection_options
@click.option("-d", "--device", "devices", type=DEVICE, multiple=True, help="Only this device; may be repeated.")
@click.option("--kind", "kinds", type=click.Choice(KINDS), multiple=True, help="Only this kind; may be repeated.  [default: all]")
@click.option("--fresh", is_flag=True, help="Only matches that a gate may act on.")
@click.option("-C", "--count", type=click.IntRange(min=1), help="End after this many messages.")
@click.option("-W", "--wait", type=SECONDS, help="End after this time, such as 30 or 5m, with exit code 124.")
@output_option
@click.option("--person", metavar="ID", help="Only events of this identity_id.")
@click.option("--min-score", type=float, help="Only events of at least this score.")
def tail(
    address: "Address",
    topics: Topics,
    devices: Sequence[str],
    kinds: Sequence[Kind],
    fresh: bool,
    count: int | None,
    wait: float | None,
    output: Form,
    person: str | None,
    min_score: float | None,
) -> None:
    """Follow the topics live, decoded, one message per line.

    An unreadable message is shown with the reason. --person and --min-score
    show only matches and batches that contain such an event. --fresh refuses
    a match that is retained, repeated, late, of a previous boot or not shown
    to be fresh, and counts it on standard error.
    """
    if fresh and kinds:
        raise click.UsageError("--fresh shows only matches: leave out --kind")
    deadline = None if wait is None else time.monotonic() + wait
    out = standard_output()
    with Ending() as ending:
        until = Until(ending, deadline, out)
        following = _fresh(address, topics, devices, until) if fresh else _all(address, topics, devices, kinds, until)
        with following as rows:
            wanted = (narrowed for row in rows if (narrowed := render.narrow(row, person, min_score)) is not None)
            write(itertools.islice(wanted, count), output, cast("TextIO", Output(out, ending)))


def filters(topics: Topics, devices: Sequence[str], kinds: Sequence[Kind]) -> list[tuple[str, int]]:
    """The subscriptions: these devices or every one, these kinds or all."""
    chosen = kinds or KINDS
    if not devices:
        return [(topics.all(kind), QOS[kind]) for kind in chosen]
    return [(topics.of(device, kind), QOS[kind]) for device in dict.fromkeys(devices) for kind in chosen]


def write(rows: Iterable[render.Row], form: Form, out: TextIO) -> None:
    """Write each row as it arrives."""
    if form != "pretty":
        write_rows(rows if form == "json" else map(render.flat, rows), form, render.COLUMNS, out=out, follow=True)
        return
    for row in rows:
        out.write(render.line(row) + "\n")
        out.flush()


class Output:
    """Standard output whose writes a signal interrupts while nobody reads, such as a pager."""

    def __init__(self, out: TextIO, ending: Ending) -> None:
        self._out, self._ending = out, ending
        self.isatty = out.isatty

    def write(self, text: str) -> int:
        with self._ending.unread():
            return self._out.write(text)

    def flush(self) -> None:
        with self._ending.unread():
            self._out.flush()


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


class _Notices:
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


class _Follower:
    """Empties an inbox: messages become rows, all else becomes notices or errors."""

    def __init__(self, inbox: DropNewestInbox, topics: Topics, broker: str, until: Until) -> None:
        self._inbox = inbox
        self._topics = topics
        self._notices = _Notices(broker)
        self._until = until
        self._complained = (0, 0.0)

    def rows(self) -> Iterator[render.Row]:
        """The messages.

        Raises:
            click.exceptions.Exit, BrokenPipeError: as `Until.turns` does.
            CredentialsRefused, BrokerError: the broker refuses.
        """
        try:
            for wait in self._until.turns():
                arrived = self._inbox.get(wait)
                self._complain(COMPLAIN_EVERY)
                if arrived is not None:
                    yield from self._shown(*arrived)
        finally:
            self._complain(0.0)

    def _shown(self, at_ms: int, happening: "Happening") -> Iterator[render.Row]:
        from facewire_mqtt import Received

        if isinstance(happening, Received):
            topic, payload, qos, retain = happening.topic, happening.payload, happening.qos, happening.retain
            yield render.to_row(self._topics, topic, payload, qos=qos, retain=retain, received_at=at_ms)
        else:
            self._notices.tell(happening)

    def _complain(self, every: float) -> None:
        said, at = self._complained
        now, dropped = time.monotonic(), self._inbox.dropped
        if dropped > said and (not said or now - at >= every):
            self._complained = dropped, now
            _say(f"{dropped - said} messages not shown: they arrive faster than your reader takes them")


class _FreshFollower:
    """Shows fresh matches as they arrive; sums up the refused ones on standard error."""

    def __init__(self, matches: "FreshMatches", topics: Topics, until: Until) -> None:
        self._matches = matches
        self._topics = topics
        self._until = until
        self._complained = (0, 0.0)

    def rows(self) -> Generator[render.Row, None, None]:
        """The matches. Raises as `_Follower.rows` does."""
        try:
            for wait in self._until.turns():
                fresh = self._matches.take(wait)
                self._complain(COMPLAIN_EVERY)
                if fresh is not None:
                    yield render.match_row(self._topics, fresh.device, fresh.match, qos=fresh.received.qos, received_at=fresh.received_at)
        finally:
            self._complain(0.0)

    def _complain(self, every: float) -> None:
        said, at = self._complained
        now, refused = time.monotonic(), self._matches.refused
        if refused.total() > said and (not said or now - at >= every):
            self._complained = refused.total(), now
            _say("refused so far: " + ", ".join(f"{count} {reason}" for reason, count in refused.most_common()))


@contextlib.contextmanager
def _fresh(address: "Address", topics: Topics, devices: Sequence[str], until: Until) -> Iterator[Iterator[render.Row]]:
    from facewire_gate import fresh_matches

    with (
        fresh_matches(address, topics=topics, devices=devices, on_notice=_Notices(str(address)).tell) as matches,
        # Closed here, so that its last notice comes before the command's own.
        contextlib.closing(_FreshFollower(matches, topics, until).rows()) as rows,
    ):
        yield rows


@contextlib.contextmanager
def _all(address: "Address", topics: Topics, devices: Sequence[str], kinds: Sequence[Kind], until: Until) -> Iterator[Iterator[render.Row]]:
    from facewire_mqtt import Connection

    inbox = DropNewestInbox()
    # 22 characters: a broker may refuse more than 23 (MQTT 3.1.1 section 3.1.3.1).
    connection = Connection(address, f"facewire-tail-{secrets.token_hex(4)}", filters(topics, devices, kinds), inbox.put, quiet=True)
    connection.start()
    try:
        yield _Follower(inbox, topics, str(address), until).rows()
    finally:
        connection.close(timeout=1.0)


def _reader_is_gone(out: TextIO) -> bool:
    try:
        pipe = select.poll()
        pipe.register(out.fileno(), 0)
        return any(event & select.POLLERR for _, event in pipe.poll(0))
    except (OSError, ValueError):  # it has no file descriptor, as in a test
        return False


def _say(notice: str) -> None:
    click.echo(visible(notice), err=True)
