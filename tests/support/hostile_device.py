"""A device that floods a platform until it is killed, as a process.

`python tests/support/hostile_device.py PORT KIND PASSWORD`, KIND being one of these:

matches     good ones, each of a new seq
epochs      a batch of a new epoch each time
rubbish     messages of 20 KB that cannot be read
bad_events  batches of 100 events without a score
"""

import itertools
import sys
from collections.abc import Callable, Iterator

from mqtt_probe import Probe, publish
from platform_model import BOOT, batch, event

from facewire import codec
from facewire.messages import Match, encode, to_map
from facewire.topics import Kind, Topics
from facewire_mqtt import Address


def _to(kind: Kind, payload: bytes) -> bytes:
    return publish(Topics().of("hostile", kind), payload, 1 if kind == "history" else 0)


def matches() -> Iterator[bytes]:
    for seq in itertools.count(1):
        yield _to("match", encode(Match("f" * 16, BOOT, 1, event(seq))))


def epochs() -> Iterator[bytes]:
    for number in itertools.count():
        yield _to("history", encode(batch(0, 1, 1, epoch=f"{number:016x}")))


def rubbish() -> Iterator[bytes]:
    for number in itertools.count():
        yield _to("match", b"%d" % number + bytes(20_000))


def bad_events() -> Iterator[bytes]:
    bad = event(1).to_map()
    bad.pop("score")
    for number in itertools.count():
        after = number * 100
        events = [bad | {"seq": seq} for seq in range(after + 1, after + 101)]
        yield _to("history", codec.pack(to_map(batch(after, after + 100)) | {"events": events}))


KINDS: dict[str, Callable[[], Iterator[bytes]]] = {made.__name__: made for made in (matches, epochs, rubbish, bad_events)}


def main(port: int, kind: str, password: str) -> None:
    with Probe(Address(port=port), "hostile", timeout=60, user="hostile", password=password) as device:
        device.subscribe((Topics().of("hostile", "ack"), 1))
        packets = KINDS[kind]()
        while True:
            device.send(*itertools.islice(packets, 50))
            device.ping()  # read what has come


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], sys.argv[3])
