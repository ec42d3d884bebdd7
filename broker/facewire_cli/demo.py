"""`facewire demo`: the whole pipeline on this machine, with a killed worker, and proof of no loss.

broker ── platform worker (killed, started again) ── three devices that replay half a day
   └── this process: shows matches as they arrive, and how much history is stored
"""

import contextlib
import csv
import queue
import re
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import as_file, files
from pathlib import Path
from typing import Final

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

from facewire.errors import DecodeError, FacewireError
from facewire.messages import decode_ack
from facewire.topics import QOS, Topics
from facewire_cli import render
from facewire_cli.ask import FACEWIRE, rows_of
from facewire_cli.ending import Ending
from facewire_mqtt import Connection, Happening, Received
from facewire_mqtt.address import Address
from facewire_system.clock import now_ms

#: Twelve hours of readings take half a minute.
SPEED: Final = 1_300
THRESHOLD: Final = 0.9
CATCH_UP: Final = 5
#: The worker dies when this share of the readings is stored, and stays dead for DEAD_FOR, s.
KILL_AT: Final = 0.3
DEAD_FOR: Final = 4.0
GIVE_UP_AFTER: Final = 180.0
START_WAIT: Final = 15.0


@dataclass(frozen=True, slots=True)
class Verdict:
    """The fate of one device's events."""

    device: str
    recorded: int
    stored: int
    duplicates: int
    gaps: int
    watermark: int
    head: int

    @property
    def is_complete(self) -> bool:
        """Whether every recorded event is stored exactly once."""
        return self.recorded == self.stored == self.watermark == self.head and not self.duplicates and not self.gaps


@click.command()
@click.option("--keep", is_flag=True, help="Leave it running at the end, until Ctrl-C.")
def demo(keep: bool) -> None:  # click's
    """Run the whole pipeline, and prove that nothing is lost.

    A broker, a platform and three devices, each in its own process, replay
    twelve hours of an office building in half a minute. In the middle the
    demo kills the platform. The exit code is 0 only if every recorded event
    is stored exactly once.
    """
    console = Console(highlight=False)
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="facewire-demo-")))
        excerpt = stack.enter_context(as_file(files("facewire_cli") / "badge-excerpt.csv"))
        run = Demo(console, folder, excerpt, stack)
        run.start()
        run.follow()
        verdicts = run.verdicts()
        console.print(proof(verdicts))
        if keep:
            run.keep(stack.enter_context(Ending()))
    if not all(verdict.is_complete for verdict in verdicts):
        raise click.ClickException("not every recorded event is stored exactly once")
    console.print("Every recorded event is stored exactly once, although the platform was killed.")


