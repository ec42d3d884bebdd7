"""The entry point: imports the group that is called, reads settings, turns errors into exit codes.

`facewire device run` must not import amqtt or the libraries of the platform: a mini box has little
memory and does not install them. So this module only names the groups and imports one when it is
called.
"""

import difflib
import importlib
import logging
import os
import signal
import sys
import tomllib
from pathlib import Path
from typing import Any, Final

import click
from click.shell_completion import CompletionItem

from facewire.errors import CredentialsRefused, FacewireError
from facewire_cli.logs import LogFormat, log_uncaught, say, set_up
from facewire_cli.streams import guard_streams

#: name -> (where it lives, one line of help, the extra that it needs)
COMMANDS: Final[dict[str, tuple[str, str, str | None]]] = {
    "broker": ("facewire_broker_cli.broker:broker", "Run the embedded MQTT broker.", "broker"),
    "device": ("facewire_device_cli.device:device", "Run a device: record events, publish matches and history.", None),
    "bridge": ("facewire_device_cli.bridge:bridge", "Bring in boxes of other makes.", None),
    "platform": ("facewire_platform_cli.run:platform", "Run the platform: store events, and ack them.", "platform"),
    "tail": ("facewire_cli.tail:tail", "Follow the topics live, decoded.", None),
    "status": ("facewire_platform_cli.status:status", "Show the state of each device; check that all are well.", "platform"),
    "doctor": ("facewire_platform_cli.doctor:doctor", "Check broker, credential, database, disk and clocks.", "platform"),
    "events": ("facewire_platform_cli.events:events", "Query the stored events.", "platform"),
    "gaps": ("facewire_platform_cli.events:gaps", "List the events that devices declared lost.", "platform"),
    "report": ("facewire_platform_cli.report:report", "Report attendance and traffic, and how complete they are.", "platform"),
    "export": ("facewire_platform_cli.export:export", "Export the events to a file or a pipe.", "platform"),
    "quarantine": (
        "facewire_platform_cli.quarantine:quarantine",
        "List, show, retry or drop messages that broke the contract.",
        "platform",
    ),
    "demo": ("facewire_cli.demo:demo", "Run the whole pipeline, and prove that nothing is lost.", "platform,broker"),
    "replay": ("facewire_device_cli.replay:replay", "Send a recorded file through devices.", None),
    "simulate": ("facewire_device_cli.simulate:simulate", "Load a broker and a platform with a fleet of devices.", None),
    "asyncapi": ("facewire_cli.asyncapi:asyncapi", "Print the topics and messages as an AsyncAPI 3 document.", None),
    "config": ("facewire_cli.config:config", "Show the settings in force, and check them.", None),
    "completion": ("facewire_cli.completion:completion", "Print the script that completes commands in your shell.", None),
}

EXIT_FAILED, EXIT_USAGE, EXIT_UNHEALTHY, EXIT_CREDENTIALS, EXIT_TIMED_OUT, EXIT_INTERRUPTED = 1, 2, 3, 5, 124, 130


class LazyGroup(click.Group):
    """The top command. It knows its commands only by name."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        where, _, extra = COMMANDS[cmd_name]
        module, _, name = where.partition(":")
        try:
            command: click.Command = getattr(importlib.import_module(module), name)
        except ModuleNotFoundError as exc:
            if extra is None or (exc.name or "").startswith("facewire"):
                raise
            raise click.ClickException(f"'{cmd_name}' needs {exc.name}: pip install 'facewire[{extra}]'") from exc
        return command

    def resolve_command(self, ctx: click.Context, args: list[str]) -> tuple[str | None, click.Command | None, list[str]]:
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as exc:
            near = difflib.get_close_matches(args[0], COMMANDS, n=1)
            raise click.UsageError(exc.message.rstrip(".") + (f". Did you mean {near[0]!r}?" if near else "."), ctx) from exc

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Complete by name, so that it works even if the extra of a command is not installed."""
        names = [CompletionItem(name, help=text) for name, (_, text, _) in COMMANDS.items() if name.startswith(incomplete)]
        return names + click.Command.shell_complete(self, ctx, incomplete)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text, _) in COMMANDS.items()])


