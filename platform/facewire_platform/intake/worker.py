"""The worker: takes what devices publish, stores it in groups, acks what is durable.

    receiver's process: connection, inbox (bounded) ══ messages ══▶ worker's: one transaction ─▶ commit
                                                    ◀═══ acks ════

What does not fit the inbox is dropped and counted: a device sends its history again.
"""

import dataclasses
import logging
import secrets
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Final, TypeAlias

from facewire.codec import Format
from facewire.errors import BatchRefused, BrokerError, CredentialsRefused, StoreError
from facewire.messages import Ack, BatchOf, Match, Status, encode
from facewire.topics import QOS, Kind, Topics
from facewire_mqtt.connection import Address, Connected, Disconnected, Publication, Refused
from facewire_platform.intake.inbox import News, Queued
from facewire_platform.intake.reader import read
from facewire_platform.intake.receiver import Receiver, Subscriber
from facewire_platform.store.drivers import Location
from facewire_platform.store.writer import Message, Outcome, Unreadable, open_store

log = logging.getLogger(__name__)

#: The wait after a failure of the database, s.
STORE_RETRY: Final = 1.0
#: Messages stored in one commit at most; fewer if no more are waiting.
GROUP: Final = 200
#: With an inbox that is fuller than this, acks ask for patience, up to this long, ms.
PATIENCE_FROM: Final = 0.25
PATIENCE_MS: Final = 60_000
SUBSCRIBED: Final[tuple[Kind, ...]] = ("match", "history", "status")
#: What a group of workers shares. Each of them hears every status: a shared subscription is not given what is retained.
SHARED: Final = frozenset(("match", "history"))


_Pair: TypeAlias = tuple[Queued, Message]


@dataclass(slots=True)
class Counters:
    """What a worker has done since it started."""

    batches: int = 0
    matches: int = 0
    statuses: int = 0
    #: Messages, and single events of batches.
    quarantined: int = 0
    refused: int = 0
    conflicts: int = 0
    stale_statuses: int = 0
    #: Events of batches, stored or not.
    events: int = 0
    commits: int = 0
    #: Spent in transactions, s.
    commit_seconds: float = 0.0
    #: Messages that did not fit the inbox.
    dropped: int = 0


