"""`facewire events` and `gaps`: questions to the platform's store."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, Final, TypeVar

import click

from facewire.events import MAX_INT
from facewire_cli.options import DEVICE, MOMENT, output_option
from facewire_cli.output import Form, moment, write_rows
from facewire_platform.database import locate
from facewire_platform.queries import Filter, History

F = TypeVar("F", bound=Callable[..., Any])

EVENT_COLUMNS: Final = (
    "device",
    "epoch",
    "seq",
    "timestamp",
    "score",
    "identity_id",
    "identity_name",
    "person_type",
    "group_name",
    "ep_id",
)
GAP_COLUMNS: Final = ("device", "epoch", "first", "last", "events", "declared_at")
MOMENTS: Final[dict[str, Callable[[Any], str]]] = dict.fromkeys(("timestamp", "declared_at"), moment)


def _check_database(_ctx: click.Context, _param: click.Parameter, value: str) -> str:
    try:
        locate(value)
    except ValueError as exc:
        raise click.BadParameter(str(exc)) from exc
    return value


def check_text(_ctx: click.Context, _param: click.Parameter, value: str | None) -> str | None:
    """Refuse what no database takes: a callback of an option."""
    if any("\ud800" <= letter <= "\udfff" for letter in value or ""):
        raise click.BadParameter(f"{value!a} is not valid Unicode")
    return value


database_option = click.option(
    "--database",
    default="sqlite:///facewire.db",
    show_default=True,
    metavar="URL",
    callback=_check_database,
    help="sqlite:///FILE or postgresql://USER@HOST/NAME",
)


def _history(database: str) -> History:
    return History(locate(database))


_FILTER_OPTIONS = (
    click.option("--since", type=MOMENT, help="Device time, this or later: 10m (ago), 2026-11-23T08:00, ms since 1970."),
    click.option("--until", type=MOMENT, help="Device time, earlier than this."),
    click.option("-d", "--device", type=DEVICE, help="Only this device."),
    click.option("--person", callback=check_text, help="Only this identity_id; where nobody has it, this identity_name."),
    click.option("--person-type", type=click.IntRange(-MAX_INT, MAX_INT), help="1 employee, 2 visitor, 3 blocklisted, 4 stranger, 5 VIP."),
    click.option("--group", callback=check_text, help="Only compared against this group."),
    click.option("--min-score", type=float, help="Only of at least this score."),
)


def filter_options(command: F) -> F:
    """Add the options that say which events; the command gets `wanted: Filter`."""

    @functools.wraps(command)
    def with_filter(*args: Any, **given: Any) -> Any:
        wanted = Filter(**{field.name: given.pop(field.name) for field in dataclasses.fields(Filter)})
        return command(*args, wanted=wanted, **given)

    for option in reversed(_FILTER_OPTIONS):
        with_filter = option(with_filter)
    return with_filter  # type: ignore[return-value]  # its options take the place of `wanted`


@click.command()
@database_option
@filter_options
@click.option("--limit", type=click.IntRange(min=1), help="At most so many.")
@click.option("--newest-first", is_flag=True, help="Latest first.  [default: oldest first]")
@output_option
def events(database: str, limit: int | None, newest_first: bool, output: Form, wanted: Filter) -> None:
    """Query the stored events, by device time.

    JSON gives every field of an event as its device sent it.
    """
    with _history(database) as history:
        rows = history.events(wanted, limit=limit, newest_first=newest_first)
        write_rows(rows, output, EVENT_COLUMNS, shown=MOMENTS)


@click.command()
@database_option
@click.option("-d", "--device", type=DEVICE, help="Only this device.")
@output_option
def gaps(database: str, device: str | None, output: Form) -> None:
    """The events that are lost: ranges of seqs that will never come."""
    with _history(database) as history:
        write_rows(history.gaps(device), output, GAP_COLUMNS, shown=MOMENTS)
