"""Our broker beside Mosquitto, in one run: `make bench-broker`, with `SESSIONS="100 1000 10000"`.

    connect       seconds until so many devices are connected and have subscribed to their ack
    memory        resident bytes of the broker for each device
    round trips   a batch of 13 KB at QoS 1 to the platform and its ack at QoS 1 back: six packets
                  through the broker
    matches       300 bytes at QoS 0 from a hundred devices to one consumer

For each broker and each number of sessions, a process makes the load (`broker_load`). It uses one
core and the broker uses another. All of them are ready at once, and are measured in turn, a second
each, round after round, because other work on the machine changes by the minute. The figures are
medians; a ratio is the median of the rounds' ratios. A rate shows how fast broker and load are
together, so the CPU time of each for one round trip stands beside it.
"""

import contextlib
import itertools
import multiprocessing
import os
import re
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

import click
from broker_engines import MOSQUITTO, free_port, wait_for_port
from broker_load import WINDOW, Load, Matches, RoundTrips

ROUNDS = 9
#: Seconds of each measurement, and of warming up before it.
SECONDS, WARM = 1.0, 0.3


class Standing(NamedTuple):
    """The cost of idle sessions."""

    connect: float
    memory: float


class Speed(NamedTuple):
    """The speed in one turn."""

    rate: float
    #: CPU time of the broker and of the load, for one round trip or match, µs.
    cpu: float
    load_cpu: float


def resident(pid: int) -> int:
    match = re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())
    return int(match[1]) * 1024 if match else 0


def cpu_seconds(pid: int) -> float:
    """Seconds that all threads of a process have run, to the nanosecond."""
    return sum(int(file.read_text().split()[0]) for file in Path(f"/proc/{pid}/task").glob("*/schedstat")) / 1e9


@contextlib.contextmanager
def ours() -> Iterator[tuple[int, int]]:
    facewire = Path(sys.executable).with_name("facewire")
    port = free_port()
    arguments = [str(facewire), "--log-level", "warning", "broker", "run", "--listen", f"127.0.0.1:{port}"]
    with running(arguments, port) as pid:
        yield pid, port


@contextlib.contextmanager
def mosquitto() -> Iterator[tuple[int, int]]:
    port = free_port()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "mosquitto.conf")
        file.write_text(
            f"user root\nlistener {port} 127.0.0.1\nallow_anonymous true\nset_tcp_nodelay true\nmax_inflight_messages 256\nlog_type error\n"
        )
        with running([str(MOSQUITTO), "-c", str(file)], port) as pid:
            yield pid, port


@contextlib.contextmanager
def running(arguments: list[str], port: int) -> Iterator[int]:
    with subprocess.Popen(arguments, stderr=subprocess.DEVNULL) as process:
        try:
            wait_for_port(port)
            yield process.pid
        finally:
            process.kill()


ENGINES = {"ours": ours, **({"mosquitto": mosquitto} if MOSQUITTO else {})}


def contend(engine: str, sessions: int, orders: Connection) -> None:
    """Run one broker and its load: send the cost of its sessions, then measure on each order."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    with ENGINES[engine]() as (pid, port), contextlib.suppress(EOFError, KeyboardInterrupt):
        load, before, started = Load(port), resident(pid), time.perf_counter()
        devices = load.devices(sessions)
        orders.send(Standing(time.perf_counter() - started, (resident(pid) - before) / sessions))
        works = RoundTrips(load, devices), Matches(load, devices)
        while orders.recv():
            orders.send([measure(work, pid) for work in works])


def measure(work: RoundTrips | Matches, pid: int) -> Speed:
    """Measure one turn."""
    work.go(WARM)
    done, cpu, load_cpu = work.done, cpu_seconds(pid), cpu_seconds(os.getpid())
    seconds = work.go(SECONDS)
    done = work.done - done
    speed = Speed(done / seconds, (cpu_seconds(pid) - cpu) / done * 1e6, (cpu_seconds(os.getpid()) - load_cpu) / done * 1e6)
    work.settle()
    return speed


class Contender:
    """A broker with so many sessions, and its speeds for round trips and matches in each round."""

    def __init__(self, engine: str, sessions: int) -> None:
        self.engine, self.sessions = engine, sessions
        context = multiprocessing.get_context("spawn")
        self._orders, theirs = context.Pipe()
        self._process = context.Process(target=contend, args=(engine, sessions, theirs))
        self._process.start()
        theirs.close()
        self.standing: Standing = self._orders.recv()
        self.trips: list[Speed] = []
        self.matches: list[Speed] = []

    def turn(self) -> None:
        self._orders.send(True)
        trips, matches = self._orders.recv()
        self.trips.append(trips)
        self.matches.append(matches)

    def close(self) -> None:
        self._orders.send(False)
        self._process.join()

    def line(self) -> str:
        trips, matches = middle(self.trips), middle(self.matches)
        return (
            f"{self.sessions:>8}  {self.engine:9} {self.standing.connect:9.2f} {self.standing.memory / 1024:10.1f}"
            f" {trips.rate:13,.0f} {trips.cpu:10.1f} {trips.load_cpu:8.1f} {matches.rate:10,.0f} {matches.cpu:11.2f} {matches.load_cpu:8.2f}"
        )


HEAD = (
    f"{'sessions':>8}  {'':9} {'connect s':>9} {'KB/session':>10}"
    f" {'round trips/s':>13} {'broker µs':>10} {'load µs':>8} {'matches/s':>10} {'broker µs':>11} {'load µs':>8}"
)


def middle(speeds: list[Speed]) -> Speed:
    return Speed(*(statistics.median(column) for column in zip(*speeds, strict=True)))


def beside(one: list[Speed], other: list[Speed]) -> Speed:
    """The ratio of two speeds: the median of the ratios of the rounds."""
    return middle([Speed(*(a / b for a, b in zip(*pair, strict=True))) for pair in zip(one, other, strict=True)])


def compare(name: str, one: Contender, other: Contender) -> str:
    trips, matches = beside(one.trips, other.trips), beside(one.matches, other.matches)
    return f"{name}: round trips {trips.rate:.2f}, their CPU {trips.cpu:.2f}; matches {matches.rate:.2f}, their CPU {matches.cpu:.2f}"


@click.command()
@click.argument("sessions", nargs=-1, type=click.IntRange(WINDOW + 1))
def main(sessions: tuple[int, ...]) -> None:
    """Measure, and print ratios."""
    counts = sorted(sessions or (100, 1_000, 10_000))
    with contextlib.ExitStack() as stack:
        contenders: dict[tuple[str, int], Contender] = {}
        for engine, count in itertools.product(ENGINES, counts):
            contenders[engine, count] = stack.enter_context(contextlib.closing(Contender(engine, count)))
        for _ in range(ROUNDS):
            for contender in contenders.values():
                contender.turn()
    click.echo(HEAD)
    for contender in sorted(contenders.values(), key=lambda it: it.sessions):
        click.echo(contender.line())
    if MOSQUITTO:
        for count in counts:
            click.echo(compare(f"ours beside Mosquitto at {count:,} sessions", contenders["ours", count], contenders["mosquitto", count]))
    for engine in ENGINES if len(counts) > 1 else ():
        first, last = contenders[engine, counts[0]], contenders[engine, counts[-1]]
        click.echo(compare(f"{engine} at {counts[-1]:,} sessions beside itself at {counts[0]:,}", last, first))


if __name__ == "__main__":
    main()
