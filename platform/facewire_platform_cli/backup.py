"""`facewire platform backup` and `restore`."""

import time
from pathlib import Path

import click

from facewire_platform.store.backup import backup as backup_database
from facewire_platform.store.backup import restore as restore_database
from facewire_platform.store.database import locate
from facewire_platform_cli.options import database_option


@click.command()
@database_option
@click.option("--to", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE", required=True, help="The copy; must not exist yet.")
def backup(database: str, to: Path) -> None:
    """Copy a SQLite database while the worker goes on.

    The copy is a single file, a snapshot of one moment. It appears only when it
    is complete and was read through once. For PostgreSQL use pg_dump: see
    docs/operating.md.
    """
    started = time.monotonic()
    size_bytes = backup_database(_file(database), to)
    click.echo(f"{to}: {size_bytes / 1e6:.1f} MB in {time.monotonic() - started:.1f} s", err=True)


@click.command()
@database_option
@click.option(
    "--from",
    "copy",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="FILE",
    required=True,
    help="A file that backup made.",
)
def restore(database: str, copy: Path) -> None:
    """Replace a SQLite database by a backup.

    Stop the worker first. The old database is kept beside the new one. Devices
    notice the restore by themselves and resend the events that they still hold;
    `facewire gaps` lists the others.
    """
    before = restore_database(_file(database), copy)
    click.echo(f"restored; the old database is now {before}" if before else "restored", err=True)


def _file(database: str) -> Path:
    location = locate(database)
    if isinstance(location, str):
        raise click.UsageError("PostgreSQL is backed up by pg_dump and restored by pg_restore, see docs/operating.md")
    return location
