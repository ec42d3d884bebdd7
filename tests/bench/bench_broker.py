"""Our broker beside Mosquitto, in one run: `make bench-broker`, or `python tests/bench/bench_broker.py 100 1000 10000`.

    connect       seconds until so many devices are connected and have subscribed their ack
    memory        resident bytes of the broker for each of them
    round trips   a batch of 13 KB at QoS 1 to the platform, its ack at QoS 1 back: six packets through the broker
    matches       300 bytes at QoS 0 from a hundred devices to one consumer

The load comes from this process alone, by epoll: it takes a core, the broker the other.
"""

import contextlib
import os
import re
import resource
import select
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).parent.parent))

import click
from broker_engines import MOSQUITTO, free_port, wait_for_port
from mqtt_probe import connect, publish, subscribe

BATCH, MATCH = bytes(13_000), bytes(300)
#: Devices that wait for an ack at a time.
WINDOW = 200
#: Matches on their way at a time.
AHEAD = 2_000
SECONDS = 5.0


class Figures(NamedTuple):
    connect: float
    memory: float
    round_trips: float
    #: The broker's own CPU for one of them, µs: a figure that other work on the machine disturbs less.
    cpu: float
    matches: float


class Sender:
    """A socket that sends without waiting, and a poll that wakes it when it can go on."""

    def __init__(self, port: int, poll: select.epoll, received: Callable[["Sender", bytes], None]) -> None:
        self.sock = socket.create_connection(("127.0.0.1", port), 60)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sock.setblocking(False)
        self.received, self._poll, self._rest = received, poll, b""
        self.buffer = b""
        poll.register(self.sock, select.EPOLLIN)

    def send(self, data: bytes) -> None:
        if self._rest:
            self._rest += data
            return
        try:
            sent = self.sock.send(data)
        except BlockingIOError:
            sent = 0
        if sent < len(data):
            self._rest = data[sent:]
            self._poll.modify(self.sock, select.EPOLLIN | select.EPOLLOUT)

    def happened(self, event: int) -> None:
        if event & select.EPOLLOUT:
            rest, self._rest = self._rest, b""
            self.send(rest)
            if not self._rest:
                self._poll.modify(self.sock, select.EPOLLIN)
        if event & select.EPOLLIN:
            data = self.sock.recv(1 << 18)
            assert data, "the broker closed a connection"
            self.received(self, data)

    def packets(self, data: bytes) -> Iterator[bytes]:
        """Whole packets, header and all."""
        data, at, size = self.buffer + data, 0, 0
        while len(data) - at >= 5 or (len(data) - at >= 2 and data[at + 1] < 128):
            size, end, shift = data[at + 1] & 127, at + 2, 7
            while data[end - 1] > 127:
                size |= (data[end] & 127) << shift
                end, shift = end + 1, shift + 7
            if end + size > len(data):
                break
            yield data[at : end + size]
            at = end + size
        self.buffer = data[at:]