class Demo:
    """The processes of one demonstration, in a folder of its own."""

    def __init__(self, console: Console, folder: Path, excerpt: Path, stack: contextlib.ExitStack) -> None:
        self._console, self._folder, self._excerpt, self._stack = console, folder, excerpt, stack
        self._database = folder / "platform.db"
        self._received: queue.SimpleQueue[Received] = queue.SimpleQueue()
        self._topics = Topics()
        self._persons = persons_of(excerpt)
        self._names = sorted(self._persons)
        self._total = sum(map(len, self._persons.values()))
        #: Device -> the platform's watermark, as its acks say.
        self._watermarks: dict[str, int] = {}

    def start(self) -> None:
        """Start broker, platform and devices, and listen to the matches."""
        log = self._folder / "broker.log"
        self._run("broker", "run", "--listen", "127.0.0.1:0", log=log)
        self._port = _listening_port(log)
        self._say(f"broker on 127.0.0.1:{self._port}")
        self._worker = self._start_worker()
        topics = [(self._topics.all("match"), QOS["match"]), (self._topics.all("ack"), QOS["ack"])]
        connection = Connection(Address(port=self._port), "facewire-demo", topics, self._receive)
        connection.start()
        self._stack.callback(connection.close)
        self._devices = [self._start_device(name) for name in self._names]
        self._say(f"devices {', '.join(self._names)}: {self._total} events to come, matches are scores above {THRESHOLD}")

    def follow(self) -> None:
        """Show what happens until the devices' events are acked; kill the worker meanwhile."""
        deadline = time.monotonic() + GIVE_UP_AFTER
        killed_at: float | None = None
        with self._progress() as (progress, task):
            while any(device.poll() is None for device in self._devices):
                self._handle_messages(0.2)
                stored = sum(self._watermarks.values())
                progress.update(task, completed=stored)
                if killed_at is None and stored >= KILL_AT * self._total:
                    self._worker.kill()
                    killed_at = time.monotonic()
                    self._say(f"[bold red]SIGKILL to the platform worker[/], {stored} events stored; devices and matches go on")
                elif killed_at and self._worker.poll() is not None and time.monotonic() - killed_at >= DEAD_FOR:
                    self._worker = self._start_worker()
                if time.monotonic() > deadline:
                    raise FacewireError(f"the devices are not done after {GIVE_UP_AFTER:g} s; their logs are in {self._folder}")
            self._handle_messages(0.2)
            progress.update(task, completed=sum(self._watermarks.values()))
        failed = [name for name, device in zip(self._names, self._devices, strict=True) if device.returncode]
        if failed:
            logs = "\n".join((self._folder / f"{name}.log").read_text() for name in failed)
            raise FacewireError(f"devices {', '.join(failed)} failed:\n{logs}")

    def verdicts(self) -> list[Verdict]:
        """Compare the persons that passed each device with the exported events, one by one."""
        status = {row["device"]: row for row in rows_of("status", "--database", f"sqlite:///{self._database}", "-o", "json")}
        stored: dict[str, list[tuple[str, int, str]]] = {name: [] for name in self._names}
        for row in rows_of("export", "--database", f"sqlite:///{self._database}"):
            stored[row["device"]].append((row["epoch"], row["seq"], row["identity_id"]))
        return [self._verdict(name, stored[name], status[name]) for name in self._names]

    def keep(self, ending: Ending) -> None:
        """Say how to look at it, and wait for the end."""
        self._say(f"broker on port {self._port}; look around with:")
        for command in ("status", "events --limit 5", "gaps"):
            self._say(f"  facewire {command} --database sqlite:///{self._database}")
        self._say("Ctrl-C ends the demo and removes its folder")
        ending.wait()

    def _verdict(self, name: str, stored: Sequence[tuple[str, int, str]], status: Mapping[str, int]) -> Verdict:
        (ring,) = rows_of("device", "status", "--store", str(self._folder / "stores" / f"{name}.db"), "-o", "json")
        recorded = {(ring["epoch"], seq, person) for seq, person in enumerate(self._persons[name], 1)}
        matched = len(recorded.intersection(stored))
        return Verdict(name, len(recorded), matched, len(stored) - matched, status["gaps"], status["watermark"], ring["head"])

    def _start_worker(self) -> "subprocess.Popen[bytes]":
        worker = self._run(
            "platform", "run", "-p", str(self._port), "--database", f"sqlite:///{self._database}", log=self._folder / "platform.log"
        )
        self._say(f"platform worker started, pid {worker.pid}")
        return worker

    def _start_device(self, name: str) -> "subprocess.Popen[bytes]":
        words = ["replay", str(self._excerpt), "-d", name, "-p", str(self._port), "--stores", str(self._folder / "stores"), "--now"]
        words += ["--speed", str(SPEED), "--threshold", str(THRESHOLD), "--catch-up", str(CATCH_UP)]
        return self._run(*words, log=self._folder / f"{name}.log")

    def _run(self, *words: str, log: Path) -> "subprocess.Popen[bytes]":
        with log.open("ab") as file:
            process = subprocess.Popen([*FACEWIRE, *words], stderr=file, stdout=file, stdin=subprocess.DEVNULL)  # noqa: S603  # ourselves
        self._stack.callback(_end, process)
        return process

    def _receive(self, happening: Happening) -> None:
        """Called on paho's thread."""
        if isinstance(happening, Received):
            self._received.put(happening)

    def _handle_messages(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            try:
                message = self._received.get(timeout=left)
            except queue.Empty:
                return
            self._handle(message)

    def _handle(self, message: Received) -> None:
        device, kind = self._topics.parse(message.topic)
        if kind == "ack":
            with contextlib.suppress(DecodeError):
                self._watermarks[device] = decode_ack(message.payload).cursor
            return
        at_ms = now_ms()
        row = render.to_row(self._topics, message.topic, message.payload, qos=message.qos, retain=message.retain, received_at=at_ms)
        self._console.print(render.line(row), markup=False, soft_wrap=True)

    @contextlib.contextmanager
    def _progress(self) -> Iterator[tuple[Progress, TaskID]]:
        columns = (TextColumn("history stored"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        with Progress(*columns, console=self._console) as progress:
            yield progress, progress.add_task("history", total=self._total)

    def _say(self, text: str) -> None:
        self._console.print(text, soft_wrap=True)


def persons_of(excerpt: Path) -> dict[str, list[str]]:
    """The persons who pass each device, in order.

    `facewire replay` makes a device of each zone, and a person of each prox-id.
    """
    persons: dict[str, list[str]] = {}
    with excerpt.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file, skipinitialspace=True):
            persons.setdefault(f"floor-{row['floor']}-zone-{row['zone']}", []).append(row["prox-id"])
    return persons


def proof(verdicts: list[Verdict]) -> Table:
    """The table at the end."""
    table = Table(title="Proof, event by event: what each device recorded, and what is stored", box=None, pad_edge=False)
    table.add_column("device", no_wrap=True)
    for column in ("recorded", "stored", "duplicates", "gaps", "watermark", "head"):
        table.add_column(column, justify="right")
    table.add_column("")
    for v in verdicts:
        numbers = (v.recorded, v.stored, v.duplicates, v.gaps, v.watermark, v.head)
        table.add_row(v.device, *map(str, numbers), "[green]ok[/]" if v.is_complete else "[bold red]FAILED[/]")
    return table


def _listening_port(log: Path) -> int:
    deadline = time.monotonic() + START_WAIT
    while time.monotonic() < deadline:
        if found := re.search(r"listening address=\S+:(\d+)", log.read_text()):
            return int(found[1])
        time.sleep(0.05)
    raise FacewireError(f"the broker does not listen after {START_WAIT:g} s:\n{log.read_text()}")


def _end(process: "subprocess.Popen[bytes]") -> None:
    process.terminate()
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
