"""`facewire simulate`: load a broker and a platform with many devices, and judge the outcome."""

import asyncio
import contextlib
import random
import resource
from array import array
from collections import Counter, defaultdict
from typing import Any, Final

import click

from facewire.errors import FacewireError
from facewire.topics import Topics, check_device
from facewire_cli.ask import rows_of
from facewire_cli.main import EXIT_UNHEALTHY
from facewire_cli.options import SECONDS, FloatRange, IntRange, connection_options, output_option
from facewire_cli.output import Form, visible, write_rows
from facewire_device.uploader import DEFAULT_PERIOD, MIN_PERIOD
from facewire_fleet.fleet import Comparison, Plan, Rhythm, compare, crowd, percentile
from facewire_fleet.net import Fleet, State, allow_files
from facewire_mqtt.address import Address
from facewire_system.clock import now_ms

PROGRESS_EVERY: Final = 5.0
#: People enrolled in the whole fleet.
PEOPLE: Final = 2_000
#: With a larger photo, an event could be over the limit of a batch.
MAX_PHOTO_BYTES: Final = 150_000


def _check_url(_ctx: click.Context, _param: click.Parameter, value: str | None) -> str | None:
    """Refuse a URL that the platform refuses. The database itself may appear during the run."""
    if value is not None:
        with contextlib.suppress(FacewireError):
            for _ in rows_of("gaps", "--database", value, "-o", "json"):
                break
    return value


def _check_prefix(_ctx: click.Context, _param: click.Parameter, value: str) -> str:
    try:
        check_device(f"{value}00000")
    except ValueError as exc:
        raise click.BadParameter(str(exc)) from exc
    return value


@click.command()
@connection_options
@click.option("--devices", type=IntRange(1, 99_999), default=100, show_default=True, metavar="N", help="How many devices.")
@click.option(
    "--rate",
    type=FloatRange(0, 100, min_open=True),
    default=0.2,
    show_default=True,
    metavar="N",
    help="Mean events per second of each device.",
)
@click.option(
    "--period", type=SECONDS, default=f"{DEFAULT_PERIOD:g}s", show_default=True, help="Between batches of history; at least 20 s."
)
@click.option(
    "--catch-up", type=IntRange(1), default=1, show_default=True, metavar="N", help="Batches in a period while a backlog remains."
)
@click.option(
    "--for", "duration", type=SECONDS, default="1m", show_default=True, help="How long to make events; then it waits until all are acked."
)
@click.option("--outage", type=SECONDS, default="0s", show_default=True, help="How long all connections are down in the middle.")
@click.option("--seed", type=int, default=1, show_default=True, help="Decides who passes when; repeat it to repeat a run.")
@click.option("--threshold", type=float, default=0.8, show_default=True, help="Scores above it are matches.")
@click.option("--prefix", default="sim-", show_default=True, callback=_check_prefix, help="The devices' names begin with this.")
@click.option("--photo", type=IntRange(0, MAX_PHOTO_BYTES), default=0, metavar="BYTES", help="Size of a picture that goes with each event.")
@click.option(
    "--capacity", type=IntRange(1), default=1_000, show_default=True, metavar="N", help="Events that each device holds, in memory."
)
@click.option("--database", callback=_check_url, metavar="URL", help="The platform's, to check what is stored.")
@output_option
def simulate(address: Address, topics: Topics, database: str | None, output: Form, **options: Any) -> None:
    """Run a fleet of devices under load, with a verdict on every event.

    One process, but a real connection for each device and the real contract.
    People pass as in an office building, whose day is scaled into the run. The
    exit code is 0 if every recorded event is acked and, with --database, stored
    exactly once; otherwise 3.
    """
    _check_times(options["duration"], options["outage"], options["period"])
    allow_files(options["devices"])
    started_ms = now_ms()
    fleet = _fleet(address, topics, **options)
    state = asyncio.run(fleet.run(_Progress().show, PROGRESS_EVERY))
    verdict = _verdict(state)
    if database is not None:
        comparison = _stored(database, fleet.heads(), started_ms)
        lost = max(comparison.gaps, state.dropped)
        verdict |= {"stored": comparison.stored, "doubled": comparison.doubled, "missing": comparison.missing, "lost": lost}
    _write(verdict, output)
    if not is_healthy(verdict):
        raise click.exceptions.Exit(EXIT_UNHEALTHY)