def _read_config(ctx: click.Context, _param: click.Parameter, path: Path | None) -> Path | None:
    if path is not None and not ctx.resilient_parsing:
        ctx.default_map = read_settings(path, cli, ctx)
    return path


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["--help"], "auto_envvar_prefix": "FACEWIRE", "max_content_width": 80})
@click.version_option(package_name="facewire", message="%(prog)s %(version)s")
@click.option(
    "--config",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    callback=_read_config,
    is_eager=True,  # so that it sets the options below too
    help="TOML file of settings, with a table for each command.",
)
@click.option("--log-level", type=click.Choice(["debug", "info", "warning", "error"]), default="info", show_default=True)
@click.option(
    "--log-format", type=click.Choice(["text", "json"]), default="text", show_default=True, help="json writes one object per line."
)
def cli(config: Path | None, log_level: str, log_format: LogFormat) -> None:
    """Bring face-recognition events from devices to a platform, over MQTT.

    Settings come from defaults, then the --config file, then FACEWIRE_…
    variables (FACEWIRE_DEVICE_RUN_PERIOD=30), then flags.
    """
    set_up(log_level, log_format)


def read_settings(path: Path, command: click.Command, ctx: click.Context) -> dict[str, Any]:
    """Read a settings file, and check each key against its command.

    Raises:
        click.UsageError: the file is not TOML, or a setting does not exist; suggests a near miss.
    """
    try:
        settings = tomllib.loads(path.read_text())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as exc:
        raise click.UsageError(f"{path}: is no TOML: {exc}") from exc
    return _check_settings(settings, command, ctx, str(path))


def _check_settings(settings: dict[str, Any], command: click.Command, ctx: click.Context, where: str) -> dict[str, Any]:
    group = command if isinstance(command, click.Group) else None
    options = {param.name for param in command.params if param.name}
    known = options | set(group.list_commands(ctx) if group else ())
    checked = {}
    for key, value in settings.items():
        name = key if isinstance(value, dict) else key.replace("-", "_")
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            raise click.UsageError(f"{where}: unknown setting {key!r}" + (f". Did you mean {near[0]!r}?" if near else ""))
        child = group.get_command(ctx, name) if group and isinstance(value, dict) else None
        checked[name] = _check_settings(value, child, ctx, f"{where}: {key}") if child else value
    return checked


def main() -> None:
    """Run the command line and exit with its code (docs/cli.md, Exit codes)."""
    # A shell starts `&` jobs with SIGINT ignored; SIGTERM interrupts work as Ctrl-C does. A command
    # without an end of its own replaces both handlers by an `Ending`.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    # Others on the machine can use no file that a command makes; the caller decides for the group.
    os.umask(os.umask(0o077) | 0o007)
    guard_streams()
    log_uncaught()
    sys.exit(_run())


def _run() -> int:
    try:
        code = cli.main(prog_name="facewire", standalone_mode=False)
        if sys.stdout is not None:
            sys.stdout.flush()
    except click.exceptions.Exit as exc:
        return exc.exit_code
    except click.ClickException as exc:
        exc.show()
        if isinstance(exc, click.NoSuchOption) and any(exc.option_name in param.opts for param in cli.params):
            click.echo(f"{exc.option_name} goes before the command: facewire {exc.option_name} … COMMAND", err=True)
        return exc.exit_code
    except CredentialsRefused as exc:
        say("Error: %s", exc, level=logging.ERROR)
        return EXIT_CREDENTIALS
    except FacewireError as exc:
        say("Error: %s", exc, level=logging.ERROR)
        return EXIT_FAILED
    except (KeyboardInterrupt, click.Abort):
        return EXIT_INTERRUPTED
    except BrokenPipeError:  # the reader had gone before we wrote
        return 0
    return code if isinstance(code, int) else 0
