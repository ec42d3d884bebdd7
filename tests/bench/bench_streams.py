"""The cost of 100 open streams for ingest: `make bench-streams`.

History arrives as fast as one worker acks it, with 50 matches a second, with and without streams.
Broker, worker, web server, readers and devices are separate processes. The readers have the lowest
priority, because in life they run on other machines.
"""

import asyncio
import multiprocessing
import os
import statistics
import sys
import tempfile
import threading
import time
from collections import defaultdict
from pathlib import Path

import click

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

from platform_model import batch, event
from web_site import Site
from wire import Wire

from facewire.messages import encode

DEVICES = 50
BATCHES = 60
EVENTS = DEVICES * BATCHES * 100
MATCHES_PER_SECOND = 50


def read_streams(host: str, port: int, count: int) -> None:
    """Open a number of streams, and read them."""
    os.nice(19)

    async def read_one() -> None:
        reader, writer = await asyncio.open_connection(host, port)
        writer.write(b"GET /api/stream HTTP/1.1\r\nHost: localhost\r\n\r\n")
        while await reader.read(65_536):
            pass

    async def read_all() -> None:
        await asyncio.gather(*(read_one() for _ in range(count)))

    asyncio.run(read_all())


def ingest(site: Site, name: str) -> float:
    """Events acked in a second. Each device sends its next batch when the last one is acked."""
    acked: dict[str, int] = defaultdict(int)
    payloads = [encode(batch(n * 100, n * 100 + 100, *(event(seq) for seq in range(n * 100 + 1, n * 100 + 101)))) for n in range(BATCHES)]
    with Wire(site.where, f"bench-{name}") as wire:
        wire.subscribe("facewire/v1/+/ack")
        began = time.perf_counter()
        for device in range(DEVICES):
            wire.publish(f"facewire/v1/{name}.{device}/history", payloads[0], qos=1)
        left = DEVICES * BATCHES
        while left:
            message = wire.next(lambda message: message.kind == "ack")
            device_name = message.topic.split("/")[2]
            acked[device_name] += 1
            left -= 1
            if acked[device_name] < BATCHES:
                wire.publish(f"facewire/v1/{device_name}/history", payloads[acked[device_name]], qos=1)
        return EVENTS / (time.perf_counter() - began)


def with_matches(site: Site, stop: threading.Event) -> None:
    while not stop.wait(1 / MATCHES_PER_SECOND):
        site.match("wall", identity_name="Ada Lovelace")


@click.command()
@click.option("--streams", default=100, show_default=True)
@click.option("--rounds", default=3, show_default=True)
def main(streams: int, rounds: int) -> None:
    """Measure, and print the median of the ratios of each round."""
    ratios = []
    with tempfile.TemporaryDirectory() as folder, Site(Path(folder)) as site:
        stop = threading.Event()
        threading.Thread(target=with_matches, args=(site, stop), daemon=True).start()
        host, port = site.url.removeprefix("http://").strip("/").split(":")
        ingest(site, "warm")
        for number in range(rounds):
            alone = ingest(site, f"alone{number}")
            readers = multiprocessing.get_context("spawn").Process(target=read_streams, args=(host, int(port), streams), daemon=True)
            readers.start()
            time.sleep(2)
            watched = ingest(site, f"watched{number}")
            readers.kill()
            readers.join()
            time.sleep(1)
            ratios.append(watched / alone)
            print(f"alone {alone:9,.0f} events/s   {streams} streams {watched:9,.0f} events/s   ratio {ratios[-1]:.2f}", flush=True)
        stop.set()
    print(f"median ratio {statistics.median(ratios):.2f}")


if __name__ == "__main__":
    main()
