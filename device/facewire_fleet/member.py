"""One simulated device on the network: what `agent` is to a real one.

    Net, which the fleet's devices share ──┐
    Session ── connected, received, ended ─┴▶ Member ── one timer: somebody passes, a batch is due ─▶ Session.publish

What is to be decided, `fleet` and the uploader decide.
"""

import asyncio
import math
import ssl
import time
from array import array
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Final

from facewire.errors import BrokerError, CredentialsRefused, DecodeError
from facewire.messages import Status, decode_ack, encode
from facewire.topics import QOS, Kind, Topics
from facewire_device.agent import RESENDS_A_SESSION
from facewire_device.uploader import Fork, Ignored, Refused
from facewire_fleet.fleet import Device
from facewire_fleet.mqtt import Session, hello
from facewire_mqtt.address import Address
from facewire_mqtt.connection import CONNECT_TIMEOUT, RECONNECT_WAIT

KEEPALIVE: Final = 30

_VERSION: Final = version("facewire")


@dataclass(slots=True)
class Tally:
    """What a fleet has done."""

    matches: int = 0
    matches_missed: int = 0
    batches: int = 0
    resends: int = 0
    sessions: int = 0
    #: Acks that refuse a batch, and events that acks name as quarantined.
    refused: int = 0
    rejected: int = 0
    forks: int = 0
    #: Time from a batch to its ack, s, in the order of the acks; from the first sending where it went again.
    latencies: "array[float]" = field(default_factory=lambda: array("d"))
    #: Why the last session ended, or did not come about.
    trouble: str = ""


@dataclass(slots=True)
class Net:
    """What the devices of a fleet share of the network."""

    loop: asyncio.AbstractEventLoop
    address: Address
    #: The address, looked up.
    place: tuple[str, int]
    tls: ssl.SSLContext | None
    topics: Topics
    #: Lets in as many connects as may go on at one time.
    gate: asyncio.Semaphore
    #: Of the network, whose order of events is never the same: apart from the devices' own.
    jitter: Callable[[], float]
    tally: Tally = field(default_factory=Tally)
    #: There is an outage: no session comes about.
    cut: bool = False
    #: The broker does not want us.
    refused: BrokerError | None = None


