"""`facewire platform columns`: copies of the history in Parquet files, which make reports fast."""

import sys
from collections.abc import Iterator
from typing import Final

import click

from facewire.counted import counted
from facewire_cli.options import output_option
from facewire_cli.output import Form, Row, write_rows
from facewire_platform.columns import engine
from facewire_platform.columns.builder import Builder
from facewire_platform.store.database import locate
from facewire_platform_cli.options import database_option

COLUMNS: Final = ("day", "events", "bytes", "file")


@click.group()
def columns() -> None:
    """Column files: Parquet copies of the history, which make reports fast.

    A worker builds them while it has little else to do. Answers never depend on
    them: what they lack is read from the database.
    """


@columns.command()
@database_option
def build(database: str) -> None:
    """Bring the column files up to date now.

    Safe beside workers; it may be killed at any time, and started again.
    """
    if not engine.is_installed():
        raise click.ClickException("column files need duckdb: pip install 'facewire[platform]'")
    with Builder(locate(database)) as builder:
        for waiting in builder.build():
            if sys.stderr.isatty():
                click.echo(f"\r{counted(waiting, 'event')} to copy ".ljust(40), err=True, nl=False)
        if sys.stderr.isatty():
            click.echo(err=True)
        events = sum(part.events for part in builder.parts())
    click.echo(f"column files are up to date: {counted(events, 'event')}", err=True)


@columns.command()
@database_option
def drop(database: str) -> None:
    """Remove all column files.

    Nothing is lost: answers come from the database, and a worker builds the
    files again. Stop the workers first if they are to stay away.
    """
    with Builder(locate(database)) as builder:
        builder.drop()


@columns.command("list")
@database_option
@output_option
def list_files(database: str, output: Form) -> None:
    """The column files: day (UTC), events, size and path.

    Each event is in one of them at most; the newest are in none yet.
    """
    with Builder(locate(database)) as builder:
        write_rows(_rows(builder), output, COLUMNS)


def _rows(builder: Builder) -> Iterator[Row]:
    folder = builder.folder()
    for part in builder.parts():
        path = None if folder is None else folder / part.name
        size = path.stat().st_size if path is not None and path.exists() else None
        yield {
            "day": part.name.split("=")[1][:10] if part.day is not None else None,
            "events": part.events,
            "bytes": size,
            "file": path and str(path),
        }
