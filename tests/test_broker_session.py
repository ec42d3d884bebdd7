"""A session delivers everything once, in order, within its limits, whatever its connection does."""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from facewire_broker.budget import OVERHEAD, Budget
from facewire_broker.limits import BrokerLimits
from facewire_broker.packets import split_publish
from facewire_broker.publish import Message
from facewire_broker.session import RETAINED_STEPS, Session

LIMITS = BrokerLimits(inflight=3, queued=8, queued_bytes=200)


class Wire:
    """A connection; the client chooses when to read from it."""

    def __init__(self) -> None:
        self.is_writable = True
        self.sent: list[tuple[int, bool, int, bytes]] = []
        self.pumps = 0

    def pump_later(self) -> None:
        self.pumps += 1

    def send(self, packet: bytes) -> None:
        _, packet_id, payload = split_publish(packet[0] & ~8, packet[2:])
        self.sent.append((packet[0] >> 1 & 3, bool(packet[0] & 8), packet_id, payload))


class SessionContext:
    limits = LIMITS

    def __init__(self) -> None:
        self.lost = 0

    def retained_message(self, topic: str) -> Message | None:
        return Message(topic, b"r", 1)

    def retained_after(self, topic: str) -> Message | None:
        return next((Message(f"t{n}", b"r", 1) for n in range(10) if f"t{n}" > topic), None)

    def dropped(self, session: Session) -> None:
        self.lost += 1


class Client(RuleBasedStateMachine):
    """The broker offers; the client reads, acks, disconnects and reconnects."""

    def __init__(self) -> None:
        super().__init__()
        self.context = SessionContext()
        self.whole = Budget(10_000)
        self.budget = Budget(1_500, self.whole)
        self.session = Session("c", None, "", self.context, self.budget)
        self.session.clean = False
        self.wire: Wire | None = None
        self.read: list[int] = []  # QoS 1, in the order of first delivery
        self.unacked: dict[int, int] = {}
        self.offered: list[int] = []
        self.dropped: set[int] = set()
        self.count = 0

    @precondition(lambda self: self.wire is None)
    @rule()
    def connect(self) -> None:
        self.wire = Wire()
        self.session.attach(self.wire)
        again = [int(payload) for _, dup, _, payload in self.wire.sent if dup]
        assert again == sorted(self.unacked.values()), "all that was in flight, in order"
        self.read_all()

    @precondition(lambda self: self.wire is not None)
    @rule()
    def disconnect(self) -> None:
        self.wire = None
        self.session.detach(0.0)

    @rule(qos=st.integers(0, 1), size=st.integers(2, 60))
    def offer(self, qos: int, size: int) -> None:
        self.count += 1
        before = self.context.lost
        self.session.offer(Message("t", b"%d" % self.count + b" " * size, 1), qos)
        if qos:
            self.offered.append(self.count)
            if self.context.lost > before:
                self.dropped.add(self.count)
        self.read_all()

    @precondition(lambda self: self.unacked)
    @rule(data=st.data())
    def ack(self, data: st.DataObject) -> None:
        if self.wire is None:
            return
        packet_id = data.draw(st.sampled_from(sorted(self.unacked)))
        del self.unacked[packet_id]
        self.session.pubacked(packet_id)
        self.read_all()

    @rule(packet_id=st.integers(1, 65535))
    def ack_of_nothing(self, packet_id: int) -> None:
        if packet_id not in self.unacked:
            self.session.pubacked(packet_id)
            self.read_all()

    @precondition(lambda self: self.wire is not None)
    @rule(writable=st.booleans())
    def set_writable(self, writable: bool) -> None:
        assert self.wire
        self.wire.is_writable = writable
        if writable:
            self.session.pump()
            self.read_all()

    def read_all(self) -> None:
        """Read what was sent."""
        while self.wire and self.wire.sent:
            qos, dup, packet_id, payload = self.wire.sent.pop(0)
            number = int(payload)
            if not qos:
                continue
            assert dup == (packet_id in self.unacked), "DUP marks a repeated message"
            if dup:
                assert self.unacked[packet_id] == number, "a repeated message keeps its packet id"
            else:
                self.read.append(number)
            self.unacked[packet_id] = number

    @invariant()
    def in_order_and_once(self) -> None:
        expected = [number for number in self.offered if number not in self.dropped]
        assert self.read == expected[: len(self.read)]

    @invariant()
    def bounded(self) -> None:
        undelivered = self.session.undelivered
        assert len(self.unacked) <= LIMITS.inflight
        assert len(undelivered) <= LIMITS.queued + LIMITS.inflight
        assert self.session.undelivered_bytes == sum(len(delivery.message.payload) for delivery in undelivered)
        assert self.session.undelivered_bytes <= LIMITS.queued_bytes
        assert self.budget.used == self.whole.used == self.session.undelivered_bytes + len(undelivered) * OVERHEAD <= 1_500

    def teardown(self) -> None:
        if self.wire is None:
            self.connect()
        self.set_writable(writable=True)
        while self.unacked:
            packet_id = next(iter(self.unacked))
            del self.unacked[packet_id]
            self.session.pubacked(packet_id)
            self.read_all()
        assert self.read == [number for number in self.offered if number not in self.dropped]
        assert (self.session.undelivered, self.session.undelivered_bytes) == ([], 0)
        assert (self.budget.used, self.whole.used) == (0, 0)


TestClient = Client.TestCase
TestClient.settings = settings(max_examples=200, stateful_step_count=40)


def test_retained_messages_wait_for_room_and_arrive_in_order() -> None:
    session, wire = Session("c", None, "", SessionContext()), Wire()
    session.send_retained("+", 1)
    session.attach(wire)
    for _ in range(10):
        session.pubacked(wire.sent[-1][2])
    assert len(wire.sent) == 10
    assert session.is_idle


def test_retained_messages_are_looked_through_in_turns() -> None:
    """Fifty filters make each topic fifty comparisons: six topics in a turn."""
    session, wire = Session("c", None, "", SessionContext()), Wire()
    for n in range(50):
        session.send_retained(f"+/{n}" if n else "t9/#", 0)
    session.attach(wire)
    turns = 1
    while not session.is_idle:
        assert wire.pumps == turns
        session.pump()
        turns += 1
    assert turns == 1 + 10 * 50 // RETAINED_STEPS
    assert [qos for qos, *_ in wire.sent] == [0], "only t9 matches"


def test_a_filter_that_is_unsubscribed_is_looked_for_no_more() -> None:
    session, wire = Session("c", None, "", SessionContext()), Wire()
    for name in ("+", "t1"):
        session.send_retained(name, 0)
        session.forget_retained(name)
    session.attach(wire)
    assert (wire.sent, session.is_idle) == ([], True)