class Member:
    """One device on the network."""

    __slots__ = (
        "_closed",
        "_confirmed",
        "_net",
        "_reconnect",
        "_sent_at",
        "_status_due",
        "_task",
        "_timer",
        "_topic",
        "_wait",
        "device",
        "session",
    )

    def __init__(self, net: Net, device: Device) -> None:
        self.device = device
        self._net = net
        kinds: tuple[Kind, ...] = ("match", "history", "status")
        self._topic = {kind: net.topics.of(device.name, kind).encode() for kind in kinds}
        self.session = self._new_session()
        self._timer: asyncio.TimerHandle | None = None
        self._reconnect: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[None] | None = None
        self._wait = RECONNECT_WAIT[0]
        #: When the batch in flight was first sent in this session.
        self._sent_at: float | None = None
        self._status_due = 0.0
        self._confirmed = False
        self._closed = False

    @property
    def settled(self) -> bool:
        """An ack of this run has said that everything is stored."""
        return self._confirmed and self.device.memory.ring.lag == 0

    def begin(self, moment: float) -> None:
        """Connect then, and record what passes whether that works or not."""
        self._reconnect = self._net.loop.call_at(moment, self._connect)
        self._arm()

    def close(self) -> None:
        """Say goodbye, for good."""
        self._closed = True
        for pending in (self._timer, self._reconnect, self._task):
            if pending is not None:
                pending.cancel()
        if self.session.up:
            self._publish("status", encode(Status(self.device.boot, online=False, at=_now_ms())), retain=True)
        self.session.close()

    def connected(self) -> None:
        """Of the session: it is up."""
        self._net.tally.sessions += 1
        self._wait = RECONNECT_WAIT[0]
        self.device.uploader.connected(self._net.loop.time())
        self._publish_status()
        self._arm()

    def received(self, topic: str, payload: bytes) -> None:
        """Of the session: a message, which can only be an ack."""
        net, now = self._net, self._net.loop.time()
        try:
            ack = decode_ack(payload)
        except DecodeError as exc:
            net.tally.trouble = f"{topic}: {exc}"
            return
        match self.device.acked(now, ack):
            case Ignored():
                return
            case Refused(error):
                net.tally.refused += 1
                net.tally.trouble = error
                return
            case Fork():
                net.tally.forks += 1
                self._status_due = now
        net.tally.rejected += len(ack.rejected)
        if self._sent_at is not None:
            net.tally.latencies.append(now - self._sent_at)
        self._sent_at = None
        self._confirmed = self._confirmed or self.device.memory.ring.lag == 0
        if now >= self._status_due:
            self._publish_status()
        self._arm()

    def refused(self, reason: str, *, credentials: bool) -> None:
        """Of the session: the broker does not want us."""
        self._net.refused = (CredentialsRefused if credentials else BrokerError)(f"{self._net.address}: {reason}")

    def ended(self, reason: str) -> None:
        """Of the session: it is over."""
        self.device.uploader.disconnected()
        self._sent_at = None
        if not self._closed:
            self._come_back(reason)

    def _come_back(self, reason: str) -> None:
        net = self._net
        if self._reconnect is not None:  # a connect that timed out and a session that ended may be the same
            return
        if not net.cut:
            net.tally.trouble = reason
        wait, self._wait = self._wait, min(self._wait * 2, RECONNECT_WAIT[1])
        self._reconnect = net.loop.call_later(wait * (0.5 + net.jitter() / 2), self._connect)
        self._arm()

    def _new_session(self) -> Session:
        net, device = self._net, self.device
        will = net.topics.of(device.name, "status"), encode(Status(device.boot, online=False, at=_now_ms()))
        return Session(hello(net.address, device.name, KEEPALIVE, will=will, subscription=net.topics.of(device.name, "ack")), self)

    def _connect(self) -> None:
        self._reconnect = None
        if self._net.cut:
            self._come_back("outage")
        else:
            self._task = self._net.loop.create_task(self._open())

    async def _open(self) -> None:
        net = self._net
        session = self.session = self._new_session()
        server = net.address.host if net.tls else None
        try:
            async with net.gate, asyncio.timeout(CONNECT_TIMEOUT):
                await net.loop.create_connection(lambda: session, *net.place, ssl=net.tls, server_hostname=server)
        except OSError as exc:
            self._come_back(exc.strerror or str(exc) or "no answer")
        else:
            if net.cut:
                session.abort()
            net.loop.call_later(CONNECT_TIMEOUT, _give_up, session)

    def _arm(self) -> None:
        """Set the one timer for whatever comes first: somebody who passes, or a batch."""
        wakes_at = self.device.uploader.wakes_at
        moment = self.device.next_at if wakes_at is None else min(self.device.next_at, wakes_at)
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None if moment == math.inf else self._net.loop.call_at(moment, self._turn)

    def _turn(self) -> None:
        now = self._net.loop.time()
        while self.device.next_at <= now:
            self._publish_match(self.device.record(_now_ms()))
        if self.device.uploader.poll(now):
            self._publish_batch(now)
        self._arm()

    def _publish_match(self, payload: bytes | None) -> None:
        if payload is None:
            return
        if self._publish("match", payload):
            self._net.tally.matches += 1
        else:
            self._net.tally.matches_missed += 1

    def _publish_batch(self, now: float) -> None:
        outgoing, tally = self.device.batch(), self._net.tally
        if not self._publish("history", outgoing.payload):
            self.device.uploader.disconnected()
            self.session.abort()
            return
        resends = self.device.uploader.sent(now, outgoing.epoch, outgoing.key)
        tally.batches += 1
        tally.resends += bool(resends)
        self._sent_at = now if self._sent_at is None else self._sent_at
        if resends and resends % RESENDS_A_SESSION == 0:
            self.session.abort()

    def _publish_status(self) -> None:
        self._status_due = self._net.loop.time() + self.device.uploader.period
        self._publish("status", encode(self.device.status(_now_ms(), _VERSION)), retain=True)

    def _publish(self, kind: Kind, payload: bytes, *, retain: bool = False) -> bool:
        return self.session.publish(self._topic[kind], payload, QOS[kind], retain=retain)


def _give_up(session: Session) -> None:
    """A broker that accepts the socket and then says nothing."""
    if not session.up:
        session.abort()


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
