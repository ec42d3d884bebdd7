"""`facewire config`: the settings in force, where each comes from, and a check of their names."""

import difflib
import os
import re
from collections.abc import Iterator, Sequence
from typing import Any, Final

import click
from click.core import ParameterSource

from facewire.masking import without_password
from facewire_cli.main import EXIT_USAGE
from facewire_cli.options import output_option
from facewire_cli.output import Form, Row, write_rows

COLUMNS: Final = ("command", "setting", "value", "source")
_SOURCES: Final = {
    ParameterSource.COMMANDLINE: "flag",
    ParameterSource.ENVIRONMENT: "environment",
    ParameterSource.DEFAULT_MAP: "file",
    ParameterSource.DEFAULT: "default",
}
#: Our environment variables begin with it.
PREFIX: Final = "FACEWIRE_"


@click.group()
def config() -> None:
    """Show the settings in force, and check them."""


@config.command(context_settings={"ignore_unknown_options": True})
@click.argument("command", nargs=-1, type=click.UNPROCESSED)
@output_option
@click.pass_context
def show(ctx: click.Context, command: Sequence[str], output: Form) -> None:
    """Show the settings of COMMAND, and where each comes from.

    Write COMMAND as you would run it, with flags if you like:
    facewire config show device run --period 30. Without COMMAND it shows every
    setting that is not a default. It masks secrets.
    """
    root = ctx.find_root()
    rows = _settings(_context(root, command)) if command else (row for row in _every(root) if row["source"] != "default")
    write_rows(rows, output, COLUMNS)


@config.command()
@click.pass_context
def check(ctx: click.Context) -> None:
    """Check the settings file and the FACEWIRE_… variables.

    Lists each setting that no command has, and each value that its command
    would refuse. Exits with 2 if there is one.
    """
    root = ctx.find_root()
    wrong = [*strangers(root), *refused(root)]
    for line in wrong:
        click.echo(line, err=True)
    if wrong:
        raise click.exceptions.Exit(EXIT_USAGE)
    click.echo("all settings are fine", err=True)


def _context(root: click.Context, words: Sequence[str]) -> click.Context:
    """The context in which a command with its flags would run. Wrong values are ignored."""
    ctx, left = root, list(words)
    while isinstance(ctx.command, click.Group):
        name, found, left = ctx.command.resolve_command(ctx, left) if left else (None, None, [])
        if found is None:
            raise click.UsageError(f"{ctx.command_path} is a group of commands: {', '.join(ctx.command.list_commands(ctx))}")
        ctx = found.make_context(name, left, parent=ctx, resilient_parsing=True)
    return ctx


def _contexts(ctx: click.Context) -> Iterator[click.Context]:
    """The context of a command, and those of all commands below it."""
    yield ctx
    if isinstance(ctx.command, click.Group):
        for name in ctx.command.list_commands(ctx):
            try:
                found = ctx.command.get_command(ctx, name)
            except click.ClickException:  # its extra is not installed, so it has no settings
                continue
            if found is not None:
                yield from _contexts(found.make_context(name, [], parent=ctx, resilient_parsing=True))


def _every(root: click.Context) -> Iterator[Row]:
    for ctx in _contexts(root):
        yield from _settings(ctx)


def _settings(ctx: click.Context) -> Iterator[Row]:
    command = " ".join(ctx.command_path.split()[1:])
    for param in _options(ctx):
        source = ctx.get_parameter_source(str(param.name)) or ParameterSource.DEFAULT
        value = ctx.params.get(str(param.name))
        if (value is None or value == ()) and source is ParameterSource.DEFAULT:
            value = _default_in_help(ctx, param)
        yield {"command": command, "setting": param.name, "value": _shown(param, value), "source": _SOURCES[source]}


def _default_in_help(ctx: click.Context, param: click.Option) -> int | str | None:
    """The default that stands only in an option's help, because the command itself applies it."""
    found = re.search(r"\[default: (.+)\]", param.help or "")
    if found is None:
        return None
    plain, _, with_tls = found[1].partition(", with TLS ")
    text = with_tls if with_tls and any(ctx.params.get(name) for name in ("cafile", "cert", "key")) else plain
    return int(text) if text.isdecimal() else text


def _options(ctx: click.Context) -> Iterator[click.Option]:
    for param in ctx.command.params:
        if isinstance(param, click.Option) and param.expose_value:
            yield param


def _shown(param: click.Parameter, value: object) -> Any:
    if value is None or value == ():
        return None
    if param.name == "password":
        return "***"
    if isinstance(value, str):
        return without_password(value)
    return value if isinstance(value, bool | int | float) else str(value)


def strangers(root: click.Context) -> Iterator[str]:
    """The FACEWIRE_… variables that no command has, each with a near miss."""
    known = {f"{ctx.auto_envvar_prefix}_{param.name}".upper() for ctx in _contexts(root) for param in _options(ctx)}
    for name in sorted(os.environ):
        if name.startswith(PREFIX) and name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            yield f"{name}: no command has such a setting" + (f". Did you mean {near[0]}?" if near else "")


def refused(root: click.Context) -> Iterator[str]:
    """The values in the file and the environment that a command would refuse, and why."""
    for ctx in _contexts(root):
        for param in _options(ctx):
            source = ctx.get_parameter_source(str(param.name))
            if source not in {ParameterSource.ENVIRONMENT, ParameterSource.DEFAULT_MAP}:
                continue
            raw = param.value_from_envvar(ctx) if source is ParameterSource.ENVIRONMENT else ctx.lookup_default(str(param.name))
            try:
                param.process_value(ctx, raw)
            except click.UsageError as exc:
                yield f"{' '.join(ctx.command_path.split()[1:])} {param.name}, from the {_SOURCES[source]}: {exc.message}"
