"""The devices, platform and consumer of `bench_broker`: many sockets in one process, by epoll.

They exchange bare bytes, with no MQTT library. A round trip is a batch of 13 KB at QoS 1 to the
platform and its ack at QoS 1 back: six packets through the broker.

    device ──batch──▶ broker ──batch──▶ platform
    device ◀─PUBACK── broker ◀─PUBACK── platform
    device ◀───ack─── broker ◀───ack─── platform
    device ──PUBACK─▶ broker ──PUBACK─▶ platform

The devices send in turn, WINDOW of them at a time. That is fewer than any fleet that we measure, so
each device was silent before it sends, as in the field. If all sent at once, a device's PUBACK and
its next batch would arrive in one segment, and a small fleet would cost less.
"""

import select
import socket
import time
from collections.abc import Callable, Iterator
from typing import Final

from mqtt_probe import connect, publish, subscribe

#: Bytes of a batch of 100 events, and of a match.
BATCH: Final = bytes(13_000)
MATCH: Final = bytes(300)
#: Round trips, and matches, in flight at a time. A broker would drop more matches.
WINDOW: Final = 50
AHEAD: Final = 2_000
#: Matches that a device sends at a time, and number of devices that send matches.
BURST: Final = 20
SENDERS: Final = 100


class Sender:
    """A socket that sends without blocking; a poll wakes it when it can send more."""

    def __init__(self, port: int, poll: select.epoll, received: Callable[["Sender", bytes], None]) -> None:
        self.sock = socket.create_connection(("127.0.0.1", port), 60)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sock.setblocking(False)
        self.received, self._poll, self._rest = received, poll, b""
        self.buffer = b""
        poll.register(self.sock, select.EPOLLIN)

    def send(self, head: bytes, payload: bytes = b"") -> None:
        """Send two pieces as one.

        10,000 devices share the bytes of one batch: copies would cost cache misses that no real
        device causes.
        """
        if self._rest:
            self._rest += head + payload
            return
        try:
            sent = self.sock.sendmsg((head, payload)) if payload else self.sock.send(head)
        except BlockingIOError:
            sent = 0
        if sent < len(head) + len(payload):
            self._rest = (head + payload)[sent:]
            self._poll.modify(self.sock, select.EPOLLIN | select.EPOLLOUT)

    def on_event(self, event: int) -> None:
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
        """Whole packets, with their fixed header."""
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


def hello(name: str) -> bytes:
    """A CONNECT with a long keep-alive: the client may be silent while we measure others."""
    return connect(name, keepalive=3600)


