"""One simulated device on the network, as `agent` is for a real one.

    Network, shared by the fleet ──────────┐
    Session ── connected, received, ended ─┴▶ Member ── one timer ─▶ Session.publish
                                              (somebody passes, a batch is due)

`fleet` and the uploader make the decisions.
"""

import asyncio
import math
import ssl
from array import array
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Final

from facewire.errors import BrokerError, CredentialsRefused, DecodeError
from facewire.messages import Status, decode_ack, encode
from facewire.topics import QOS, Kind, Topics
from facewire_device.agent import RESENDS_PER_SESSION
from facewire_device.uploader import Adopt, Fork, Ignore, Retry
from facewire_fleet.fleet import Device
from facewire_fleet.mqtt import Session, hello
from facewire_mqtt.address import Address
from facewire_mqtt.backoff import Backoff
from facewire_mqtt.session import CONNECT_TIMEOUT
from facewire_system.clock import now_ms
from facewire_system.failures import reason_of

KEEPALIVE: Final = 30

_VERSION: Final = version("facewire")


@dataclass(slots=True)
class Tally:
    """Counts of a fleet's work so far."""

    matches: int = 0
    matches_missed: int = 0
    batches: int = 0
    resends: int = 0
    sessions: int = 0
    #: Acks that refuse a whole batch.
    refused: int = 0
    #: Events that the platform quarantined, as its acks say.
    rejected: int = 0
    forks: int = 0
    #: Time from a batch to its ack, s, in the order of the acks. A resent batch counts from its
    #: first sending.
    latencies: "array[float]" = field(default_factory=lambda: array("d"))
    #: Why the last session ended or failed, or the last ack was bad.
    last_error: str = ""


@dataclass(slots=True)
class Network:
    """The network as all devices of a fleet share it."""

    loop: asyncio.AbstractEventLoop
    address: Address
    #: The address after the look-up.
    endpoint: tuple[str, int]
    tls: ssl.SSLContext | None
    topics: Topics
    #: Limits how many connects run at one time.
    gate: asyncio.Semaphore
    #: Random numbers in [0, 1) for waits. The network's timing is never the same twice, so these
    #: are separate from the devices' own.
    jitter: Callable[[], float]
    tally: Tally = field(default_factory=Tally)
    #: While true, no device connects.
    outage: bool = False
    #: Set when the broker refuses a device.
    refused: BrokerError | None = None