class Worker:
    """Runs the platform's side of the wire, on the calling thread.

    Args:
        database: the SQLite file, or the postgresql:// URL.
        address: the broker.
        topics: where the devices publish.
        share: the group of workers that shares the work, on a broker that has shared subscriptions; alone without one.
        on_turn: called after each turn of the loop, at least every few seconds, with whether the database is open and a session
            subscribed. It must not raise.

    Raises:
        StoreError: the database cannot be opened, or another worker has it.
    """

    def __init__(
        self,
        database: Location,
        address: Address,
        topics: Topics,
        *,
        share: str | None = None,
        on_turn: Callable[[bool], None] = lambda _: None,
    ) -> None:
        self._topics = topics
        self._database = database
        self._address = address
        self._on_turn = on_turn
        #: Read and not stored yet, each with what it was read from.
        self._unstored: list[_Pair] = []
        #: Of what is stored, to be published.
        self._acks: list[Publication] = []
        #: How full the inbox is, from 0 to 1.
        self._fill = 0.0
        self._outage = ""
        self._stopping = threading.Event()
        self.counters = Counters()
        self._refused: Refused | None = None
        self._connected = self._was_connected = False
        self._store = open_store(database)
        subscriptions = [(_filter(topics, kind, share), QOS[kind]) for kind in SUBSCRIBED]
        self._receiver = Receiver(Subscriber(address, f"facewire-platform-{secrets.token_hex(4)}", subscriptions, self._store.rows))

    def run(self) -> None:
        """Work until `stop` is called, from a signal handler or another thread.

        Raises:
            CredentialsRefused: the broker does not know us.
            BrokerError: it does not let us subscribe.
        """
        try:
            while not self._stopping.is_set():
                self._turn()
                self._on_turn(self._connected)
        finally:
            self._receiver.close(self._acks)
            self._store.close()
            log.info("worker stopped %s", " ".join(f"{name}={count}" for name, count in asdict(self.counters).items()))
        if self._refused is not None:
            raise (CredentialsRefused if self._refused.credentials else BrokerError)(f"{self._address}: {self._refused.reason}")

    def stop(self) -> None:
        """End after the group at hand; what else waits is sent again by its devices."""
        self._stopping.set()

    def _turn(self) -> None:
        self._exchange()
        if not self._unstored:
            return
        try:
            if self._store.replaced:
                self._reopen()
            self._store_all()
        except StoreError as exc:
            # Tried again: the devices would send their history again, the broker no will.
            self._tell_outage(str(exc))
            self._stopping.wait(STORE_RETRY)
        else:
            self._tell_outage("")

    def _exchange(self) -> None:
        acks, self._acks = self._acks, []
        delivery = self._receiver.exchange(acks, 0 if self._unstored else GROUP)
        for news in delivery.news:
            self._hear(news)
        if delivery.dropped:
            log.warning("inbox full, dropped=%d", delivery.dropped)
            self.counters.dropped += delivery.dropped
        self._fill = delivery.fill
        now_ms = time.time_ns() // 1_000_000
        for queued in delivery.messages:
            self._unstored += [(queued, message) for message in read(queued, self._topics, self._store.rows, now_ms)]

    def _hear(self, news: News) -> None:
        match news:
            case logging.LogRecord():
                logging.getLogger(news.name).handle(news)
            case Connected():
                self._connected = self._was_connected = True
                log.info("connected broker=%s store=%s", self._address, self._store.identity)
            case Disconnected(reason):
                self._connected = False
                log.warning("no connection broker=%s reason=%s", self._address, reason)
            case Refused(reason):
                log.error("broker refuses reason=%s", reason)
                if not self._was_connected:
                    self._refused = news
                    self.stop()

    def _reopen(self) -> None:
        """The database was wiped or restored under us, or its server is gone. Devices find out by our acks what to send again."""
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
        """Store one message. If it fails by a fault of ours, the others must be stored all the same.

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

    def _commit(self, some: Sequence[_Pair]) -> None:
        started = time.perf_counter()
        outcomes = self._store.store([message for _, message in some])
        self.counters.commits += 1
        self.counters.commit_seconds += time.perf_counter() - started
        for (queued, message), outcome in zip(some, outcomes, strict=True):
            self._count(message, outcome)
            if isinstance(outcome, Ack):
                self._answer(queued, message.device, outcome)

    def _answer(self, queued: Queued, device: str, ack: Ack) -> None:
        if self._fill > PATIENCE_FROM:
            ack = dataclasses.replace(ack, retry_after=round(self._fill * PATIENCE_MS))
        fmt = Format.JSON if queued.payload[:1] == b"{" else Format.MSGPACK
        self._acks.append(Publication(self._topics.of(device, "ack"), encode(ack, fmt), QOS["ack"]))

    def _count(self, message: Message, outcome: Outcome) -> None:
        counters = self.counters
        match message.body:
            case BatchOf() as batch:
                counters.batches += 1
                counters.events += len(batch.events)
                self._tell_ack(message.device, batch.epoch, outcome)
            case Match():
                counters.matches += 1
            case Status():
                counters.statuses += 1
                counters.stale_statuses += not outcome
            case BatchRefused():
                counters.refused += 1
            case Unreadable(topic, reason):
                counters.quarantined += 1
                log.warning("quarantined topic=%r error=%s", topic, reason)

    def _tell_ack(self, device: str, epoch: str, ack: Outcome) -> None:
        assert isinstance(ack, Ack)  # noqa: S101  # what a batch comes to
        for rejected in ack.rejected:
            self.counters.quarantined += 1
            log.warning("quarantined device=%s epoch=%s seq=%s reason=%s", device, epoch, rejected.seq, rejected.reason)
        if ack.conflict is not None:
            self.counters.conflicts += 1
            log.warning("conflict device=%s epoch=%s seq=%d", device, epoch, ack.conflict)

    def _tell_outage(self, reason: str) -> None:
        if reason and reason != self._outage:
            log.error("database fails, waiting error=%s", reason)
        elif self._outage and not reason:
            log.warning("database works again")
        self._outage = reason


def _filter(topics: Topics, kind: Kind, share: str | None) -> str:
    return f"$share/{share}/{topics.all(kind)}" if share and kind in SHARED else topics.all(kind)
