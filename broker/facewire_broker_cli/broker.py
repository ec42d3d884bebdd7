"""`facewire broker`: run the embedded broker, and manage its users."""

import asyncio
import contextlib
import dataclasses
import difflib
import gc
import logging
import resource
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, TypeVar

import click

from facewire.endpoint import Endpoint
from facewire.topics import Topics
from facewire_broker.authentication import UsersAuthenticator
from facewire_broker.broker import Broker
from facewire_broker.credentials import Users, UsersFile
from facewire_broker.limits import BrokerLimits
from facewire_broker.mosquitto import Mosquitto, free_port, run_as, write_files
from facewire_broker.render import Site, Tls, render_emqx, render_mosquitto
from facewire_broker.tls import server_context
from facewire_broker_cli.users import users as users_group
from facewire_cli.ending import Ending
from facewire_cli.logs import say
from facewire_cli.options import ENDPOINT, root_option, topics_of
from facewire_cli.systemd import Service
from facewire_mqtt.address import Address, is_loopback

F = TypeVar("F", bound=Callable[..., Any])

log = logging.getLogger(__name__)

#: File descriptors that connections leave free. The broker accepts 64 connections at a time before
#: it can refuse any of them.
SPARE_FILES: Final = 200
#: Seconds between two signs of life of the event loop.
BEAT: Final = 1.0


@click.group()
def broker() -> None:
    """Run the embedded MQTT broker, and manage its users."""


_users_file = click.Path(exists=True, dir_okay=False, path_type=Path)
_listen_option = click.option(
    "--listen",
    type=ENDPOINT,
    default="127.0.0.1:1883",
    show_default=True,
    metavar="HOST:PORT",
    help="Address to listen on; port 0 for a free one.",
)


def _tls_options(command: F) -> F:
    file = click.Path(exists=True, dir_okay=False, resolve_path=True)
    for option in (
        click.option(
            "--client-ca", type=file, help="Certificate authority of the clients, PEM; turns mutual TLS on. A certificate's CN is the user."
        ),
        click.option("--key", type=file, help="Key of the certificate, PEM. Without this option, --cert must hold both."),
        click.option("--cert", type=file, help="The broker's certificate, PEM. Turns TLS on."),
    ):
        command = option(command)
    return command


def _tls(cert: str | None, key: str | None, client_ca: str | None) -> Tls | None:
    if cert is None:
        if key or client_ca:
            raise click.UsageError("--key and --client-ca need --cert")
        return None
    return Tls(cert, key or cert, client_ca)


def _limits(ctx: click.Context, param: click.Parameter, given: tuple[str, ...]) -> BrokerLimits:
    """Read NAME=VALUE pairs."""
    kinds = {field.name: type(getattr(BrokerLimits(), field.name)) for field in dataclasses.fields(BrokerLimits)}
    changed: dict[str, Any] = {}
    for pair in given:
        name, _, value = pair.partition("=")
        if name not in kinds:
            near = difflib.get_close_matches(name, kinds, n=1)
            raise click.BadParameter(
                f"there is no limit {name!r}" + (f"; did you mean {near[0]!r}?" if near else f"; the limits are {', '.join(kinds)}")
            )
        try:
            changed[name] = kinds[name](value)
        except ValueError as exc:
            raise click.BadParameter(f"{name} {value!r} is not of type {kinds[name].__name__}") from exc
        if not 0 < changed[name] < 1e12:
            raise click.BadParameter(f"{name} {value} must be above 0 and below 1e12")
    return dataclasses.replace(BrokerLimits(), **changed)


@broker.command()
@_listen_option
@click.option(
    "--users", type=_users_file, help="Users file, see `facewire broker users`. Without it, clients are anonymous, on loopback only."
)
@root_option
@_tls_options
@click.option("--insecure", is_flag=True, help="Do not warn that without TLS anyone on the network can read secrets and faces.")
@click.option(
    "--limit", "limits", multiple=True, metavar="NAME=VALUE", callback=_limits, help="Change a limit, see docs/broker.md. Repeatable."
)
@click.option("--engine", type=click.Choice(["embedded", "mosquitto"]), default="embedded", show_default=True, help="Broker to run.")
def run(
    listen: Endpoint,
    users: Path | None,
    root: str,
    cert: str | None,
    key: str | None,
    client_ca: str | None,
    insecure: bool,
    limits: BrokerLimits,
    engine: str,
) -> None:
    """Run the broker until SIGTERM or Ctrl-C."""
    with Ending() as ending:
        where, topics, tls = Address(*listen), topics_of(root), _tls(cert, key, client_ca)
        _check_exposure(where, users, tls, insecure=insecure)
        limits = within_files(limits, allow_many_files())
        if engine == "embedded":
            authenticator = None if users is None else UsersAuthenticator(UsersFile(users), topics, limits)
            asyncio.run(serve(ending, where, authenticator=authenticator, limits=limits, tls=server_context(tls) if tls else None))
        elif users is not None:
            asyncio.run(serve_mosquitto(ending, where, UsersFile(users), topics, tls, limits))
        else:
            raise click.UsageError("--engine mosquitto needs --users")