class Member:
    """One device on the network."""

    __slots__ = (
        "_backoff",
        "_closed",
        "_confirmed",
        "_network",
        "_reconnect_timer",
        "_sent_at",
        "_status_due",
        "_task",
        "_timer",
        "_topic",
        "_up_at",
        "device",
        "session",
    )

    def __init__(self, network: Network, device: Device) -> None:
        self.device = device
        self._network = network
        kinds: tuple[Kind, ...] = ("match", "history", "status")
        self._topic = {kind: network.topics.of(device.name, kind).encode() for kind in kinds}
        self.session = self._new_session()
        self._timer: asyncio.TimerHandle | None = None
        self._reconnect_timer: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[None] | None = None
        self._backoff = Backoff()
        self._up_at: float | None = None
        #: When the batch in flight was first sent in this session, monotonic seconds.
        self._sent_at: float | None = None
        self._status_due = 0.0
        self._confirmed = False
        self._closed = False

    @property
    def fully_acked(self) -> bool:
        """Whether an ack in this run confirms that the platform has everything."""
        return self._confirmed and self.device.memory.ring.lag == 0

    def begin(self, moment: float) -> None:
        """Connect at this moment. Record events whether that works or not."""
        self._reconnect_timer = self._network.loop.call_at(moment, self._connect)
        self._set_timer()

    def close(self) -> None:
        """Say goodbye to the broker, and do not reconnect."""
        self._closed = True
        for pending in (self._timer, self._reconnect_timer, self._task):
            if pending is not None:
                pending.cancel()
        if self.session.up:
            self._publish("status", encode(Status(self.device.boot, online=False, at=now_ms())), retain=True)
        self.session.close()

    def connected(self) -> None:
        """The session is up."""
        self._network.tally.sessions += 1
        self._up_at = self._network.loop.time()
        self.device.uploader.connected(self._network.loop.time())
        self._publish_status()
        self._set_timer()

    def received(self, topic: str, payload: bytes) -> None:
        """A message arrived, which can only be an ack."""
        network, now = self._network, self._network.loop.time()
        try:
            ack = decode_ack(payload)
        except DecodeError as exc:
            network.tally.last_error = f"{topic}: {exc}"
            return
        match self.device.acked(now, ack):
            case Ignore():
                return
            case Retry(error):
                network.tally.refused += 1
                network.tally.last_error = error
                return
            case Fork():
                network.tally.forks += 1
                self._status_due = now
                self._confirmed = False
            case Adopt():
                self._confirmed = self._confirmed or self.device.memory.ring.lag == 0
        self.device.clock.acked(_ms(now), ack)
        network.tally.rejected += len(ack.rejected)
        if self._sent_at is not None:
            network.tally.latencies.append(now - self._sent_at)
        self._sent_at = None
        if now >= self._status_due:
            self._publish_status()
        self._set_timer()

    def refused(self, reason: str, *, credentials: bool) -> None:
        """The broker refused the session."""
        self._network.refused = (CredentialsRefused if credentials else BrokerError)(f"{self._network.address}: {reason}")

    def ended(self, reason: str) -> None:
        """The session is over."""
        self.device.uploader.disconnected()
        self._sent_at = None
        if not self._closed:
            self._reconnect_later(reason)

    def _reconnect_later(self, reason: str) -> None:
        network = self._network
        if self._reconnect_timer is not None:  # one session may both time out and end
            return
        if not network.outage:
            network.tally.last_error = reason
        now, up_at, self._up_at = network.loop.time(), self._up_at, None
        self._backoff.ended(now, None if up_at is None else now - up_at, by_us=False)
        self._reconnect_timer = network.loop.call_later(self._backoff.wait * (0.5 + network.jitter() / 2), self._connect)
        self._set_timer()

    def _new_session(self) -> Session:
        network, device = self._network, self.device
        will = network.topics.of(device.name, "status"), encode(Status(device.boot, online=False, at=now_ms()))
        return Session(hello(network.address, device.name, KEEPALIVE, will=will, subscription=network.topics.of(device.name, "ack")), self)

    def _connect(self) -> None:
        self._reconnect_timer = None
        if self._network.outage:
            self._reconnect_later("outage")
        else:
            self._task = self._network.loop.create_task(self._open())

    async def _open(self) -> None:
        network = self._network
        session = self.session = self._new_session()
        server = network.address.host if network.tls else None
        try:
            async with network.gate, asyncio.timeout(CONNECT_TIMEOUT):
                await network.loop.create_connection(lambda: session, *network.endpoint, ssl=network.tls, server_hostname=server)
        except OSError as exc:
            self._reconnect_later(reason_of(exc))
        else:
            if network.outage:
                session.abort()
            network.loop.call_later(CONNECT_TIMEOUT, _abort_unless_up, session)

    def _set_timer(self) -> None:
        """Set the one timer to the next event or the next batch, whichever is first."""
        wakes_at = self.device.uploader.wakes_at
        moment = self.device.next_at if wakes_at is None else min(self.device.next_at, wakes_at)
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None if moment == math.inf else self._network.loop.call_at(moment, self._turn)

    def _turn(self) -> None:
        now = self._network.loop.time()
        while self.device.next_at <= now:
            self._publish_match(self.device.record(now_ms(), _ms(self._network.loop.time())))
        if self.device.uploader.poll(now):
            self._publish_batch(now)
        self._set_timer()

    def _publish_match(self, payload: bytes | None) -> None:
        if payload is None:
            return
        if self._publish("match", payload):
            self._network.tally.matches += 1
        else:
            self._network.tally.matches_missed += 1

    def _publish_batch(self, now: float) -> None:
        batch, tally = self.device.batch(), self._network.tally
        if not self._publish("history", batch.payload):
            self.device.uploader.disconnected()
            self.session.abort()
            return
        resends = self.device.uploader.sent(now, batch.epoch, batch.key)
        if not resends:
            self.device.clock.batch_sent(_ms(now))
        tally.batches += 1
        tally.resends += bool(resends)
        self._sent_at = now if self._sent_at is None else self._sent_at
        if resends and resends % RESENDS_PER_SESSION == 0:
            self.session.abort()

    def _publish_status(self) -> None:
        self._status_due = self._network.loop.time() + self.device.uploader.period
        self._publish("status", encode(self.device.status(now_ms(), _ms(self._network.loop.time()), _VERSION)), retain=True)

    def _publish(self, kind: Kind, payload: bytes, *, retain: bool = False) -> bool:
        return self.session.publish(self._topic[kind], payload, QOS[kind], retain=retain)


def _ms(elapsed: float) -> int:
    return round(elapsed * 1000)


def _abort_unless_up(session: Session) -> None:
    """The broker accepted the socket but may never answer."""
    if not session.up:
        session.abort()
