"""`facewire export`: any number of events, to a file or a pipe."""

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final, Literal, TextIO

import click

from facewire_cli.options import excel_option
from facewire_cli.output import standard_output, write_rows
from facewire_cli.progress import Reach, progress
from facewire_platform.columns import engine
from facewire_platform.columns.folder import sync
from facewire_platform.columns.single import write_parquet
from facewire_platform.filter import Filter
from facewire_platform.history.queries import History
from facewire_platform.history.reader import Row
from facewire_platform.store.database import locate
from facewire_platform_cli.events import EVENT_COLUMNS
from facewire_platform_cli.options import database_option, filter_options, mention_unknown

#: Events between two updates of the progress bar.
STEP: Final = 1_000


@click.command()
@database_option
@click.option(
    "--to", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE", help="Appears only when it is complete.  [default: stdout]"
)
@filter_options
@click.option(
    "-o",
    "--output",
    type=click.Choice(["jsonl", "csv", "parquet"]),
    default="jsonl",
    show_default=True,
    help="csv has the main fields only; parquet needs --to.",
)
@excel_option
def export(database: str, to: Path | None, wanted: Filter, output: Literal["jsonl", "csv", "excel", "parquet"]) -> None:
    """Write all events, by device time.

    Needs little memory, and workers may go on storing. JSON Lines have every
    field of an event as its device sent it, photographs in base64.
    """
    if output == "parquet" and (to is None or not engine.is_installed()):
        raise click.UsageError("-o parquet needs --to FILE" if to is None else "-o parquet needs duckdb: pip install 'facewire[platform]'")
    if output == "parquet" and to is not None and to.exists() and not to.is_file():
        raise click.UsageError(f"-o parquet needs a regular file, not {to}")
    with History(locate(database)) as history, contextlib.ExitStack() as stack:
        mention_unknown(history, [wanted.device])
        # Nobody could see a progress bar among rows on a terminal.
        span = history.span(wanted.since, wanted.until)
        reach = stack.enter_context(progress(span)) if to is not None or not sys.stdout.isatty() else None
        events = _with_progress(history.events(wanted), reach)
        if to is not None and output == "parquet":
            write_parquet(events, stack.enter_context(whole_path(to)))
            return
        out = standard_output() if to is None else stack.enter_context(whole_file(to))
        write_rows(events, "csv" if output == "csv" else "excel" if output == "excel" else "json", EVENT_COLUMNS, out=out)


def _with_progress(rows: Iterator[Row], reach: Reach | None) -> Iterator[Row]:
    for count, row in enumerate(rows, 1):
        yield row
        if reach is not None and count % STEP == 0:
            reach(row["timestamp"], count)


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[TextIO]:
    """A text file that takes its name, even from an older file, only when it is complete."""
    with whole_path(path) as part, part.open("w", encoding="utf-8", newline="") as file:
        yield file


@contextlib.contextmanager
def whole_path(path: Path) -> Iterator[Path]:
    """An empty file to write; see `whole_file`. A device or a pipe is written as it is."""
    try:
        with contextlib.nullcontext(path) if path.exists() and not path.is_file() else _part(path) as part:
            yield part
    except OSError as exc:
        raise click.ClickException(f"{path}: {exc.strerror}") from exc


@contextlib.contextmanager
def _part(path: Path) -> Iterator[Path]:
    path = Path(os.path.realpath(path))  # a link keeps pointing to it
    part = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        # It names people: only its owner and group may read it, whatever the umask.
        os.close(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o640))
        yield part
        sync(part)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