class Load:
    """So many devices, one platform and one consumer."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.poll = select.epoll()
        self.senders: dict[int, Sender] = {}
        self.answers = 0

    def add(self, packets: bytes, received: Callable[[Sender, bytes], None] | None = None) -> Sender:
        sender = Sender(self.port, self.poll, received or self._answered)
        self.senders[sender.sock.fileno()] = sender
        sender.send(packets)
        return sender

    def _answered(self, _sender: Sender, data: bytes) -> None:
        self.answers += len(data)

    def run(self, until: Callable[[], bool]) -> float:
        started = time.perf_counter()
        while not until():
            for number, event in self.poll.poll(1.0, 512):
                self.senders[number].happened(event)
        return time.perf_counter() - started

    def close(self) -> None:
        for sender in self.senders.values():
            sender.sock.close()
        self.poll.close()


def connect_all(load: Load, count: int) -> tuple[list[Sender], float]:
    """Connect the devices, a few hundred at a time, and wait until each has its SUBACK."""
    started, devices = time.perf_counter(), []
    size = len(b"\x20\x02\0\0" + b"\x90\x03\0\1\1")
    for n in range(count):
        devices.append(load.add(connect(f"d{n}") + subscribe((f"facewire/v1/d{n}/ack", 1))))
        if n % 200 == 199:
            load.run(lambda wanted=(n + 1) * size: load.answers >= wanted)  # type: ignore[misc]  # no types for defaults
    load.run(lambda: load.answers >= count * size)
    return devices, time.perf_counter() - started


def round_trips(load: Load, devices: list[Sender], pid: int) -> tuple[float, float]:
    """Batches to the platform and acks back, a window of devices at a time."""
    batches = [publish(f"facewire/v1/d{n}/history", BATCH, 1) for n in range(len(devices))]
    done, turn, ready = 0, 0, False

    def next_batch() -> None:
        nonlocal turn
        devices[turn % len(devices)].send(batches[turn % len(devices)])
        turn += 1

    def on_device(device: Sender, data: bytes) -> None:
        nonlocal done
        for packet in device.packets(data):
            if packet[0] & 0xF0 == 0x30:
                end = 4 + packet[3]
                device.send(b"\x40\x02" + packet[end : end + 2])
                done += 1
                next_batch()

    def on_platform(platform: Sender, data: bytes) -> None:
        nonlocal ready
        ready, out = True, []
        for packet in platform.packets(data):
            if packet[0] & 0xF0 == 0x30:
                at = 3 if packet[2] < 128 else 4
                end = at + 2 + packet[at + 1]
                topic = packet[at + 2 : end - len("history")].decode() + "ack"
                out += [b"\x40\x02", packet[end : end + 2], publish(topic, b"a" * 80, 1)]
        if out:
            platform.send(b"".join(out))

    for device in devices:
        device.received = on_device
    load.add(connect("platform") + subscribe(("facewire/v1/+/history", 1)), on_platform)
    load.run(lambda: ready)
    for _ in range(min(WINDOW, len(devices))):
        next_batch()
    warm = time.perf_counter() + 1
    load.run(lambda: time.perf_counter() > warm)
    before, cpu, end = done, cpu_seconds(pid), time.perf_counter() + SECONDS
    took = load.run(lambda: time.perf_counter() > end)
    trips, cpu = done - before, cpu_seconds(pid) - cpu
    turn_off(devices)
    return trips / took, cpu / trips * 1e6


def turn_off(devices: list[Sender]) -> None:
    for device in devices:
        device.received = lambda _sender, _data: None


def matches(load: Load, devices: list[Sender]) -> float:
    """Matches to one consumer, as many ahead as no broker drops."""
    senders = devices[:100]
    match = publish("facewire/v1/dddd/match", MATCH, 0)
    came = sent = turn = 0

    def on_consumer(_sender: Sender, data: bytes) -> None:
        nonlocal came
        came += len(data)
        go_on()

    def go_on() -> None:
        nonlocal sent, turn
        while sent - came / len(match) < AHEAD:
            senders[turn % len(senders)].send(match * 20)
            turn, sent = turn + 1, sent + 20

    load.add(connect("consumer") + subscribe(("facewire/v1/+/match", 0)), on_consumer)
    load.run(lambda: came >= 9)
    came = 0
    go_on()
    warm = time.perf_counter() + 0.5
    load.run(lambda: time.perf_counter() > warm)
    before, end = came, time.perf_counter() + SECONDS
    took = load.run(lambda: time.perf_counter() > end)
    return (came - before) / len(match) / took


def resident(pid: int) -> int:
    found = re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())
    return int(found[1]) * 1024 if found else 0


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def measure(pid: int, port: int, sessions: int) -> Figures:
    load = Load(port)
    before = resident(pid)
    devices, took = connect_all(load, sessions)
    memory = (resident(pid) - before) / sessions
    trips, cpu = round_trips(load, devices, pid)
    rate = matches(load, devices)
    load.close()
    return Figures(took, memory, trips, cpu, rate)


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


@click.command()
@click.argument("sessions", nargs=-1, type=int)
def main(sessions: tuple[int, ...]) -> None:
    """Measure, and print ratios."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    engines = {"ours": ours, **({"mosquitto": mosquitto} if MOSQUITTO else {})}
    found: dict[tuple[str, int], Figures] = {}
    click.echo(f"{'sessions':>8}  {'':10} {'connect s':>9} {'KB/session':>10} {'round trips/s':>13} {'CPU us/trip':>11} {'matches/s':>10}")
    for count in sessions or (100, 1_000, 10_000):
        for name, start in engines.items():
            with start() as (pid, port):
                figures = found[name, count] = measure(pid, port, count)
            click.echo(
                f"{count:>8}  {name:10} {figures.connect:9.2f} {figures.memory / 1024:10.1f} {figures.round_trips:13,.0f} {figures.cpu:11.0f} {figures.matches:10,.0f}"
            )
        if MOSQUITTO:
            a, b = found["ours", count], found["mosquitto", count]
            click.echo(
                f"{count:>8}  {'ratio':10} {a.connect / b.connect:9.2f} {a.memory / max(b.memory, 1):10.1f} {a.round_trips / b.round_trips:13.2f} {a.cpu / b.cpu:11.2f} {a.matches / b.matches:10.2f}"
            )
    counts = sorted(count for name, count in found if name == "ours")
    first, last = found["ours", counts[0]], found["ours", counts[-1]]
    click.echo(
        f"ours at {counts[-1]:,} sessions against {counts[0]:,}: round trips {last.round_trips / first.round_trips:.2f}, matches {last.matches / first.matches:.2f}"
    )


if __name__ == "__main__":
    main()
