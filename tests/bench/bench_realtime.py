"""The time of a match from its device to a consumer: `make bench-realtime`.

    raw sockets   MQTT packets made by hand: the cost of the broker and the machine
    publish       facewire's connection on both sides
    record        from the call of record(): stored with FULL, committed, published, received

Each runs through Mosquitto and the embedded broker at 200 matches a second, alone and during a
storm of history: 500 batches of 13 KB a second. The table shows milliseconds, and ratios to the raw
sockets through Mosquitto in the same run.
"""

import contextlib
import getpass
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

import click
import mqtt_probe
from broker_engines import MOSQUITTO, free_port, wait_for_port
from mqtt_probe import Probe

from facewire import codec
from facewire_device import Agent, Recorder, Settings
from facewire_mqtt import Address, Connected, Connection, Happening, Publication, Received

PER_SECOND, MATCHES = 200, 2_000
STORM_PER_SECOND = 500
TOPIC = "facewire/v1/bench/match"
FIELDS = {"timestamp": 1, "score": 0.9, "identity_id": "p", "identity_name": "name", "person_type": 1, "pad": "x" * 200}


class Arrivals:
    """Milliseconds from the sending of each match to its arrival."""

    def __init__(self) -> None:
        self.took: list[float] = []
        self.all_there = threading.Event()

    def add(self, sent_ns: int) -> None:
        self.took.append((time.monotonic_ns() - sent_ns) / 1e6)
        if len(self.took) == MATCHES:
            self.all_there.set()


@contextlib.contextmanager
def broker(engine: str) -> Iterator[Address]:
    port = free_port()
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "mosquitto.conf"
        config.write_text(f"user {getpass.getuser()}\nset_tcp_nodelay true\nallow_anonymous true\nlistener {port} 127.0.0.1\n")
        ours = [sys.executable, "-P", "-m", "facewire_cli", "--log-level", "error", "broker", "run", "--listen", f"127.0.0.1:{port}"]
        process = subprocess.Popen([str(MOSQUITTO), "-c", str(config)] if engine == "mosquitto" else ours, stderr=subprocess.DEVNULL)
        try:
            wait_for_port(port)
            yield Address(port=port)
        finally:
            process.terminate()
            process.wait()


@contextlib.contextmanager
def storm(address: Address) -> Iterator[None]:
    process = subprocess.Popen([sys.executable, __file__, "--storm", str(address.port)])
    try:
        time.sleep(1.0)
        yield
    finally:
        process.kill()
        process.wait()


def make_storm(address: Address) -> None:
    """Publish history at QoS 1, and receive it as a platform does."""

    def drain(probe: Probe) -> None:
        while probe.sock.recv(65_536):
            pass

    with Probe(address, "storm") as sender, Probe(address, "storm-platform") as platform:
        platform.send(mqtt_probe.subscribe(("facewire/v1/+/history", 0)))
        for probe in (sender, platform):
            probe.sock.settimeout(None)
            threading.Thread(target=drain, args=(probe,), daemon=True).start()
        payload = bytes(13_000)
        for number in paced(STORM_PER_SECOND, 10**9):
            sender.send(mqtt_probe.publish("facewire/v1/storm/history", payload, 1, packet_id=number % 65_000 + 1))


def paced(per_second: float, count: int) -> Iterator[int]:
    started = time.monotonic()
    for number in range(count):
        time.sleep(max(0.0, started + number / per_second - time.monotonic()))
        yield number


def raw_sockets(address: Address) -> Arrivals:
    arrivals = Arrivals()
    size = len(mqtt_probe.publish(TOPIC, bytes(300)))

    def take(probe: Probe) -> None:
        buffer = b""
        while len(arrivals.took) < MATCHES:
            buffer += probe.sock.recv(65_536)
            while len(buffer) >= size:
                arrivals.add(int.from_bytes(buffer[size - 300 : size - 292]))
                buffer = buffer[size:]

    with Probe(address, "raw-device") as device, Probe(address, "raw-gate") as gate:
        gate.send(mqtt_probe.subscribe((TOPIC, 0)))
        gate.wait(mqtt_probe.SUBACK)
        thread = threading.Thread(target=take, args=(gate,))
        thread.start()
        for _ in paced(PER_SECOND, MATCHES):
            device.send(mqtt_probe.publish(TOPIC, time.monotonic_ns().to_bytes(8) + bytes(292)))
        thread.join()
    return arrivals


@contextlib.contextmanager
def gate(address: Address, read: Callable[[bytes], int]) -> Iterator[Arrivals]:
    """A consumer on facewire's connection."""
    arrivals, up = Arrivals(), threading.Event()

    def tell(happening: Happening) -> None:
        if isinstance(happening, Received):
            arrivals.add(read(happening.payload))
        elif isinstance(happening, Connected):
            up.set()

    connection = Connection(address, "bench-gate", [(TOPIC, 0)], tell)
    connection.start()
    up.wait(10)
    try:
        yield arrivals
        arrivals.all_there.wait(10)
    finally:
        connection.close()


def publishing(address: Address) -> Arrivals:
    up = threading.Event()
    device = Connection(address, "bench-device", [], lambda happening: up.set() if isinstance(happening, Connected) else None)
    device.start()
    up.wait(10)
    with gate(address, lambda payload: int.from_bytes(payload[:8])) as arrivals:
        for _ in paced(PER_SECOND, MATCHES):
            device.publish(Publication(TOPIC, time.monotonic_ns().to_bytes(8) + bytes(292), qos=0))
    device.close()
    return arrivals


def recording(address: Address) -> Arrivals:
    with (
        tempfile.TemporaryDirectory() as folder,
        gate(address, lambda payload: int(codec.decode(payload).map["event"]["sent_ns"])) as arrivals,
        Agent(Settings("bench", Path(folder) / "store", address, threshold=0.5)) as agent,
        Recorder(agent.open_store, agent.wake) as recorder,
    ):
        agent.wait_connected(10)
        for _ in paced(PER_SECOND, MATCHES):
            recorder.record(FIELDS | {"sent_ns": time.monotonic_ns()})
        arrivals.all_there.wait(10)
    return arrivals


WAYS: dict[str, Callable[[Address], Arrivals]] = {"raw sockets": raw_sockets, "publish": publishing, "record": recording}


def show(name: str, arrivals: Arrivals, base: list[float] | None) -> list[float]:
    cuts = statistics.quantiles(arrivals.took, n=1000)
    figures = [cuts[499], cuts[989], cuts[998]]
    ratio = "" if base is None else f"   p99 ratio {figures[1] / base[1]:.2f}"
    lost = "" if len(arrivals.took) == MATCHES else f"   {MATCHES - len(arrivals.took)} lost"
    click.echo(f"{name:<44} p50 {figures[0]:6.2f}   p99 {figures[1]:6.2f}   p99.9 {figures[2]:6.2f}{ratio}{lost}")
    return figures


@click.command()
@click.option("--storm", "storm_port", type=int, hidden=True)
def main(storm_port: int | None) -> None:
    """Measure, and print the table."""
    if storm_port is not None:
        make_storm(Address(port=storm_port))
    for during, around in (("alone", lambda _: contextlib.nullcontext()), ("during a storm", storm)):
        base = None
        for engine in ("mosquitto", "embedded"):
            for way, measure in WAYS.items():
                with broker(engine) as address, around(address):
                    figures = show(f"{way}, {engine}, {during}", measure(address), base)
                base = base or figures


if __name__ == "__main__":
    main()
