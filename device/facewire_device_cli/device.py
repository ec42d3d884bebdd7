"""`facewire device`: run the agent on a store, record into the store, show its state."""

import contextlib
import functools
import logging
import os
import sys
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from pathlib import Path
from typing import Any, Final, TypeVar

import click

from facewire.counted import counted
from facewire.errors import DecodeError, StoreError
from facewire.events import Event
from facewire.photographs import Photograph
from facewire.topics import Topics
from facewire_cli.ending import Ending
from facewire_cli.logs import say
from facewire_cli.main import EXIT_INTERRUPTED
from facewire_cli.options import DEVICE, SECONDS, connection_options, output_option
from facewire_cli.output import Form, visible, write_rows
from facewire_cli.render import duration
from facewire_cli.systemd import Service
from facewire_device import Agent, Recorder, Settings
from facewire_device.identity import machine_identity
from facewire_device.recorder import Recorded
from facewire_device.sources import BadLine, read_event, read_events
from facewire_device.store import Store, open_store
from facewire_mqtt.address import Address

#: How long to wait for a session before the source is read, s. An event recorded without a session
#: is no match.
SESSION_WAIT: Final = 3.0
SESSION_POLL: Final = 0.05
#: How long to wait after the store failed, s.
RETRY_WAIT: Final = 1.0


F = TypeVar("F", bound=Callable[..., Any])


def _store_option(more: str = "") -> Callable[[F], F]:
    return click.option(
        "--store",
        required=True,
        # Its rights are judged with the store's other files, and are no mistake in the settings.
        type=click.Path(dir_okay=False, readable=False, path_type=Path),
        metavar="FILE",
        help=f"The device's store{more}.",
    )


store_option = _store_option("; made if missing")
machine_option = click.option("--machine", default=machine_identity, help="Identity of this machine.  [default: its serial number]")
set_aside_option = click.option(
    "--set-aside-damaged", "set_aside", is_flag=True, help="Rename a damaged store and start a new one, with a new epoch."
)


def reporting_options(command: F) -> F:
    """Add the options of both ways of reporting: `--threshold`, `--period`, `--catch-up`."""
    for option in (
        click.option(
            "--catch-up", type=int, default=1, show_default=True, metavar="N", help="Batches in a period while a backlog remains."
        ),
        click.option("--period", type=SECONDS, default="20s", show_default=True, help="Between batches of history; at least 20 s."),
        click.option("--threshold", type=float, help="Scores above it are matches.  [default: no matches, history only]"),
    ):
        command = option(command)
    return command


@click.group()
def device() -> None:
    """Run a device: store, matches, history."""


@device.command()
@click.option("--id", "name", required=True, type=DEVICE, help="The device's name in the topics.")
@connection_options
@store_option
@reporting_options
@click.option("--batch", type=int, default=100, show_default=True, metavar="N", help="Events in a batch; at most 100.")
@click.option("--capacity", type=int, metavar="N", help="Events that the store holds.  [default: 10000]")
@click.option(
    "--source",
    type=click.Path(exists=True, dir_okay=False, allow_dash=True),
    metavar="FILE|-",
    help="Events to record, JSON Lines; - is standard input.",
)
@click.option("--exit-when-acked", is_flag=True, help="End once the source has ended and everything is acked.")
@machine_option
@set_aside_option
def run(
    name: str,
    address: Address,
    topics: Topics,
    source: str | None,
    exit_when_acked: bool,  # click's
    **options: Any,
) -> None:
    """Publish the store's events: matches at once, history until acked.

    Events come from --source, from `facewire device record`, or from a process
    that uses the library on the same store. A seq in a source is ignored,
    because the store gives its own. A line that is not an event is reported and
    skipped.
    """
    with Ending() as ending:
        service = Service()
        with _agent(service, ending, name, address=address, topics=topics, **options) as agent:
            try:
                acked = _work(agent, ending, source, exit_when_acked=exit_when_acked)
            finally:
                service.stopping()
        if exit_when_acked and not acked:
            raise click.exceptions.Exit(EXIT_INTERRUPTED)


def _work(agent: Agent, ending: Ending, source: str | None, *, exit_when_acked: bool) -> bool:
    """Work until a signal arrives or, with `exit_when_acked`, until all events are acked.

    Returns whether all are acked. Raises `StoreError` if the agent fails.
    """
    if source is not None:
        with Recorder(agent.open_store, agent.wake) as recorder:
            await_sessions([agent], ending)
            _record_source(source, recorder, ending)
    if exit_when_acked and not ending.wait(0):
        return agent.wait_acked(ending.wait)
    ending.wait()
    agent.wait(0)
    return False


def _agent(service: Service, ending: Ending, *values: Any, **options: Any) -> Agent:
    try:
        return Agent(Settings(*values, **options), on_turn=service.turn, on_failure=ending.announce)
    except ValueError as exc:
        raise click.UsageError(str(exc)) from exc


def await_sessions(agents: Collection[Agent], ending: Ending) -> None:
    """Wait for the first session of each agent, until the end comes, or for `SESSION_WAIT`."""
    deadline = time.monotonic() + SESSION_WAIT
    while not all(agent.wait_connected(0) for agent in agents) and time.monotonic() < deadline and not ending.wait(SESSION_POLL):
        pass


