"""`facewire broker`: run the embedded broker."""

import asyncio
import ipaddress
import logging
import re
import resource
import signal
import socket
from pathlib import Path

import click

from facewire_broker.broker import Broker, Listen

log = logging.getLogger(__name__)


@click.group()
def broker() -> None:
    """Run the embedded MQTT broker, and manage who may use it."""


def parse_listen(text: str) -> Listen:
    """Read HOST:PORT, or [::1]:PORT.

    Raises:
        click.BadParameter: it is neither.
    """
    found = re.fullmatch(r"(?:\[([^\]]+)\]|([^:\s]+)):(\d{1,5})", text)
    if not found or int(found[3]) > 65535:
        raise click.BadParameter(f"{text!r} is not HOST:PORT, such as 127.0.0.1:1883 or [::1]:1883", param_hint="--listen")
    return Listen(found[1] or found[2], int(found[3]))


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach an address. A name counts if all that it stands for is loopback."""
    try:
        found = {info[4][0] for info in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)}
    except OSError:
        return False
    return bool(found) and all(ipaddress.ip_address(str(address).partition("%")[0]).is_loopback for address in found)


@broker.command()
@click.option("--listen", default="127.0.0.1:1883", show_default=True, metavar="HOST:PORT", help="Where; port 0 for any that is free.")
@click.option(
    "--users", type=click.Path(dir_okay=False, path_type=Path), help="File of credentials; without it anonymous, on loopback only."
)
def run(listen: str, users: Path | None) -> None:
    """Run the broker until SIGTERM or Ctrl-C."""
    where = parse_listen(listen)
    if users is None and not is_loopback(where.host):
        raise click.UsageError(
            f"--listen {where}: without --users anyone could publish, so only a loopback address such as 127.0.0.1 is served"
        )
    allow_many_files()
    asyncio.run(serve(where))


async def serve(where: Listen) -> None:
    """Serve until a signal."""
    for noisy in ("amqtt", "transitions"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    loop = asyncio.get_running_loop()
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        # A shell starts `&` jobs with SIGINT ignored.
        loop.add_signal_handler(number, stopping.set)
    server = Broker(where)
    await server.start()
    click.echo(f"listening address={server.address}", err=True)
    await stopping.wait()
    await server.shutdown()


def allow_many_files() -> None:
    """A connection takes a file descriptor: take as many as the system gives."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
