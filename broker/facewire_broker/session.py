"""What the broker keeps for one client, and in which order it goes out. Pure: bytes go to a `Link`.

    offer() ─▶ queue (bounded) ─▶ in flight (a window, QoS 1) ─▶ pubacked()
                  ▲                     │
                  └──── attach() ◀──────┘   a new connection: again, in order, with DUP and the same packet id

amqtt's Session is not used: its state machine costs 270 µs and 27 KB for each.
"""

from collections import deque
from typing import Protocol, TypeAlias

from facewire_broker.limits import BrokerLimits
from facewire_broker.publish import Message
from facewire_broker.routing import Group

Shared: TypeAlias = "Group[Session] | None"


class Link(Protocol):
    """A connection as a session sees it."""

    @property
    def is_writable(self) -> bool:
        """Whether it takes more at the moment; the session is pumped when it does again."""

    def send(self, packet: bytes) -> None:
        """Send a packet after those before it. Never fails, never calls back."""


class SessionContext(Protocol):
    """Whose session it is."""

    limits: BrokerLimits

    def retained_message(self, topic: str) -> Message | None:
        """What a topic retains at the moment."""

    def dropped(self, session: "Session") -> None:
        """A message did not fit."""


class Delivery:
    """One message for one client."""

    __slots__ = ("message", "packet_id", "qos", "retain", "share")

    def __init__(self, message: Message, qos: int, *, retain: bool = False, share: Shared = None) -> None:
        self.message = message
        self.qos = qos
        self.retain = retain
        #: The shared subscription that it came by.
        self.share = share
        #: Given when it is first sent.
        self.packet_id = 0


class Session:
    """A client's subscriptions, and the messages that it has not yet got.

    Attributes:
        owner: the user whose session it is, None without credentials.
        scope: with whom its shared subscriptions share.
        subscriptions: filters as the client wrote them, with the QoS granted.
        link: its connection, None while the client is away.
        disconnected_at: when the client went away, monotonic s.
    """

    def __init__(self, client_id: str, owner: str | None, scope: str, context: SessionContext) -> None:
        self.client_id = client_id
        self.owner = owner
        self.scope = scope
        self.clean = True
        self.subscriptions: dict[str, int] = {}
        self.link: Link | None = None
        self.disconnected_at = 0.0
        #: Retained messages that the client has not yet got: topic and QoS. A list of 10,000 fits no queue.
        self.pending_retained: dict[str, int] = {}
        self._context = context
        self._limits = context.limits
        self._queue: deque[Delivery] = deque()
        self._inflight: dict[int, Delivery] = {}
        self._undelivered_bytes = 0
        self._last_id = 0

    @property
    def is_idle(self) -> bool:
        """Whether nothing waits to be sent."""
        return not self._queue and not self.pending_retained

    @property
    def undelivered(self) -> int:
        """Messages kept for the client."""
        return len(self._queue) + len(self._inflight)

    def offer(self, message: Message, qos: int, *, share: Shared = None) -> None:
        """Send a message now if it can be, keep it if it may be, else drop and count it."""
        link = self.link
        if link is None:
            if qos and not self.clean:
                self._enqueue(Delivery(message, qos, share=share))
        elif self._queue or not link.is_writable or (qos and not self._has_room(len(message.payload))):
            self._enqueue(Delivery(message, qos, share=share))
        elif qos:
            self._undelivered_bytes += len(message.payload)
            self._send(link, Delivery(message, qos, share=share))
        else:
            link.send(message.packet(0, 0))

    def pubacked(self, packet_id: int) -> None:
        """The client has it (PUBACK)."""
        delivery = self._inflight.pop(packet_id, None)
        if delivery is not None:
            self._undelivered_bytes -= len(delivery.message.payload)
            if not self.is_idle:
                self.pump()

    def attach(self, link: Link) -> None:
        """The client is back, or here: what was in flight goes first, again (MQTT-4.4.0-1)."""
        self.link = link
        self._queue.extendleft(reversed(self._inflight.values()))
        self._inflight.clear()
        self.pump()

    def pump(self) -> None:
        """Send what can be sent."""
        link, queue = self.link, self._queue
        if link is None:
            return
        while queue and link.is_writable and (not queue[0].qos or len(self._inflight) < self._limits.inflight):
            delivery = queue.popleft()
            if not delivery.qos:
                self._undelivered_bytes -= len(delivery.message.payload)
            self._send(link, delivery)
        while self.pending_retained and not queue and link.is_writable and self._has_room(0):
            topic, qos = self.pending_retained.popitem()
            message = self._context.retained_message(topic)
            if message is not None:
                self._undelivered_bytes += len(message.payload) if min(qos, message.qos) else 0
                self._send(link, Delivery(message, min(qos, message.qos), retain=True))

    def remove_shared(self) -> list[Delivery]:
        """Take back what came by shared subscriptions and was not PUBACKed: another member is to have it."""
        taken = [d for d in (*self._inflight.values(), *self._queue) if d.share]
        if taken:
            self._inflight = {packet_id: d for packet_id, d in self._inflight.items() if not d.share}
            self._queue = deque(d for d in self._queue if not d.share)
            self._undelivered_bytes -= sum(len(d.message.payload) for d in taken)
        return taken

    def detach(self, now: float) -> None:
        """The client went away: matches that are late are worth nothing, so QoS 0 does not wait for it."""
        self.link = None
        self.disconnected_at = now
        self.pending_retained.clear()
        self._undelivered_bytes -= sum(len(d.message.payload) for d in self._queue if not d.qos)
        self._queue = deque(d for d in self._queue if d.qos)

    def _has_room(self, size: int) -> bool:
        return len(self._inflight) < self._limits.inflight and self._undelivered_bytes + size <= self._limits.queued_bytes

    def _enqueue(self, delivery: Delivery) -> None:
        size = len(delivery.message.payload)
        if len(self._queue) >= self._limits.queued or self._undelivered_bytes + size > self._limits.queued_bytes:
            self._context.dropped(self)
        else:
            self._undelivered_bytes += size
            self._queue.append(delivery)

    def _send(self, link: Link, delivery: Delivery) -> None:
        if not delivery.qos:
            link.send(delivery.message.packet(0, 0, retain=delivery.retain))
            return
        again = delivery.packet_id != 0
        if not again:
            delivery.packet_id = self._next_id()
        self._inflight[delivery.packet_id] = delivery
        link.send(delivery.message.packet(1, delivery.packet_id, retain=delivery.retain, dup=again))

    def _next_id(self) -> int:
        while True:
            self._last_id = self._last_id % 65535 + 1
            if self._last_id not in self._inflight:
                return self._last_id