@contextlib.contextmanager
def _opened(source: str) -> Iterator[int]:
    """A descriptor to read. A named pipe opens at once, and waits for a writer later (fifo(7))."""
    if source == "-":
        yield _standard_input()
        return
    fd = os.open(source, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        os.set_blocking(fd, True)
        yield fd
    finally:
        os.close(fd)


def _standard_input() -> int:
    if sys.stdin is None:  # its number may belong to another file by now
        raise click.ClickException("standard input is closed")
    return sys.stdin.fileno()


def _record_source(source: str, recorder: Recorder, ending: Ending) -> None:
    """Record the events of the source, until it ends or we do."""
    recorded = skipped = 0
    try:
        with _opened(source) as fd:
            photographs: list[Photograph] = []
            for events, bad in read_events(fd, ending.readable, photographs):
                if _record_patiently(events, photographs, recorder, ending.wait) is None:
                    return
                _report(bad)
                recorded, skipped = recorded + len(events), skipped + len(bad)
    except OSError as exc:
        raise click.ClickException(f"{source}: {exc.strerror}") from exc
    if not ending.wait(0):
        say("source ended: %s recorded, %s skipped", counted(recorded, "event"), counted(skipped, "line"))


def _record_patiently(
    events: list[Event], photographs: list[Photograph], recorder: Recorder, wait: Callable[[float], object]
) -> list[Recorded] | None:
    """Try until the store takes the events, because nobody else has them; the source waits too.

    `wait` waits so many seconds; if it returns true, the end comes first, and the result is None.
    """
    said = False
    while True:
        try:
            recorder.photos.keep_or_lose(photographs)
            recorded = recorder.record_all(events)
        except StoreError as exc:
            if not said:
                say("source waits: %s", exc, level=logging.WARNING)
            said = True
        else:
            if said:
                say("source goes on")
            photographs.clear()
            return recorded
        if wait(RETRY_WAIT):
            return None


def _report(bad: Iterable[BadLine]) -> None:
    for line in bad:
        say("line %d skipped: %s", line.number, line.reason, level=logging.WARNING)


@device.command()
@store_option
@machine_option
@click.argument("events", nargs=-1, metavar="[EVENT]...")
@output_option
def record(store: Path, machine: str | None, events: tuple[str, ...], output: Form) -> None:
    """Record events in a store, each a JSON object; without any, JSON Lines on standard input.

    Prints the identity of each once it is durable. An agent that runs on the
    store publishes them.
    """
    failed = False
    with Recorder(functools.partial(open_store, store, machine=machine)) as recorder:
        photographs: list[Photograph] = []
        for found, bad in read_events(_standard_input(), photographs=photographs) if not events else _arguments(events, photographs):
            recorded = _record_now(found, photographs, recorder) if events else _record_from_pipe(found, photographs, recorder)
            _report(bad)
            failed = failed or bool(bad)
            write_rows([one._asdict() for one in recorded], output, ("epoch", "seq"), follow=True)
    if failed:
        raise click.exceptions.Exit(1)


def _record_now(events: list[Event], photographs: list[Photograph], recorder: Recorder) -> list[Recorded]:
    recorder.photos.keep_or_lose(photographs)
    photographs.clear()
    return recorder.record_all(events)


def _record_from_pipe(events: list[Event], photographs: list[Photograph], recorder: Recorder) -> list[Recorded]:
    try:
        return _record_patiently(events, photographs, recorder, time.sleep) or []
    except KeyboardInterrupt:
        say("%s read and not recorded", counted(len(events), "event"), level=logging.WARNING)
        raise


def _arguments(events: tuple[str, ...], photographs: list[Photograph]) -> Iterator[tuple[list[Any], list[BadLine]]]:
    for number, text in enumerate(events, 1):
        try:
            yield [read_event(text.encode(errors="surrogateescape"), photographs)], []
        except DecodeError as exc:
            yield [], [BadLine(number, str(exc))]


@device.command()
@_store_option()
@output_option
def status(store: Path, output: Form) -> None:
    """Show a store's state: its events, its acks, how long an outage may last."""
    with open_store(store, create=False) as opened:
        row = store_status(opened)
    if output == "pretty":
        for name, value in row.items():
            click.echo(visible(f"{name:<10} {'-' if value is None else value}"))
        click.echo(_budget(row))
    else:
        write_rows([row], output, tuple(row))


def store_status(store: Store) -> dict[str, Any]:
    """One row about a store. `rate` is in events per second, `full_in` in seconds, if known."""
    ring, rate = store.ring(), store.rate()
    room = max(0, store.capacity - ring.lag)
    return {
        "device": store.device(),
        "epoch": ring.epoch,
        "head": ring.head,
        "oldest": ring.oldest,
        "cursor": ring.cursor,
        "lag": ring.lag,
        "dropped": ring.dropped,
        "capacity": store.capacity,
        "rate": rate and round(rate, 6),
        "full_in": rate and round(room / rate, 1),
    }


def _budget(row: dict[str, Any]) -> str:
    if row["full_in"] is None:
        return "outage budget unknown: too few events to know the rate"
    if row["full_in"] == 0:
        return "ring full: each new event overwrites one that is not acked"
    return f"ring full in {duration(int(row['full_in'] * 1000))} at this rate, if nothing is acked"
