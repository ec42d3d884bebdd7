"""One client's TCP or TLS stream: bytes to packets and back, with bounds on bytes and time.

It is an asyncio protocol, so a session costs no task and a packet no wake-up. All packets sent in
one turn of the event loop go out in one write, at its end. We do not use amqtt's `ProtocolHandler`:
it starts a task for each packet and each message.
"""

import abc
import asyncio
import logging
import socket
import time
from collections import deque
from collections.abc import Callable
from typing import Final

from facewire_broker.framer import Framer
from facewire_broker.hub import Hub
from facewire_broker.limits import BrokerLimits
from facewire_broker.newcomers import Newcomers, network_of
from facewire_mqtt.framing import Malformed

log = logging.getLogger(__name__)

#: Bytes read from a socket at a time.
_READ_BYTES: Final = 64 * 1024
#: Seconds that one connection's packets may take in one turn of the event loop. 64 KB can hold
#: 9,000 packets, and all other connections would wait for them.
TURN: Final = 0.0005
#: First byte of a CONNECT.
_CONNECT: Final = 0x10


class Streams:
    """All open streams, and those with bytes to write at the end of this turn of the event loop.

    To be created in the event loop.
    """

    def __init__(self, limits: BrokerLimits) -> None:
        self.loop = asyncio.get_running_loop()
        self.all: set[Stream] = set()
        self.newcomers: Newcomers[Stream] = Newcomers(limits.newcomers, limits.address_newcomers)
        #: All sockets read into this one buffer, and each read is consumed at once. A new buffer
        #: for each read would cost as much as the read.
        self.buffer = memoryview(bytearray(_READ_BYTES))
        self._unwritten: list[Stream] = []
        self._unfinished: deque[Callable[[], None]] = deque()

    def next_turn(self, work: Callable[[], None]) -> None:
        """Do work in a later turn of the event loop.

        Each turn does one such piece of work, however many clients ask for it. So a turn is short,
        and a client with little to do waits for none of them.
        """
        if not self._unfinished:
            self.loop.call_soon(self._work)
        self._unfinished.append(work)

    def _work(self) -> None:
        work = self._unfinished.popleft()
        if self._unfinished:
            self.loop.call_soon(self._work)
        work()

    def write_later(self, stream: "Stream") -> None:
        """Write a stream's pending bytes at the end of this turn."""
        if not self._unwritten:
            self.loop.call_soon(self._write)
        self._unwritten.append(stream)

    def _write(self) -> None:
        unwritten, self._unwritten = self._unwritten, []
        try:
            while unwritten:
                unwritten.pop().flush()
        finally:
            # If one write failed, the others still go out.
            for stream in unwritten:
                self.write_later(stream)


