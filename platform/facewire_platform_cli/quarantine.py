"""`facewire quarantine`: inspect, retry and drop messages that broke the contract."""

from collections.abc import Sequence
from typing import Any, Final

import click

from facewire import codec
from facewire.errors import DecodeError
from facewire_cli.main import EXIT_UNHEALTHY
from facewire_cli.options import DEVICE, IntRange, output_option, root_option, topics_of
from facewire_cli.output import Form, moment, to_json, write_rows
from facewire_platform.history.quarantine import drop as drop_entries
from facewire_platform.history.quarantine import entries, entry
from facewire_platform.history.quarantine import retry as retry_entries
from facewire_platform.store.database import locate
from facewire_platform_cli.options import database_option

COLUMNS: Final = ("id", "last_at", "times", "topic", "seq", "reason", "size_bytes")
_SHOWN: Final = {"first_at": moment, "last_at": moment}

_which = click.argument("ids", nargs=-1, type=IntRange(min=1), metavar="[ID]...")
_all = click.option("--all", "every", is_flag=True, help="All entries.")


@click.group()
def quarantine() -> None:
    """Inspect, retry or drop messages that broke the contract."""


@quarantine.command("list")
@database_option
@click.option("-d", "--device", type=DEVICE, help="Only bad events of this device.")
@output_option
def list_entries(database: str, device: str | None, output: Form) -> None:
    """List messages that broke the contract, oldest first.

    An entry with a seq is one event of a batch, whose other events are stored.
    An entry without a seq is a whole message. TIMES counts its arrivals.
    """
    write_rows(entries(locate(database), device), output, COLUMNS, shown=_SHOWN)


@quarantine.command()
@database_option
@click.argument("number", type=IntRange(min=1), metavar="ID")
@output_option
def show(database: str, number: int, output: Form) -> None:
    """Show one entry with its payload, decoded if possible.

    A payload that cannot be decoded is shown in base64.
    """
    row = entry(locate(database), number)
    row["payload"] = _decoded(row["payload"])
    if output == "pretty":
        for name, value in row.items():
            click.echo(f"{name:<10}  {_SHOWN[name](value) if name in _SHOWN else to_json(value)}")
    else:
        write_rows([row], output, tuple(row))


@quarantine.command()
@database_option
@root_option
@_which
@_all
@output_option
def retry(database: str, root: str, ids: Sequence[int], every: bool, output: Form) -> None:
    """Read entries again, and store those that are good now.

    Use it after an upgrade of facewire, or if the worker failed on a message.
    Works beside a running worker. Exits with 3 if an entry stays in quarantine.
    """
    results = [result._asdict() for result in retry_entries(locate(database), topics_of(root), _chosen(ids, every))]
    write_rows(results, output, ("id", "outcome", "reason"))
    if any(result["outcome"] == "kept" for result in results):
        raise click.exceptions.Exit(EXIT_UNHEALTHY)


@quarantine.command()
@database_option
@_which
@_all
def drop(database: str, ids: Sequence[int], every: bool) -> None:
    """Delete entries, with the names and faces in them.

    The seqs of dropped events stay counted as quarantined, because the events
    are not stored. Works beside a running worker.
    """
    dropped = drop_entries(locate(database), _chosen(ids, every))
    click.echo(f"dropped: {dropped}", err=True)


def _chosen(ids: Sequence[int], every: bool) -> Sequence[int] | None:
    if bool(ids) == every:
        raise click.UsageError("give the IDs of entries, or --all")
    return None if every else ids


def _decoded(payload: bytes) -> Any:
    try:
        return codec.decode(payload).map
    except DecodeError:
        return payload
