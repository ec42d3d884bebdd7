"""`facewire tail`: follow the topics live, decoded. It only listens (see `following`)."""

import contextlib
import itertools
import secrets
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, TextIO, cast

import click

from facewire.topics import KINDS, QOS, Kind, Topics
from facewire_cli import render
from facewire_cli.ending import Ending
from facewire_cli.following import DropNewestInbox, Follower, FreshFollower, Notices, Until
from facewire_cli.options import DEVICE, SECONDS, IntRange, connection_options, output_option
from facewire_cli.output import Form, standard_output, write_rows

if TYPE_CHECKING:
    from facewire_gate.freshness import Proof
    from facewire_mqtt import Address


@click.command()
@connection_options
@click.option("-d", "--device", "devices", type=DEVICE, multiple=True, help="Only this device; may be repeated.")
@click.option("--kind", "kinds", type=click.Choice(KINDS), multiple=True, help="Only this kind; may be repeated.  [default: all]")
@click.option("--fresh", is_flag=True, help="Only matches that a gate may act on.")
@click.option(
    "--proof",
    type=click.Choice(["round_trip", "clock", "steady"]),
    help="What --fresh takes for proof (docs/consumers.md).  [default: clock]",
)
@click.option("-C", "--count", type=IntRange(min=1), help="End after this many messages.")
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
    proof: "Proof | None",
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
    if proof and not fresh:
        raise click.UsageError("--proof says how to judge freshness: add --fresh")
    if fresh and kinds:
        raise click.UsageError("--fresh shows only matches: leave out --kind")
    deadline = None if wait is None else time.monotonic() + wait
    out = standard_output()
    with Ending() as ending:
        until = Until(ending, deadline, out)
        following = _fresh(address, topics, devices, until, proof or "clock") if fresh else _all(address, topics, devices, kinds, until)
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


@contextlib.contextmanager
def _fresh(address: "Address", topics: Topics, devices: Sequence[str], until: Until, proof: "Proof") -> Iterator[Iterator[render.Row]]:
    from facewire_gate import Limits, fresh_matches

    limits, notices = Limits(proof=proof), Notices(str(address))
    with (
        fresh_matches(address, topics=topics, devices=devices, limits=limits, on_notice=notices.tell) as matches,
        # Closed here, so that its last notice comes before the command's own.
        contextlib.closing(FreshFollower(matches, topics, until).rows()) as rows,
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
        yield Follower(inbox, topics, str(address), until).rows()
    finally:
        connection.close(timeout=1.0)
