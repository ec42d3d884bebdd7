"""The messages that the broker keeps for one client, and their order. Pure: bytes go to a `Link`.

    offer() ─▶ queue (bounded) ─▶ in flight (a window, QoS 1) ─▶ pubacked()
                  ▲                     │
                  └──── attach() ◀──────┘   a new connection: they go again, in order, with DUP
                                            and the same packet id

We do not use amqtt's Session: its state machine costs 270 µs and 27 KB for each session.
"""

import sys
from collections import deque
from typing import Final, Protocol, TypeAlias

from facewire_broker.budget import Budget
from facewire_broker.limits import BrokerLimits
from facewire_broker.publish import Message
from facewire_broker.routing import Group, contains, is_wild

#: Comparisons of a retained topic with a filter in one turn, 1 µs each. To send a message takes as
#: long as ten.
RETAINED_STEPS: Final = 300

Shared: TypeAlias = "Group[Session] | None"


class Link(Protocol):
    """A connection, as its session needs it."""

    @property
    def is_writable(self) -> bool:
        """Whether it accepts more at the moment. When it does again, it calls `Session.pump`."""

    def send(self, packet: bytes) -> None:
        """Send a packet after the earlier ones. Never fails, never calls back."""

    def pump_later(self) -> None:
        """Call `Session.pump` soon, after other clients have had their turn."""


class SessionContext(Protocol):
    """The broker, as a session needs it."""

    limits: BrokerLimits

    def retained_message(self, topic: str) -> Message | None:
        """The current retained message of a topic."""

    def retained_after(self, topic: str) -> Message | None:
        """The retained message of the next topic in alphabetical order; None after the last."""

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


class _RetainedWalk:
    """Goes through the retained messages for new subscriptions, in steps.

    There may be 50,000 retained messages, more than a queue holds, and a filter may match them all.
    So it remembers no messages, only the last topic that it has looked at.
    """

    __slots__ = ("_after", "_exact", "_next", "_wild")

    def __init__(self) -> None:
        self._exact: dict[str, int] = {}
        #: Filters with their QoS: those of this round, and those that were added during it.
        self._wild: dict[str, int] = {}
        self._next: dict[str, int] = {}
        self._after = ""

    @property
    def is_done(self) -> bool:
        return not (self._exact or self._wild or self._next)

    @property
    def cost(self) -> int:
        """Filters that the next step compares."""
        return len(self._wild) or 1

    def add(self, topic_filter: str, qos: int) -> None:
        filters = self._next if is_wild(topic_filter) else self._exact
        filters[topic_filter] = qos

    def discard(self, topic_filter: str) -> None:
        for filters in (self._exact, self._wild, self._next):
            filters.pop(topic_filter, None)

    def next(self, context: SessionContext) -> tuple[Message | None, int]:
        """Take one step: a message to send and the QoS granted, or None."""
        if self._exact:
            topic, qos = next(iter(self._exact.items()))
            del self._exact[topic]
            return context.retained_message(topic), qos
        if not self._wild:
            self._wild, self._next, self._after = self._next, {}, ""
        message = context.retained_after(self._after)
        if message is None:
            self._wild = {}
            return None, 0
        self._after = message.topic
        granted = [qos for topic_filter, qos in self._wild.items() if contains(topic_filter, message.topic)]
        return (message, max(granted)) if granted else (None, 0)


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

    def __init__(self, client_id: str, owner: str | None, scope: str, context: SessionContext, budget: Budget | None = None) -> None:
        self.client_id = client_id
        self.owner = owner
        self.scope = scope
        self.clean = True
        self.subscriptions: dict[str, int] = {}
        self.link: Link | None = None
        self.disconnected_at = 0.0
        self._retained_walk = _RetainedWalk()
        self._context = context
        self._limits = context.limits
        self._queue: deque[Delivery] = deque()
        self._inflight: dict[int, Delivery] = {}
        self.undelivered_bytes = 0
        self._budget = budget or Budget(sys.maxsize)
        self._last_id = 0

    @property
    def is_idle(self) -> bool:
        """Whether nothing waits to be sent."""
        return not self._queue and self._retained_walk.is_done

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
            self._count(1, len(message.payload))
            self._send(link, Delivery(message, qos, share=share))
        else:
            link.send(message.packet(0, 0))

    def pubacked(self, packet_id: int) -> None:
        """The client received a message: it sent a PUBACK."""
        delivery = self._inflight.pop(packet_id, None)
        if delivery is not None:
            self._count(-1, -len(delivery.message.payload))
            if not self.is_idle:
                self.pump()

    def send_retained(self, topic_filter: str, qos: int) -> None:
        """Send the retained messages of a filter, when `pump` is called."""
        self._retained_walk.add(topic_filter, qos)

    def forget_retained(self, topic_filter: str) -> None:
        """Send no more of them."""
        self._retained_walk.discard(topic_filter)

    def attach(self, link: Link) -> None:
        """Begin to send to a connection; resend the messages in flight first (MQTT-4.4.0-1)."""
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
                self._count(-1, -len(delivery.message.payload))
            self._send(link, delivery)
        if not self._retained_walk.is_done:
            self._send_retained(link)

    def _send_retained(self, link: Link) -> None:
        """Send retained messages as long as the connection, the window and the turn allow."""
        steps = RETAINED_STEPS
        while not self._retained_walk.is_done and not self._queue and link.is_writable and self._window_has_room(0):
            if steps <= 0:
                link.pump_later()
                return
            steps -= self._retained_walk.cost
            message, qos = self._retained_walk.next(self._context)
            if message is not None:
                steps -= 10
                qos = min(qos, message.qos)
                if qos:
                    self._count(1, len(message.payload))
                self._send(link, Delivery(message, qos, retain=True))

    def remove_shared(self) -> list[Delivery]:
        """Remove and return unacked messages of shared subscriptions, for another member."""
        shared = [d for d in (*self._inflight.values(), *self._queue) if d.share]
        if shared:
            self._inflight = {packet_id: d for packet_id, d in self._inflight.items() if not d.share}
            self._queue = deque(d for d in self._queue if not d.share)
            self._count(-len(shared), -sum(len(d.message.payload) for d in shared))
        return shared

    def detach(self, now: float) -> None:
        """The connection ended. Drop queued QoS 0 messages: a late match is worth nothing."""
        self.link = None
        self.disconnected_at = now
        self._retained_walk = _RetainedWalk()
        late = [d for d in self._queue if not d.qos]
        self._count(-len(late), -sum(len(d.message.payload) for d in late))
        self._queue = deque(d for d in self._queue if d.qos)

    def release(self) -> None:
        """The session is forgotten: its user may hold as much in another."""
        self._budget.add(-len(self._inflight) - len(self._queue), -self.undelivered_bytes)
        self._budget = Budget(sys.maxsize)

    def _count(self, messages: int, size: int) -> None:
        self.undelivered_bytes += size
        self._budget.add(messages, size)

    def _has_room(self, size: int) -> bool:
        return self._window_has_room(size) and self._budget.has_room(size)

    def _window_has_room(self, size: int) -> bool:
        return len(self._inflight) < self._limits.inflight and self.undelivered_bytes + size <= self._limits.queued_bytes

    def _enqueue(self, delivery: Delivery) -> None:
        size = len(delivery.message.payload)
        limits = self._limits
        if len(self._queue) >= limits.queued or self.undelivered_bytes + size > limits.queued_bytes or not self._budget.has_room(size):
            self._context.dropped(self)
        else:
            self._count(1, size)
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
