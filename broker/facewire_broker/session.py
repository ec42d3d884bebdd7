"""The messages that the broker keeps for one client, and their order. Pure: bytes go to a `Link`.

    offer() ─▶ queue (bounded) ─▶ in flight (a window, QoS 1) ─▶ pubacked()
                  ▲                     │
                  └──── attach() ◀──────┘   a new connection: they go again, in order, with DUP
                                            and the same packet id

We do not use amqtt's Session: its state machine costs 270 µs and 27 KB for each session.
"""

from collections import deque
from typing import Protocol, TypeAlias

from facewire_broker.limits import BrokerLimits
from facewire_broker.publish import Message
from facewire_broker.routing import Group

Shared: TypeAlias = "Group[Session] | None"


class Link(Protocol):
    """What a session needs of its connection."""

    @property
    def is_writable(self) -> bool:
        """Whether it accepts more at the moment. When it does again, it calls `Session.pump`."""

    def send(self, packet: bytes) -> None:
        """Send a packet after the earlier ones. Never fails, never calls back."""


class SessionContext(Protocol):
    """What a session needs of the broker."""

    limits: BrokerLimits

    def retained_message(self, topic: str) -> Message | None:
        """The current retained message of a topic."""

    def dropped(self, session: "Session") -> None:
        """Called when the session drops a message that exceeds a limit."""


class Delivery:
    """One message for one client."""

    __slots__ = ("message", "packet_id", "qos", "retain", "share")

    def __init__(self, message: Message, qos: int, *, retain: bool = False, share: Shared = None) -> None:
        self.message = message
        self.qos = qos
        self.retain = retain
        #: The shared subscription that matched it.
        self.share = share
        #: Assigned when it is first sent; 0 until then.
        self.packet_id = 0


class Session:
    """A client's subscriptions, and the messages that it has not received yet.

    Attributes:
        owner: the user that it belongs to; None for an anonymous client.
        scope: sessions of one scope share their shared subscriptions.
        subscriptions: filters as the client wrote them, with the QoS granted.
        link: the client's connection; None while it is away.
        disconnected_at: when the client's last connection ended, monotonic s.
        undelivered_bytes: payloads of its undelivered messages.
    """

    def __init__(self, client_id: str, owner: str | None, scope: str, context: SessionContext) -> None:
        self.client_id = client_id
        self.owner = owner
        self.scope = scope
        self.clean = True
        self.subscriptions: dict[str, int] = {}
        self.link: Link | None = None
        self.disconnected_at = 0.0
        #: Topics whose retained message the client has yet to receive, and the QoS. They may be
        #: 10,000, more than a queue holds.
        self.pending_retained: dict[str, int] = {}
        self._context = context
        self._limits = context.limits
        self._queue: deque[Delivery] = deque()
        self._inflight: dict[int, Delivery] = {}
        self.undelivered_bytes = 0
        self._last_id = 0

    @property
    def is_idle(self) -> bool:
        """Whether nothing waits to be sent."""
        return not self._queue and not self.pending_retained

    @property
    def undelivered(self) -> list[Delivery]:
        """The messages in flight, then those in the queue."""
        return [*self._inflight.values(), *self._queue]

    def offer(self, message: Message, qos: int, *, share: Shared = None) -> None:
        """Send a message now, or queue it, or drop and count it."""
        link = self.link
        if link is None:
            if qos and not self.clean:
                self._enqueue(Delivery(message, qos, share=share))
        elif self._queue or not link.is_writable or (qos and not self._has_room(len(message.payload))):
            self._enqueue(Delivery(message, qos, share=share))
        elif qos:
            self.undelivered_bytes += len(message.payload)
            self._send(link, Delivery(message, qos, share=share))
        else:
            link.send(message.packet(0, 0))

    def pubacked(self, packet_id: int) -> None:
        """The client received a message: it sent a PUBACK."""
        delivery = self._inflight.pop(packet_id, None)
        if delivery is not None:
            self.undelivered_bytes -= len(delivery.message.payload)
            if not self.is_idle:
                self.pump()

    def attach(self, link: Link) -> None:
        """Begin to send to a connection: first, again, what was in flight (MQTT-4.4.0-1)."""
        self.link = link
        self._queue.extendleft(reversed(self._inflight.values()))
        self._inflight.clear()
        self.pump()

    def pump(self) -> None:
        """Send queued messages as long as the connection and the window allow."""
        link, queue = self.link, self._queue
        if link is None:
            return
        while queue and link.is_writable and (not queue[0].qos or len(self._inflight) < self._limits.inflight):
            delivery = queue.popleft()
            if not delivery.qos:
                self.undelivered_bytes -= len(delivery.message.payload)
            self._send(link, delivery)
        while self.pending_retained and not queue and link.is_writable and self._has_room(0):
            topic, qos = self.pending_retained.popitem()
            message = self._context.retained_message(topic)
            if message is not None:
                self.undelivered_bytes += len(message.payload) if min(qos, message.qos) else 0
                self._send(link, Delivery(message, min(qos, message.qos), retain=True))

    def remove_shared(self) -> list[Delivery]:
        """Remove and return unacked messages of shared subscriptions, for another member."""
        shared = [d for d in (*self._inflight.values(), *self._queue) if d.share]
        if shared:
            self._inflight = {packet_id: d for packet_id, d in self._inflight.items() if not d.share}
            self._queue = deque(d for d in self._queue if not d.share)
            self.undelivered_bytes -= sum(len(d.message.payload) for d in shared)
        return shared

    def detach(self, now: float) -> None:
        """The connection ended. Drop queued QoS 0 messages: a late match is worth nothing."""
        self.link = None
        self.disconnected_at = now
        self.pending_retained.clear()
        self.undelivered_bytes -= sum(len(d.message.payload) for d in self._queue if not d.qos)
        self._queue = deque(d for d in self._queue if d.qos)

    def _has_room(self, size: int) -> bool:
        return len(self._inflight) < self._limits.inflight and self.undelivered_bytes + size <= self._limits.queued_bytes

    def _enqueue(self, delivery: Delivery) -> None:
        size = len(delivery.message.payload)
        if len(self._queue) >= self._limits.queued or self.undelivered_bytes + size > self._limits.queued_bytes:
            self._context.dropped(self)
        else:
            self.undelivered_bytes += size
            self._queue.append(delivery)

    def _send(self, link: Link, delivery: Delivery) -> None:
        if not delivery.qos:
            link.send(delivery.message.packet(0, 0, retain=delivery.retain))
            return
        is_repeat = delivery.packet_id != 0
        if not is_repeat:
            delivery.packet_id = self._next_id()
        self._inflight[delivery.packet_id] = delivery
        link.send(delivery.message.packet(1, delivery.packet_id, retain=delivery.retain, dup=is_repeat))

    def _next_id(self) -> int:
        while True:
            self._last_id = self._last_id % 65535 + 1
            if self._last_id not in self._inflight:
                return self._last_id
