"""Options that several commands share: the database, and the selection of events."""

import dataclasses
import functools
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import click

from facewire.events import MAX_INT, PERSON_TYPES
from facewire_cli.options import DEVICE, MOMENT, IntRange
from facewire_platform.filter import Filter
from facewire_platform.history.queries import History
from facewire_platform.store.database import locate

F = TypeVar("F", bound=Callable[..., Any])


def _check_database(_ctx: click.Context, _param: click.Parameter, value: str) -> str:
    try:
        locate(value)
    except ValueError as exc:
        raise click.BadParameter(str(exc)) from exc
    return value


def check_text(_ctx: click.Context, _param: click.Parameter, value: str | None) -> str | None:
    """Refuse text that no database can store; a callback for options."""
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


_FILTER_OPTIONS = (
    click.option("--since", type=MOMENT, help="Device time, from then on: 10m (ago), 2026-11-23T08:00, ms since 1970."),
    click.option("--until", type=MOMENT, help="Device time, before then."),
    click.option("-d", "--device", type=DEVICE, help="Only this device."),
    click.option("--person", callback=check_text, help="Only this identity_id or identity_name."),
    click.option("--person-type", type=IntRange(-MAX_INT, MAX_INT), help=f"{PERSON_TYPES}."),
    click.option("--group", callback=check_text, help="Only comparisons with this group."),
    click.option("--min-score", type=float, help="Only scores of at least this."),
)


def mention_unknown(history: History, devices: Iterable[str | None]) -> None:
    """Say on standard error which of these devices the platform has never heard of."""
    for device in dict.fromkeys(devices):
        if device is not None and not history.knows(device):
            click.echo(f"{device}: the platform has never heard of this device", err=True)


def filter_options(command: F) -> F:
    """Add the options that select events; the command gets `wanted: Filter`."""

    @functools.wraps(command)
    def with_filter(*args: Any, **given: Any) -> Any:
        wanted = Filter(**{field.name: given.pop(field.name) for field in dataclasses.fields(Filter)})
        return command(*args, wanted=wanted, **given)

    for option in reversed(_FILTER_OPTIONS):
        with_filter = option(with_filter)
    return with_filter  # type: ignore[return-value]  # its options take the place of `wanted`
