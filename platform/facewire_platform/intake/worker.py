"""The worker: stores the messages of devices in groups, and acks a batch once it is durable.

    receiver's process: connection, inbox ══ messages ══▶ worker's: one transaction ─▶ commit
                                          ◀═══ acks ════

The inbox is bounded. If a message does not fit, it is dropped and counted: devices send their
history again.
"""

import dataclasses
import logging
import secrets
import threading
import time
from collections.abc import Callable, Sequence
from typing import Final, Protocol, TypeAlias

from facewire.codec import format_of
from facewire.errors import BrokerError, CredentialsRefused, StoreError
from facewire.messages import Ack, encode
from facewire.topics import QOS, Kind, Topics
from facewire_mqtt import Address, Connected, Disconnected, Publication, Refused
from facewire_mqtt.reasons import Reasons
from facewire_platform.intake.counters import Counters
from facewire_platform.intake.inbox import Delivery, News, Queued, device_of
from facewire_platform.intake.rates import Postponed, Rates
from facewire_platform.intake.reader import read
from facewire_platform.intake.receiver import Receiver, Subscriber
from facewire_platform.store.database import dialect_of
from facewire_platform.store.drivers import Location
from facewire_platform.store.writer import Message, Unreadable, open_store
from facewire_system.clock import now_ms

log = logging.getLogger(__name__)

#: The wait after the database failed, s.
STORE_RETRY: Final = 1.0
#: One commit stores no more messages than this.
GROUP: Final = 200
#: If the inbox is fuller than this, from 0 to 1, acks ask devices to wait, up to so many ms.
BUSY_FILL: Final = 0.25
MAX_RETRY_AFTER_MS: Final = 60_000
SUBSCRIBED: Final[tuple[Kind, ...]] = ("match", "history", "status")
#: The kinds that the workers of a group share. Each worker gets every status, because a broker
#: sends no retained messages to a shared subscription.
SHARED: Final = frozenset(("match", "history"))


_Pair: TypeAlias = tuple[Queued, Message]


class Receiving(Protocol):
    """The connection to a broker, as the worker uses it (see `receiver.Receiver`)."""

    @property
    def address(self) -> Address: ...
    def exchange(self, publications: list[Publication], most: int) -> Delivery: ...
    def close(self, publications: list[Publication]) -> None: ...


def receiver_for(database: Location, address: Address, topics: Topics, share: str | None = None) -> Receiver:
    """A receiver of the devices' messages. Its process starts with its first exchange.

    Args:
        database: the database in which they will be stored.
        address: the broker.
        topics: the topics on which the devices publish.
        share: the group of workers that share the work by shared subscriptions, or None.
    """
    subscriptions = [(_filter(topics, kind, share), QOS[kind]) for kind in SUBSCRIBED]
    return Receiver(Subscriber(address, f"facewire-platform-{secrets.token_hex(4)}", subscriptions, dialect_of(database).rows))


