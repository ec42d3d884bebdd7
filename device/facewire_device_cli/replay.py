"""`facewire replay`: send a recorded file through device stores, at its own or another speed."""

import contextlib
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from facewire.counted import counted
from facewire.events import event_from_source
from facewire.topics import Topics
from facewire_cli.ending import Ending
from facewire_cli.main import EXIT_INTERRUPTED
from facewire_cli.options import DEVICE, FloatRange, connection_options
from facewire_device import Agent, Recorder, Settings
from facewire_device.identity import machine_identity
from facewire_device.recordings import Reading, read_file
from facewire_device_cli.device import await_sessions, reporting_options
from facewire_mqtt.address import Address
from facewire_system.clock import now_ms
from facewire_system.folders import make_folder


@click.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@connection_options
@click.option(
    "--stores",
    required=True,
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIR",
    help="Folder of the devices' stores; made if missing.",
)
@click.option(
    "-d", "--device", "devices", type=DEVICE, multiple=True, help="CSV: only these devices.  JSON Lines: the device of the events."
)
@click.option("--speed", type=FloatRange(min=0, min_open=True), default=1.0, show_default=True, help="How many times faster than recorded.")
@click.option("--now", is_flag=True, help="Give each event the time of its replay.  [default: its own time]")
@reporting_options
def replay(
    file: Path,
    address: Address,
    topics: Topics,
    stores: Path,
    devices: tuple[str, ...],
    speed: float,
    now: bool,  # click's
    **options: Any,
) -> None:
    """Replay a recorded FILE through devices of its own; ends when all is acked.

    FILE is a badge CSV (timestamp, type, prox-id, floor, zone), of which each
    zone becomes a device floor-F-zone-Z, or JSON Lines of vendor events.
    """
    if file.suffix != ".csv" and len(devices) != 1:
        raise click.UsageError("JSON Lines need exactly one -d DEVICE, the device of the events")
    readings = [reading for reading in read_file(file, devices[0] if devices else None) if not devices or reading.device in devices]
    make_folder(stores)
    names = sorted({reading.device for reading in readings})
    with Ending() as ending:
        try:
            agents = {
                name: Agent(
                    Settings(name, stores / f"{name}.db", address, topics, machine=machine_identity(), **options),
                    on_failure=ending.announce,
                )
                for name in names
            }
        except ValueError as exc:
            raise click.UsageError(str(exc)) from exc
        if not _replay(readings, agents, ending, speed, now=now):
            raise click.exceptions.Exit(EXIT_INTERRUPTED)
    click.echo(f"replayed {counted(len(readings), 'event')} of {counted(len(names), 'device')}, all acked", err=True)


def _replay(readings: list[Reading], agents: Mapping[str, Agent], ending: Ending, speed: float, *, now: bool) -> bool:
    """Record each reading when it is due, then wait for the acks; returns whether all are acked.

    Raises `StoreError` if an agent fails.
    """
    with contextlib.ExitStack() as stack:
        recorders = {}
        for name, agent in agents.items():
            stack.enter_context(agent)
            recorders[name] = stack.enter_context(Recorder(agent.open_store, agent.wake))
        await_sessions(agents.values(), ending)
        done = _send(readings, recorders, speed, ending, now=now)
        acked = [agent.wait_acked(ending.wait) for agent in agents.values()]
        return done and all(acked)


def _send(readings: list[Reading], recorders: Mapping[str, Recorder], speed: float, ending: Ending, *, now: bool) -> bool:
    """Record the readings, each by its time since the first; False if the end comes before."""
    started = time.monotonic()
    for reading in readings:
        due = started + (reading.timestamp - readings[0].timestamp) / 1000 / speed
        if ending.wait(max(0.0, due - time.monotonic())):
            return False
        stamp = {"timestamp": now_ms()} if now else {}
        recorders[reading.device].record_all([event_from_source(reading.fields | stamp)])
    return True