def _check_exposure(where: Address, users: Path | None, tls: Tls | None, *, insecure: bool) -> None:
    """Refuse, or warn of, an address that others can reach."""
    if is_loopback(where.host):
        return
    if users is None:
        raise click.UsageError(
            f"--listen {where}: without --users anyone could publish, so only a loopback address such as 127.0.0.1 is allowed"
        )
    if tls is None and not insecure:
        notice = "WARNING: %s without TLS: anyone on the network can read secrets and faces. Use --cert and --key."
        say(notice, where, level=logging.WARNING)


async def serve(ending: Ending, where: Address, **options: Any) -> None:
    """Run the embedded broker until a signal."""
    for noisy in ("amqtt", "transitions"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    stopping = _set_at(ending)
    # No message creates cycles, and a full collection among 10,000 sessions takes 0.1 s.
    gc.set_threshold(50_000, 20, 50)
    server = Broker(where, **options)
    await server.start()
    say("listening address=%s", server.address)
    await _beat_until(stopping, Service())
    await server.shutdown()


async def serve_mosquitto(ending: Ending, where: Address, users: UsersFile, topics: Topics, tls: Tls | None, limits: BrokerLimits) -> None:
    """Run Mosquitto until a signal."""
    stopping, service = _set_at(ending), Service()
    beating: list[asyncio.Task[None]] = []
    port = where.port or free_port(where.host)

    def listening(_: Site) -> None:
        say("listening address=%s", Address(where.host, port))
        beating.append(asyncio.create_task(_beat_until(stopping, service)))

    with tempfile.TemporaryDirectory(prefix="facewire-mosquitto-") as folder:

        def site(users_now: Users) -> Site:
            return Site(users_now, topics.prefix, where.host, port, folder, tls, run_as(), limits)

        await Mosquitto(users, site, limits.users_timeout).run(listening, stopping)


async def _beat_until(stopping: asyncio.Event, service: Service) -> None:
    """Show systemd that the event loop runs, until it stops."""
    while not stopping.is_set():
        service.turn()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stopping.wait(), BEAT)
    service.stopping()


def _set_at(ending: Ending) -> asyncio.Event:
    """An event of this loop that is set when the command is to end."""
    loop, stopping = asyncio.get_running_loop(), asyncio.Event()

    def stop() -> None:
        loop.remove_reader(ending)  # it stays readable
        stopping.set()

    loop.add_reader(ending, stop)
    return stopping


def allow_many_files() -> int:
    """Raise the limit of file descriptors, because each connection needs one; return the limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return sys.maxsize if hard == resource.RLIM_INFINITY else hard


def within_files(limits: BrokerLimits, files: int) -> BrokerLimits:
    """Leave some descriptors for everything else: without one, nobody could read the users file."""
    most = max(files - SPARE_FILES, 1)
    if limits.connections <= most:
        return limits
    # Nobody asked for as many as our own limit.
    level = logging.INFO if limits.connections == BrokerLimits().connections else logging.WARNING
    log.log(level, "connections limited to %d, because a process may open %d files (LimitNOFILE, ulimit -n)", most, files)
    return dataclasses.replace(limits, connections=most)


@broker.command()
@click.argument("engine", type=click.Choice(["mosquitto", "emqx"]))
@click.option("--to", "folder", type=click.Path(file_okay=False, path_type=Path), required=True, help="Folder to write the files to.")
@click.option(
    "--at",
    type=click.Path(path_type=Path),
    metavar="FOLDER",
    help="Path of that folder as the broker sees it, for example in a container.  [default: --to]",
)
@_listen_option
@click.option("--users", type=_users_file, default="facewire.users", show_default=True, help="Users file, see `facewire broker users`.")
@root_option
@_tls_options
def render(
    engine: str,
    folder: Path,
    at: Path | None,
    listen: Endpoint,
    users: Path,
    root: str,
    cert: str | None,
    key: str | None,
    client_ca: str | None,
) -> None:
    """Write configuration, rules and credentials for another broker."""
    where = Address(*listen)
    site = Site(UsersFile(users).load(), topics_of(root).prefix, where.host, where.port, str(folder.resolve()), _tls(cert, key, client_ca))
    rendered = render_mosquitto(site) if engine == "mosquitto" else render_emqx(site)
    if at is not None:  # certificates in that folder move with it
        files = {name: text.replace(str(folder.resolve()), str(at)) for name, text in rendered.files.items()}
        rendered = dataclasses.replace(rendered, files=files)
    write_files(rendered, folder)
    for note in rendered.notes:
        click.echo(f"WARNING: {note}", err=True)
    for name in rendered.files:
        click.echo(str(folder / name))


broker.add_command(users_group, "users")