class Worker:
    """Runs the platform's side of the wire, on the calling thread.

    Args:
        database: the SQLite file, or the postgresql:// URL.
        receiver: where messages come from and acks go to. The worker closes it.
        topics: the topics on which the devices publish.
        on_turn: called after each turn, at least every few seconds, with whether the worker is
            subscribed. It must not raise.

    Attributes:
        acks: of stored batches, to be published in the next turn.
        counters: the work so far.

    Raises:
        StoreError: the database cannot be opened, or another worker has it.
    """

    def __init__(
        self, database: Location, receiver: Receiving, topics: Topics, *, on_turn: Callable[[bool], None] = lambda _: None
    ) -> None:
        self._topics = topics
        self._database = database
        self._receiver = receiver
        self._on_turn = on_turn
        #: Messages that are read and not stored yet, each with the one it was read from.
        self._unstored: list[_Pair] = []
        self.acks: list[Publication] = []
        #: How full the inbox is, from 0 to 1.
        self._fill = 0.0
        self._rates = Rates()
        self._outage = ""
        self._stopping = threading.Event()
        self.counters = Counters()
        self._refused: Refused | None = None
        self._connected = self._was_connected = False
        self._reasons = Reasons()
        self._store = open_store(database)

    def run(self) -> None:
        """Work until a signal handler or another thread calls `stop`.

        Raises:
            CredentialsRefused: the broker refuses our credentials.
            BrokerError: it does not let us subscribe.
        """
        try:
            while not self._stopping.is_set():
                self.turn()
                self._on_turn(self._connected)
        finally:
            self.close()
            log.info("worker stopped %s", self.counters)
        if self._refused is not None:
            raise (CredentialsRefused if self._refused.credentials else BrokerError)(f"{self._receiver.address}: {self._refused.reason}")

    def stop(self) -> None:
        """End after the current group. Devices send again what is still in the inbox."""
        self._stopping.set()

    def close(self) -> None:
        """Publish the last acks, and close the receiver and the store."""
        self._receiver.close(self.acks)
        self._store.close()

    def turn(self) -> None:
        """Publish acks, take a group of messages, and store it. Wait if the database fails."""
        self._exchange()
        if not self._unstored:
            return
        try:
            if self._store.replaced:
                self._reopen()
            self._store_all()
        except StoreError as exc:
            # Keep the messages and try again: a device repeats its history, but nobody its will.
            self._log_outage(str(exc))
            self._stopping.wait(STORE_RETRY)
        else:
            self._log_outage("")

    def _exchange(self) -> None:
        acks, self.acks = self.acks, []
        delivery = self._receiver.exchange(acks, 0 if self._unstored else GROUP)
        for news in delivery.news:
            self._handle(news)
        if delivery.dropped:
            log.warning("inbox full, dropped=%d", delivery.dropped)
            self.counters.dropped += delivery.dropped
        self._fill = delivery.fill
        now = now_ms()
        for queued in delivery.messages:
            if not self._rates.may_read(device_of(queued.topic), time.monotonic()):
                self.counters.over_rate += 1
                continue
            for message in read(queued, self._topics, self._store.rows, now):
                self._admit(queued, message)

    def _admit(self, queued: Queued, message: Message) -> None:
        excess = self._rates.judge(message, time.monotonic())
        if excess is None:
            self._unstored.append((queued, message))
            return
        self.counters.over_rate += 1
        log.warning("over the rate device=%s rate=%s", message.device, excess.rate)
        if excess.answer is not None:
            self._unstored.append((queued, message._replace(body=excess.answer)))

    def _handle(self, news: News) -> None:
        match news:
            case logging.LogRecord():
                logging.getLogger(news.name).handle(news)
            case Connected():
                self._connected = self._was_connected = True
                log.info("connected broker=%s store=%s", self._receiver.address, self._store.identity)
            case Disconnected(reason):
                if self._connected:
                    self._reasons.connected()
                self._connected = False
                if self._reasons.is_news(reason, time.monotonic()):
                    log.warning("no connection broker=%s reason=%s", self._receiver.address, reason)
            case Refused(reason):
                log.error("broker refuses reason=%s", reason)
                if not self._was_connected:
                    self._refused = news
                    self.stop()

    def _reopen(self) -> None:
        """Open the database again: it was wiped or restored, or its server was gone.

        The acks tell the devices what they must send again.
        """
        log.warning("database is gone, opening it again")
        self._store.close()
        self._store = open_store(self._database)
        log.info("database open store=%s", self._store.identity)

    def _store_all(self) -> None:
        try:
            self._commit(self._unstored)
            self._unstored = []
        except StoreError:
            raise
        except Exception:
            log.exception("group failed, storing its messages one by one messages=%d", len(self._unstored))
            while self._unstored:
                self._commit_alone(*self._unstored[0])
                del self._unstored[0]

    def _commit_alone(self, queued: Queued, message: Message) -> None:
        """Store one message. If we fail on it, the others must be stored all the same.

        Raises:
            StoreError: an outage; the message is not at fault.
        """
        try:
            self._commit([(queued, message)])
        except StoreError:
            raise
        except Exception as exc:
            log.exception("message failed topic=%r", queued.topic)
            unreadable = Unreadable(queued.topic, f"internal error: {type(exc).__name__}", queued.payload)
            try:
                self._commit([(queued, message._replace(body=unreadable))])
            except StoreError:
                raise
            except Exception:  # the database is damaged: it stores what it still can
                log.exception("message lost topic=%r", queued.topic)

    def _commit(self, pairs: Sequence[_Pair]) -> None:
        started = time.perf_counter()
        outcomes = self._store.store([message for _, message in pairs])
        self.counters.commits += 1
        self.counters.commit_seconds += time.perf_counter() - started
        for (queued, message), outcome in zip(pairs, outcomes, strict=True):
            self.counters.stored(message, outcome)
            if isinstance(outcome, Ack):
                self._answer(queued, message, outcome)

    def _answer(self, queued: Queued, message: Message, ack: Ack) -> None:
        if isinstance(message.body, Postponed):
            ack = dataclasses.replace(ack, error=None, retry_after=message.body.retry_after)
        elif self._fill > BUSY_FILL:
            ack = dataclasses.replace(ack, retry_after=round(self._fill * MAX_RETRY_AFTER_MS))
        # The device measures its clock by these (docs/contract.md, Clock).
        ack = dataclasses.replace(ack, received_at=message.at_ms, sent_at=now_ms())
        payload = encode(ack, format_of(queued.payload))
        self.acks.append(Publication(self._topics.of(message.device, "ack"), payload, QOS["ack"]))

    def _log_outage(self, reason: str) -> None:
        if reason and reason != self._outage:
            log.error("database fails, waiting error=%s", reason)
        elif self._outage and not reason:
            log.warning("database works again")
        self._outage = reason


def _filter(topics: Topics, kind: Kind, share: str | None) -> str:
    return f"$share/{share}/{topics.all(kind)}" if share and kind in SHARED else topics.all(kind)
