"""`facewire events` and `facewire gaps`: questions to the platform's store."""

from collections.abc import Callable
from typing import Any, Final

import click

from facewire_cli.options import DEVICE, IntRange, output_option
from facewire_cli.output import Form, moment, write_rows
from facewire_platform.filter import Filter
from facewire_platform.history.queries import History
from facewire_platform.store.database import locate
from facewire_platform_cli.options import database_option, filter_options, mention_unknown

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
GAP_COLUMNS: Final = ("device", "epoch", "first", "last", "events", "declared_at", "reason")
MOMENTS: Final[dict[str, Callable[[Any], str]]] = dict.fromkeys(("timestamp", "declared_at"), moment)


@click.command()
@database_option
@filter_options
@click.option("--limit", type=IntRange(min=1), help="At most this many.")
@click.option("--newest-first", is_flag=True, help="Newest first.  [default: oldest first]")
@output_option
def events(database: str, limit: int | None, newest_first: bool, output: Form, wanted: Filter) -> None:
    """Query the stored events, by device time.

    JSON gives every field of an event as its device sent it.
    """
    with History(locate(database)) as history:
        mention_unknown(history, [wanted.device])
        rows = history.events(wanted, limit=limit, newest_first=newest_first)
        write_rows(rows, output, EVENT_COLUMNS, shown=MOMENTS)


@click.command()
@database_option
@click.option("-d", "--device", type=DEVICE, help="Only this device.")
@output_option
def gaps(database: str, device: str | None, output: Form) -> None:
    """List the lost events: ranges of seqs that will never arrive."""
    with History(locate(database)) as history:
        mention_unknown(history, [device])
        write_rows(history.gaps(device), output, GAP_COLUMNS, shown=MOMENTS)