class Stream(asyncio.BufferedProtocol, abc.ABC):
    """A connection below its packets: bytes, bounds and time-outs.

    Args:
        hub: counts refusals.
        streams: holds this one while it is open.
    """

    def __init__(self, hub: Hub, streams: Streams) -> None:
        self._hub, self._streams, self._loop, self._limits = hub, streams, streams.loop, hub.limits
        self._framer = Framer(hub.limits.connect_bytes)
        self._out: list[bytes] = []
        self._out_bytes = 0
        self._is_new = True
        #: The socket accepts no more bytes; packets wait for the authenticator; it is closing.
        self._paused = self._waiting = self._closing = False
        #: 0 until the client is authenticated, s.
        self._keepalive = 0.0
        #: When it connected, last sent bytes, began a packet, stopped reading, began to close;
        #: monotonic s.
        self._since = self._heard = self._partial_since = self._stuck_since = self._closing_since = self._loop.time()

    @abc.abstractmethod
    def packet_received(self, first: int, body: bytes) -> None:
        """Handle a whole packet. Raises `Malformed`."""

    @abc.abstractmethod
    def on_writable(self) -> None:
        """Called when more can be sent."""

    @abc.abstractmethod
    def lost(self) -> None:
        """Called when the connection is gone."""

    @property
    @abc.abstractmethod
    def name(self) -> str:
        """The client's name in the log."""

    # -- asyncio's side ---------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)  # noqa: S101  # asyncio's promise, for mypy
        self._transport = transport
        peer = transport.get_extra_info("peername")
        self._address = network_of(peer[0]) if peer else "?"
        self._peer = f"{peer[0]}:{peer[1]}" if peer else "?"
        if len(self._streams.all) >= self._limits.connections:
            self._hub.count_refusal("connections", f"peer={self._peer} limit={self._limits.connections}")
            transport.abort()
            return
        self._streams.all.add(self)
        evicted = self._streams.newcomers.add(self, self._address)
        if evicted is not None:
            evicted.evict()
        sock = transport.get_extra_info("socket")
        if sock is not None and sock.family in {socket.AF_INET, socket.AF_INET6}:
            # Otherwise one message in a thousand takes 30 ms (Nagle's algorithm, delayed acks).
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._streams.buffer

    def buffer_updated(self, nbytes: int) -> None:
        self._heard = self._loop.time()
        if self._closing:
            return
        data = bytes(self._streams.buffer[:nbytes])
        if self._is_new:
            # If this is not MQTT, its second byte is not a length.
            self._is_new = False
            if data[0] != _CONNECT:
                self.disconnect("malformed", f"first byte is 0x{data[0]:02x}, not CONNECT")
                return
        self._framer.push(data)
        if not self._waiting:
            self._read()
        elif self._framer.buffered > self._limits.connect_bytes:
            self._transport.pause_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        self._streams.all.discard(self)
        self._streams.newcomers.remove(self, self._address)
        self._closing = True
        self.lost()
        # This object may be part of a cycle. Until a garbage collection, 1,000 clients that sent
        # 250 KB each would fill the memory.
        self._framer, self._out = Framer(0), []

    def pause_writing(self) -> None:
        self._paused = True
        self._stuck_since = self._loop.time()

    def resume_writing(self) -> None:
        self._paused = False
        if not self._waiting:
            self._transport.resume_reading()
        self.flush()

    def _read(self) -> None:
        framer = self._framer
        was_partial = framer.is_partial
        until, behind = time.perf_counter() + TURN, False
        try:
            while not self._closing and not self._waiting and (packet := framer.pull()) is not None:
                self.packet_received(*packet)
                was_partial = False
                if time.perf_counter() > until and framer.buffered and not self._waiting:
                    behind = True
                    self.pause_packets()
                    self._streams.next_turn(self.resume_packets)
        except Malformed as exc:
            self.disconnect("malformed", str(exc))
        if framer.is_partial and not was_partial:
            self._partial_since = self._heard
        if behind or (self._paused and self._out_bytes > self._limits.unsent_bytes):
            # The client sends requests faster than its turns allow, or does not read the answers.
            self._transport.pause_reading()
        elif not self._closing:
            self._transport.resume_reading()

    # -- the connection's side --------------------------------------------------------------------

    @property
    def is_writable(self) -> bool:
        return not self._paused and self._out_bytes < self._limits.unsent_bytes

    def send(self, packet: bytes) -> None:
        if not self._out:
            self._streams.write_later(self)
        self._out.append(packet)
        self._out_bytes += len(packet)

    def pause_packets(self) -> None:
        """Handle no packet until `resume_packets`.

        Keep reading the socket, within bounds: otherwise we would not notice that it closed.
        """
        self._waiting = True

    def resume_packets(self) -> None:
        """Handle the packets that arrived meanwhile."""
        self._waiting = False
        if not self._closing:
            self._read()

    def close(self, reason: str) -> None:
        """Stop reading, send pending bytes, and close."""
        if self._closing:
            return
        self._closing = True
        self._closing_since = self._loop.time()
        log.info("closing client=%s peer=%s reason=%s", self.name, self._peer, reason)
        self._write()
        self._transport.close()

    def disconnect(self, reason: str, details: str) -> None:
        """Close because of what the client did or did not do; count and log the reason."""
        self._hub.count_refusal(reason, f"client={self.name} peer={self._peer} {details}")
        self.close(reason)

    def evict(self) -> None:
        """Make room for another newcomer."""
        self._hub.count_refusal("newcomers", f"peer={self._peer} after {self._loop.time() - self._since:.1f} s without a CONNECT")
        self.abort()

    def welcome(self, keepalive: float) -> None:
        """The client is authenticated: other limits and time-outs begin."""
        self._keepalive = keepalive
        self._framer.limit = self._limits.packet_bytes
        self._streams.newcomers.remove(self, self._address)

    def abort(self) -> None:
        """Close at once."""
        self._closing = True
        self._transport.abort()

    def tick(self, now: float) -> None:
        """Called every second at least: close a silent, slow or stuck connection."""
        limits = self._limits
        if self._closing:
            if now - self._closing_since > limits.close_timeout:
                self._transport.abort()
        elif not self._keepalive:
            if now - self._since > limits.connect_timeout:
                self.disconnect("timeout", f"no CONNECT within {limits.connect_timeout:g} s")
        elif now - self._heard > self._keepalive * 1.5:
            self.disconnect("keepalive", f"silent for {now - self._heard:.1f} s, keep-alive is {self._keepalive:g} s")
        elif self._framer.is_partial and now - self._partial_since > limits.packet_timeout:
            self.disconnect("timeout", f"packet is not complete after {limits.packet_timeout:g} s")
        elif self._paused and now - self._stuck_since > limits.write_timeout:
            self.disconnect("stuck", f"has read nothing for {limits.write_timeout:g} s")

    def flush(self) -> None:
        """Write pending bytes, and ask for more if there is room."""
        self._write()
        if not self._paused:
            self.on_writable()

    def _write(self) -> None:
        if self._out and not self._transport.is_closing() and not self._paused:
            out, self._out, self._out_bytes = self._out, [], 0
            self._transport.write(out[0] if len(out) == 1 else b"".join(out))
