"""`facewire bridge`: bring in boxes of other makes, each as a device of its own."""

import datetime as dt
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, Protocol, TypeVar

import click

from facewire.counted import counted
from facewire.endpoint import Endpoint
from facewire_bridge.face_bridge import FaceBridge
from facewire_bridge.member import Member, poison_of, store_path
from facewire_bridge.members import Members
from facewire_bridge.push_source import Posting, PushSource
from facewire_bridge.reaching import check_connections
from facewire_bridge.settings import BridgeSettings, Device, read_settings
from facewire_bridge.sophon_source import SophonSource
from facewire_bridge.tables import SettingsError
from facewire_cli.ending import Ending
from facewire_cli.logs import say
from facewire_cli.main import EXIT_UNHEALTHY
from facewire_cli.options import output_option
from facewire_cli.output import Form, write_findings, write_rows
from facewire_cli.systemd import Service

D = TypeVar("D", bound=Device)

#: How often the main thread checks that all others go round, s.
_TURN: Final = 0.5

_FILE = click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))


def _read(file: Path) -> BridgeSettings:
    try:
        return read_settings(file)
    except SettingsError as exc:
        raise click.UsageError(str(exc)) from exc


@click.group()
def bridge() -> None:
    """Bring in boxes of other makes, each as a device of its own."""


@bridge.command()
@_FILE
@click.option("--connect", is_flag=True, help="Also try the brokers, the addresses to listen on, and the boxes.")
def check(file: Path, connect: bool) -> None:
    """Check a settings file, and show the devices in it.

    With --connect it exits with 3 if a connection fails. It publishes nothing,
    and writes nothing to a box.
    """
    settings = _read(file)
    for device in settings.face:
        click.echo(f"mqtt-face {device.name}: id {device.id}, zone {device.zone}, resume {'on' if device.resume else 'off'}")
    for box in settings.sophon:
        ways = [name for name, there in (("posts", True), ("websocket", box.websocket), ("query", box.api)) if there]
        click.echo(f"sophon {box.name}: id {box.id}, version {box.version}, {', '.join(ways)}")
    for other in settings.http:
        click.echo(f"http {other.name}: id {other.id}, family {other.family.name}, zone {other.zone}")
    if not settings.devices:
        raise click.UsageError(f"{file}: has no device; add a table such as [mqtt-face.device.gate-1]")
    if connect:
        _check_connections(settings)
    say("%s is fine: %s", file, counted(len(settings.devices), "device"))


def _check_connections(settings: BridgeSettings) -> None:
    if write_findings(check_connections(settings)):
        raise click.exceptions.Exit(EXIT_UNHEALTHY)


@bridge.command()
@_FILE
@output_option
def poison(file: Path, output: Form) -> None:
    """List the records of boxes that could be no event.

    Each was kept as the box sent it, and acked. Each is a gap on the platform,
    unless its number could not be read.
    """
    settings = _read(file)
    rows = (
        {"device": device.name, "at": _moment(at_ns), "bytes": size, "sha256": path.name, "file": str(path)}
        for device in settings.devices
        for at_ns, size, path in poison_of(store_path(settings.stores, device.name)).listed()
    )
    write_rows(rows, output, ("device", "at", "bytes", "file"))


def _moment(at_ns: int) -> str:
    return dt.datetime.fromtimestamp(at_ns // 10**9, tz=dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


@bridge.command(name="mqtt-face")
@_FILE
def mqtt_face(file: Path) -> None:
    """Bridge terminals that publish to mqtt/face/ID/Rec.

    Each record is acked to its terminal once it is durable here. FILE has a
    table for each terminal: docs/bridges.md.
    """
    settings = _read(file)
    if not settings.face:
        raise click.UsageError(f"{file}: has no terminal; add a table such as [mqtt-face.device.gate-1]")
    _serve(settings, settings.face, lambda members, _: FaceBridge(settings, members.pairs, members.threads))


@bridge.command()
@_FILE
def sophon(file: Path) -> None:
    """Bridge SophonAI boxes: SE3, SE5, SE6.

    SE3 boxes post here. The events of the others are fetched. Each is answered
    once it is durable here. FILE has a table for each box: docs/bridges.md.
    """
    settings = _read(file)
    if not settings.sophon:
        raise click.UsageError(f"{file}: has no box; add a table such as [sophon.device.hall-1]")
    _serve(settings, settings.sophon, lambda members, failed: _http(settings.listen, SophonSource, members, failed))


@bridge.command()
@_FILE
def http(file: Path) -> None:
    """Bridge boxes of any other family that posts over HTTP.

    A family is a Python module that reads the posts of its boxes; FILE names
    it for each box: docs/bridges.md.
    """
    settings = _read(file)
    if not settings.http:
        raise click.UsageError(f"{file}: has no box; add a table such as [http.device.hall-1]")
    _serve(settings, settings.http, lambda members, failed: _http(settings.http_listen, PushSource, members, failed))


def _http(listen: Endpoint, source: Callable[[D, Member], Posting], members: Members[D], failed: Callable[[], None]) -> "_Server":
    # It needs the extra, which a bridge of terminals does without.
    try:
        from facewire_bridge.http_bridge import HttpBridge
    except ModuleNotFoundError as exc:
        raise click.ClickException(f"this needs {exc.name}: pip install 'facewire[bridge]'") from exc
    return HttpBridge(listen, [source(device, member) for device, member in members.pairs], members.threads, on_failure=failed)


class _Server(Protocol):
    def start(self) -> None: ...
    def stop(self) -> None: ...


def _serve(settings: BridgeSettings, devices: Sequence[D], make: Callable[[Members[D], Callable[[], None]], _Server]) -> None:
    """Run a family's devices and their server until a signal comes, or an agent fails."""
    with Ending() as ending:
        service = Service()
        members = Members(settings, devices, on_failure=ending.announce)
        try:
            server = make(members, ending.announce)
            members.start()
            server.start()
            while not ending.wait(_TURN):
                if members.turns():
                    service.turn()
            service.stopping()
            server.stop()
        finally:
            members.stop()
        members.check()