class Load:
    """All sockets, and the loop that serves them."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._poll = select.epoll()
        self._senders: dict[int, Sender] = {}
        self._answers = 0

    def add(self, packets: bytes, received: Callable[[Sender, bytes], None] | None = None) -> Sender:
        sender = Sender(self._port, self._poll, received or self._answered)
        self._senders[sender.sock.fileno()] = sender
        sender.send(packets)
        return sender

    def _answered(self, _sender: Sender, data: bytes) -> None:
        self._answers += len(data)

    def devices(self, count: int) -> list[Sender]:
        """Connect so many, a few hundred at a time, and wait until each has its SUBACK."""
        senders: list[Sender] = []
        size = len(b"\x20\x02\0\0" + b"\x90\x03\0\1\1")
        while len(senders) < count:
            names = [f"d{n}" for n in range(len(senders), min(len(senders) + 200, count))]
            senders += [self.add(hello(name) + subscribe((f"facewire/v1/{name}/ack", 1))) for name in names]
            self._wait_for_answers(len(senders) * size)
        return senders

    def _wait_for_answers(self, size: int) -> None:
        self.run(lambda: self._answers >= size, timeout=60)

    def run(self, condition: Callable[[], bool], timeout: float = 10.0) -> float:
        """Send and receive until the condition holds; return the seconds that it took."""
        started = time.perf_counter()
        while not condition():
            assert time.perf_counter() < started + timeout, f"condition does not hold after {timeout:g} s"
            for number, event in self._poll.poll(0.1, 512):
                self._senders[number].on_event(event)
        return time.perf_counter() - started

    def run_for(self, seconds: float) -> float:
        end = time.perf_counter() + seconds
        return self.run(lambda: time.perf_counter() >= end, seconds + 10)


class RoundTrips:
    """Batches to the platform and acks back."""

    def __init__(self, load: Load, devices: list[Sender]) -> None:
        self.done = 0
        self._load, self._devices = load, devices
        self._heads = [publish(f"facewire/v1/d{n}/history", BATCH, 1)[: -len(BATCH)] for n in range(len(devices))]
        self._turn = self._in_flight = 0
        self._is_on = self._is_ready = False
        for device in devices:
            device.received = self._to_device
        load.add(hello("platform") + subscribe(("facewire/v1/+/history", 1)), self._to_platform)
        load.run(lambda: self._is_ready)

    def go(self, seconds: float) -> float:
        """Keep `WINDOW` of them in flight."""
        self._is_on = True
        while self._in_flight < WINDOW:
            self._next()
        return self._load.run_for(seconds)

    def settle(self) -> None:
        """Begin no more, and wait for those in flight."""
        self._is_on = False
        self._load.run(lambda: not self._in_flight)

    def _next(self) -> None:
        at = self._turn % len(self._devices)
        self._devices[at].send(self._heads[at], BATCH)
        self._turn, self._in_flight = self._turn + 1, self._in_flight + 1

    def _to_device(self, device: Sender, data: bytes) -> None:
        for packet in device.packets(data):
            if packet[0] & 0xF0 == 0x30:
                end = 4 + packet[3]
                device.send(b"\x40\x02" + packet[end : end + 2])
                self.done, self._in_flight = self.done + 1, self._in_flight - 1
                if self._is_on:
                    self._next()

    def _to_platform(self, platform: Sender, data: bytes) -> None:
        out = []
        for packet in platform.packets(data):
            self._is_ready = True
            if packet[0] & 0xF0 == 0x30:
                at = 3 if packet[2] < 128 else 4
                end = at + 2 + packet[at + 1]
                topic = packet[at + 2 : end - len("history")].decode() + "ack"
                out += [b"\x40\x02", packet[end : end + 2], publish(topic, b"a" * 80, 1)]
        if out:
            platform.send(b"".join(out))


class Matches:
    """Matches from a few devices to one consumer; few enough in flight that no broker drops any."""

    def __init__(self, load: Load, devices: list[Sender]) -> None:
        self._load, self._senders = load, devices[:SENDERS]
        self._match = publish("facewire/v1/dddd/match", MATCH, 0)
        self._turn = self._sent = self._received_bytes = 0
        self._is_on = False
        load.add(hello("consumer") + subscribe(("facewire/v1/+/match", 0)), self._to_consumer)
        load.run(lambda: self._received_bytes >= len(b"\x20\x02\0\0" + b"\x90\x03\0\1\0"))
        self._received_bytes = 0

    @property
    def done(self) -> float:
        return self._received_bytes / len(self._match)

    def go(self, seconds: float) -> float:
        """Keep `AHEAD` of them in flight."""
        self._is_on = True
        self._fill()
        return self._load.run_for(seconds)

    def settle(self) -> None:
        """Begin no more, and wait for those in flight."""
        self._is_on = False
        self._load.run(lambda: self.done >= self._sent)

    def _fill(self) -> None:
        while self._is_on and self._sent - self.done < AHEAD:
            self._senders[self._turn % len(self._senders)].send(self._match * BURST)
            self._turn, self._sent = self._turn + 1, self._sent + BURST

    def _to_consumer(self, _consumer: Sender, data: bytes) -> None:
        self._received_bytes += len(data)
        self._fill()
