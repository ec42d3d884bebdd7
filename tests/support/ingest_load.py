"""Busy devices in one process: `python tests/support/ingest_load.py PORT DEVICES BATCHES`.

Each device has one batch of 100 events in flight. When it is acked, the device sends the next,
BATCHES times. All devices share one plain socket, and all batches are made before the first is
sent, so that only the receiving side is measured. Prints the seconds from the first batch to the
last ack.
"""

import random
import socket
import struct
import sys
import time
from collections.abc import Iterator

from facewire.events import Event
from facewire.messages import Batch, encode

EVENTS = 100
BOOT = "b" * 16
_CHANCE = random.Random(1)


def event(seq: int) -> Event:
    extra = {"want_action": "0", "device_ip": "192.168.1.243", "out_timestamp": 1_700_000_000_000 + seq}
    person, name = f"{_CHANCE.randrange(10**6)}", f"name {_CHANCE.randrange(1000)}"
    return Event(seq, 1_700_000_000_000 + seq * 200, _CHANCE.random() * 100, person, name, 1, "default", "0xe0__192.168.1.96", extra)


def batch(device: int, number: int) -> Batch:
    after = number * EVENTS
    events = tuple(event(after + place) for place in range(1, EVENTS + 1))
    return Batch(f"{device:016x}", BOOT, after, after + EVENTS, after + EVENTS, 1, events)


def _packet(kind: int, body: bytes) -> bytes:
    """A whole MQTT packet (3.1.1 section 2.2)."""
    left, header = len(body), bytearray([kind])
    while left >= 128:
        header.append(left % 128 | 128)
        left //= 128
    return bytes(header) + bytes([left]) + body


def _text(text: str) -> bytes:
    return struct.pack(">H", len(text)) + text.encode()


def _packets(sock: socket.socket) -> Iterator[tuple[int, memoryview]]:
    held = b""
    while True:
        more = sock.recv(1 << 20)
        if not more:
            raise ConnectionError("the broker hung up")
        held += more
        start = 0
        while (end := _end(held, start)) is not None:
            body, after = end
            yield held[start], memoryview(held)[body:after]
            start = after
        held = held[start:]


def _end(held: bytes, start: int) -> tuple[int, int] | None:
    length = 0
    for place in range(4):
        if start + 1 + place >= len(held):
            return None
        byte = held[start + 1 + place]
        length |= (byte & 127) << 7 * place
        if byte < 128:
            body = start + 2 + place
            return (body, body + length) if body + length <= len(held) else None
    raise ValueError("malformed length")


def main(port: int, devices: int, batches: int) -> None:
    topics = [f"facewire/v1/dev{device}/history" for device in range(devices)]
    waiting = [
        [_packet(0x32, _text(topic) + struct.pack(">H", device + 1) + encode(batch(device, number))) for number in range(batches)]
        for device, topic in enumerate(topics)
    ]
    of_topic = {topic.replace("history", "ack").encode(): device for device, topic in enumerate(topics)}
    sock = socket.create_connection(("127.0.0.1", port))
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.sendall(_packet(0x10, _text("MQTT") + b"\x04\x02\x00\x00" + _text("load")))
    sock.sendall(_packet(0x82, b"\x00\x01" + _text("facewire/v1/+/ack") + b"\x00"))
    answers = _packets(sock)
    while next(answers)[0] != 0x90:  # SUBACK
        pass
    sent, left = [1] * devices, devices * batches
    started = time.perf_counter()
    sock.sendall(b"".join(packets[0] for packets in waiting))
    for kind, body in answers:
        if kind & 0xF0 != 0x30:
            continue
        length = body[0] << 8 | body[1]
        device = of_topic[bytes(body[2 : 2 + length])]
        left -= 1
        if not left:
            break
        if sent[device] < batches:
            sock.sendall(waiting[device][sent[device]])
            sent[device] += 1
    print(time.perf_counter() - started)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
