"""`facewire platform web`, and the options with which `platform run` starts it as a process."""

import contextlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from facewire.endpoint import Endpoint
from facewire.topics import Topics
from facewire_cli.ending import Ending
from facewire_cli.options import ENDPOINT, connection_options
from facewire_mqtt.address import Address
from facewire_platform.store.database import locate
from facewire_platform.store.drivers import Location
from facewire_platform_cli.options import database_option
from facewire_system.failures import reason_of

if TYPE_CHECKING:
    # It imports FastAPI, which `platform run` does not need.
    import socket

    from facewire_web.server import WebSettings

F = TypeVar("F", bound=Callable[..., Any])

#: The longest token, and a line end.
_MAX_LINE_BYTES: Final = 1_100
_TOKEN_HELP: Final = "Its first line is the token that clients must show; required beyond loopback."  # noqa: S105


def web_options(command: F) -> F:
    """Add `--web` and `--web-token-file`."""
    token = click.option("--web-token-file", type=click.File("rb"), help=_TOKEN_HELP)
    listen = click.option(
        "--web", type=ENDPOINT, metavar="HOST:PORT", help="Serve the page and the HTTP API there, in a process of its own."
    )
    return listen(token(command))


@click.command()
@connection_options
@database_option
@click.option(
    "--listen",
    type=ENDPOINT,
    default="127.0.0.1:8080",
    show_default=True,
    metavar="HOST:PORT",
    help="Address to listen on; port 0 takes a free one.",
)
@click.option("--token-file", type=click.File("rb"), help=_TOKEN_HELP)
def web(address: Address, topics: Topics, database: str, listen: Endpoint, token_file: Any) -> None:
    """Serve the page and the HTTP API of a running platform.

    It reads the database and never writes it. Matches come from the broker; a
    credential of the role `consumer` is enough. SIGINT and SIGTERM end it.
    """
    with Ending() as ending:
        arguments = _settings_and_socket(locate(database), address, topics, listen, token_file, "--token-file")
        from facewire_web.server import serve_web

        serve_web(*arguments, ending=ending.fileno())


def web_process(
    database: Location, address: Address, topics: Topics, listen: Endpoint | None, token_file: Any
) -> contextlib.AbstractContextManager[object]:
    """A context with the web server in a process beside ours; without an address it starts none."""
    if listen is None:
        if token_file is not None:
            raise click.UsageError("--web-token-file needs --web")
        return contextlib.nullcontext()
    arguments = _settings_and_socket(database, address, topics, listen, token_file, "--web-token-file")
    from facewire_web.server import WebProcess

    return WebProcess(*arguments)


def _settings_and_socket(
    location: Location, address: Address, topics: Topics, endpoint: Endpoint, token_file: Any, option: str
) -> "tuple[WebSettings, socket.socket]":
    try:
        from facewire_web.server import WebSettings, listen
    except ModuleNotFoundError as exc:
        raise click.ClickException(f"the page needs {exc.name}: pip install 'facewire[platform]'") from exc
    token = None if token_file is None else _read_token(token_file, option)
    try:
        return WebSettings(location, address, topics, token), listen(endpoint.host, endpoint.port, token)
    except ValueError as exc:
        raise click.UsageError(f"{exc}: {option}") from exc
    except OSError as exc:
        raise click.ClickException(f"cannot listen on {endpoint}: {reason_of(exc)}") from exc


def _read_token(file: Any, option: str) -> str:
    try:
        token: str = file.readline(_MAX_LINE_BYTES).rstrip(b"\r\n").decode("ascii")
    except (OSError, UnicodeDecodeError) as exc:
        raise click.BadParameter(f"{file.name}: its first line is not ASCII", param_hint=f"'{option}'") from exc
    return token