def is_healthy(verdict: dict[str, Any]) -> bool:
    """Whether no event is lost, doubled or unacked, and the platform refused none."""
    wrong = ("lost", "not_acked", "devices_not_acked", "refused", "quarantined", "forks", "doubled", "missing")
    return not any(verdict.get(name) for name in wrong)


def _check_times(duration: float, outage: float, period: float) -> None:
    if not duration > 0:
        raise click.UsageError("--for must be above 0 s")
    if outage >= duration:
        raise click.UsageError(f"--outage of {outage:g} s is not below the run's {duration:g} s")
    if period < MIN_PERIOD:
        raise click.UsageError(f"--period of {period:g} s is below the limit of {MIN_PERIOD:g} s")


def _fleet(address: Address, topics: Topics, *, devices: int, prefix: str, seed: int, outage: float, photo: int, **options: Any) -> Fleet:
    chance = random.Random(seed)  # noqa: S311  # no secret
    plan = Plan(people=crowd(PEOPLE, chance.random), rhythm=Rhythm(), photo=chance.randbytes(photo), **options)
    names = [f"{prefix}{n:05}" for n in range(1, devices + 1)]
    return Fleet(address, topics, names, plan, seed=seed, outage=outage)


class _Progress:
    """Prints progress to standard error."""

    def __init__(self) -> None:
        self._reported = 0

    def show(self, state: State) -> None:
        tally = state.tally
        lately = percentile(sorted(tally.latencies[self._reported :]), 0.99)
        self._reported = len(tally.latencies)
        line = f"{state.elapsed:5.0f} s  connected {state.connected}/{state.devices}  recorded {state.recorded}  acked {state.acked}"
        line += f"  matches {tally.matches}  ack p99 {'-' if lately is None else f'{lately * 1000:.0f} ms'}"
        click.echo(visible(line + (f"  ({tally.last_error})" if tally.last_error else "")), err=True)


def _verdict(state: State) -> dict[str, Any]:
    tally = state.tally
    rising = sorted(tally.latencies)
    row: dict[str, Any] = {
        "devices": state.devices,
        "connected": state.connected,
        "recorded": state.recorded,
        "acked": state.acked,
        "not_acked": state.recorded - state.acked,
        "devices_not_acked": state.not_fully_acked,
        "lost": state.dropped,
        "matches": tally.matches,
        "matches_missed": tally.matches_missed,
        "batches": tally.batches,
        "batches_s": round(tally.batches / state.elapsed, 1),
        "resends": tally.resends,
        "sessions": tally.sessions,
        "refused": tally.refused,
        "quarantined": tally.rejected,
        "forks": tally.forks,
    }
    for name, share in (("ack_p50_ms", 0.5), ("ack_p99_ms", 0.99), ("ack_p999_ms", 0.999)):
        at = percentile(rising, share)
        row[name] = None if at is None else round(at * 1000, 1)
    return row | {"peak_rss_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1)}


def _stored(database: str, heads: dict[tuple[str, str], int], started_ms: int) -> Comparison:
    """Compare the events on the platform with the recorded ones."""
    names = {device for device, _ in heads}
    stored: defaultdict[tuple[str, str], array[int]] = defaultdict(lambda: array("q"))
    for row in rows_of("export", "--database", database, "--since", str(started_ms)):
        if row["device"] in names:
            stored[row["device"], row["epoch"]].append(row["seq"])
    gaps: Counter[tuple[str, str]] = Counter()
    for row in rows_of("gaps", "--database", database, "-o", "json"):
        gaps[row["device"], row["epoch"]] += row["events"]
    return compare(heads, stored, gaps)


def _write(verdict: dict[str, Any], output: Form) -> None:
    healthy = is_healthy(verdict)
    if output != "pretty":
        write_rows([{"healthy": healthy, **verdict}], output, ("healthy", *verdict))
        return
    for name, value in verdict.items():
        click.echo(f"{name:<18}{'-' if value is None else value:>12}")
    click.echo("every event is accounted for" if healthy else "NOT HEALTHY: events are lost, doubled or not acked")
