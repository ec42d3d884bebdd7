"""`facewire status`: the state of each device, and one exit code for monitors."""

from collections.abc import Iterator, Sequence
from typing import Any, Final

import click

from facewire_cli.main import EXIT_UNHEALTHY
from facewire_cli.options import DEVICE, IntRange, output_option
from facewire_cli.output import Form, Row, write_rows
from facewire_cli.render import duration
from facewire_platform.health.state import HealthLimits, assess, describe_times, troubles
from facewire_platform.history.queries import History
from facewire_platform.store.database import locate
from facewire_platform_cli.options import database_option, mention_unknown
from facewire_system.clock import now_ms

_NUMBERS: Final = ("head", "acked", "lag", "gaps", "quarantined", "dropped")
COLUMNS: Final = ("device", "state", "last_seen", *_NUMBERS, "clock_offset", "outage_budget")


@click.command()
@database_option
@click.option("-d", "--device", "devices", type=DEVICE, multiple=True, help="Only this device; may be repeated.")
@click.option("--all-epochs", is_flag=True, help="Show earlier epochs too.")
@click.option("--check", is_flag=True, help="Exit with 3 if one of these does not hold, or two boxes use one id, and name it:")
@click.option("--max-lag", type=IntRange(min=0), metavar="N", help="No device has more events waiting than this.")
@click.option("--online", is_flag=True, help="Each is connected, and was heard from in its last three periods.")
@click.option("--no-loss", is_flag=True, help="No event is in a gap, in quarantine, or dropped by its device.")
@output_option
def status(
    database: str, devices: Sequence[str], all_epochs: bool, check: bool, max_lag: int | None, online: bool, no_loss: bool, output: Form
) -> None:
    """Show each device: its state, its acked events, its losses.

    A device is silent if nothing arrived from it for three periods, though it
    said no goodbye. The clock offset is its clock minus the platform's. The
    outage budget is how long it can still be cut off before its ring
    overwrites events that are not acked, at the rate of its last events, as
    the platform saw them come. Without --check it also says on standard error
    which devices have events with times that cannot be.
    Missed, which is shown if there are any, are matches of this run of the
    device that missed the realtime lane; their events come as history.
    The proof of a bridged device says how far it is proved that its box lost
    nothing: docs/bridges.md.
    """
    limits = HealthLimits(max_lag, online=online, no_loss=no_loss)
    if check != (limits != HealthLimits()):
        raise click.UsageError("--check goes with one or more of --max-lag, --online and --no-loss")
    now = now_ms()
    with History(locate(database)) as history:
        rows = [assess(row, now) for row in history.devices(all_epochs=all_epochs) if not devices or row["device"] in devices]
        if not check:  # it names them in its own way
            mention_unknown(history, devices)
        times = {} if check else history.implausible(now)
    shown = {
        "last_seen": lambda at_ms: f"{duration(now - at_ms)} ago" if at_ms else "never",
        "clock_offset": _seconds,
        "outage_budget": _seconds,
    }
    epochs = ("epoch",) if all_epochs else ()
    more = tuple(name for name in ("missed", "proof") if any(row[name] for row in rows))
    write_rows(rows, output, (*COLUMNS[:1], *epochs, *COLUMNS[1:], *more), shown=shown)
    if said := describe_times({device: count for device, count in times.items() if not devices or device in devices}):
        click.echo(said, err=True)
    wrong = [*_unknown(rows, devices), *_unhealthy(rows, limits, now)] if check else []
    for line in wrong:
        click.echo(line, err=True)
    if wrong:
        raise click.exceptions.Exit(EXIT_UNHEALTHY)


def _seconds(value: Any) -> str:
    return duration(round(value * 1000))


def _unknown(rows: Sequence[Row], devices: Sequence[str]) -> Iterator[str]:
    yield from (f"{device}: never heard from" for device in dict.fromkeys(devices) if device not in {row["device"] for row in rows})


def _unhealthy(rows: Sequence[Row], limits: HealthLimits, now_ms: int) -> Iterator[str]:
    for row in rows:
        if wrong := "; ".join(troubles(row, limits, now_ms)):
            yield f"{row['device']}: {wrong}"
