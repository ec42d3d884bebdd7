"""`facewire platform forget`: a device, or one epoch of it, is gone from every table and report."""

import click

from facewire.counted import counted
from facewire_cli.options import DEVICE, matching, output_option
from facewire_cli.output import Form, write_rows
from facewire_platform.history.forget import Forgetting, Forgotten
from facewire_platform.store.database import locate
from facewire_platform_cli.options import database_option

COLUMNS = ("device", "epochs", "events", "quarantined", "dry_run")


@click.command()
@click.argument("device", type=DEVICE)
@database_option
@click.option(
    "--epoch", callback=matching("[0-9A-Fa-f]{16}", "16 hex digits"), help="Forget only this epoch of it (`facewire status --all-epochs`)."
)
@click.option("--dry-run", is_flag=True, help="Forget nothing; show what would be forgotten.")
@output_option
def forget(device: str, database: str, epoch: str | None, dry_run: bool, output: Form) -> None:
    """Forget DEVICE: its events, losses, quarantine and state.

    For a device that was stolen, renamed, a test, or that reported nonsense.
    Take its credential away first: otherwise it comes back with its next
    message. You may interrupt the command and start it again.
    """
    forgotten = Forgotten()
    try:
        with Forgetting(locate(database), dry_run=dry_run) as forgetting:
            for progress in forgetting.device(device, epoch):
                forgotten = progress
    except KeyboardInterrupt:
        if not dry_run:
            click.echo(f"interrupted: {counted(forgotten.events, 'event')} deleted; the same command forgets the rest", err=True)
        raise
    row = {"epochs": forgotten.epochs, "events": forgotten.events, "quarantined": forgotten.quarantined}
    write_rows([{"device": device, **row, "dry_run": dry_run}], output, COLUMNS)
    if forgotten == Forgotten():
        click.echo("no events of this device or epoch are stored", err=True)
