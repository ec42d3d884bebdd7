"""`facewire platform purge`: delete old events, or all of one person."""

import click

from facewire.counted import counted
from facewire_cli.options import SECONDS, output_option
from facewire_cli.output import Form, write_rows
from facewire_cli.progress import progress
from facewire_platform.history.queries import History
from facewire_platform.history.retention import Purged, Retention
from facewire_platform.store.database import locate
from facewire_platform.store.drivers import Location
from facewire_platform_cli.options import check_text, database_option
from facewire_system.clock import now_ms

COLUMNS = ("events", "kept", "quarantined", "dry_run")


@click.command()
@database_option
@click.option("--older-than", type=SECONDS, help="Delete events and quarantine entries older than this: 180d.")
@click.option("--person", metavar="ID", callback=check_text, help="Delete all events and quarantine entries of this identity_id.")
@click.option("--dry-run", is_flag=True, help="Delete nothing; show what would be deleted.")
@output_option
def purge(database: str, older_than: float | None, person: str | None, dry_run: bool, output: Form) -> None:
    """Delete old events, or all of one person, while workers go on.

    Age is by the devices' clocks. Events whose history copy has not arrived yet
    are kept and counted: purge again a minute later. You may interrupt the
    command and start it again. docs/operating.md says what stays on the disk.
    """
    if (older_than is None) == (person is None):
        raise click.UsageError("give either --older-than or --person")
    if person == "":
        raise click.BadParameter("'' is no identity_id", param_hint="'--person'")
    if older_than == 0:
        raise click.BadParameter("0 would delete everything", param_hint="'--older-than'")
    before_ms = None if older_than is None else now_ms() - int(older_than * 1000)
    purged = _purge(locate(database), before_ms, person, dry_run=dry_run)
    write_rows([{"events": purged.events, "kept": purged.kept, "quarantined": purged.quarantined, "dry_run": dry_run}], output, COLUMNS)
    if person is not None and purged == Purged():
        click.echo("no event has this identity_id; --person takes an id, not a name", err=True)


def _purge(location: Location, before_ms: int | None, person: str | None, *, dry_run: bool) -> Purged:
    with History(location) as history:
        span = None if before_ms is None else history.span(None, before_ms)
    purged = Purged()
    try:
        with Retention(location, dry_run=dry_run) as retention, progress(span) as reach:
            for purged in retention.older_than(before_ms) if before_ms is not None else retention.person(person or ""):
                reach(purged.reached, purged.events)
    except KeyboardInterrupt:
        if not dry_run:
            click.echo(f"interrupted: {counted(purged.events, 'event')} deleted; the same command deletes the rest", err=True)
        raise
    return purged
