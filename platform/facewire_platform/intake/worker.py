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
from typing import Final

from facewire.codec import Format
from facewire.errors import BatchRefused, BrokerError, CredentialsRefused, StoreError
from facewire.messages import Ack, Batch, Match, Status, encode
from facewire.topics import QOS, Kind, Topics
from facewire_mqtt.connection import Address, Connected, Disconnected, Publication, Refused
from facewire_platform.intake.inbox import News
from facewire_platform.intake.reader import Held, read
from facewire_platform.intake.receiver import Receiver, Subscriber
from facewire_platform.store.drivers import Where
from facewire_platform.store.writer import Outcome, Taken, Unreadable, open_store

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
        database: Where,
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
        self._held: list[Held] = []
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
        if not self._held:
            return
        try:
            if self._store.replaced:
                self._reopen()
            self._store_held()
        except StoreError as exc:
            # What is held is tried again: history would be sent again by its device, a will would not.
            self._tell_outage(str(exc))
            self._stopping.wait(STORE_RETRY)
        else:
            self._tell_outage("")

    def _exchange(self) -> None:
        acks, self._acks = self._acks, []
        came = self._receiver.exchange(acks, 0 if self._held else GROUP)
        for news in came.news:
            self._hear(news)
        if came.dropped:
            log.warning("inbox full, dropped=%d", came.dropped)
            self.counters.dropped += came.dropped
        self._fill = came.fill
        now_ms = time.time_ns() // 1_000_000
        self._held += [held for arrived in came.messages for held in read(arrived, self._topics, self._store.rows, now_ms)]

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

    def _store_held(self) -> None:
        try:
            self._take(self._held)
            self._held = []
        except StoreError:
            raise
        except Exception:
            log.exception("group failed, storing its messages one by one messages=%d", len(self._held))
            while self._held:
                self._take_alone(self._held[0])
                del self._held[0]

    def _take_alone(self, held: Held) -> None:
        """One message that we fail on, which is our fault, must not keep the others from being stored.

        Raises:
            StoreError: an outage, no fault of the message.
        """
        try:
            self._take([held])
        except StoreError:
            raise
        except Exception as exc:
            log.exception("message failed topic=%r", held.arrived.topic)
            kept = Unreadable(held.arrived.topic, f"internal error: {type(exc).__name__}", held.arrived.payload)
            try:
                self._take([Held(held.arrived, held.taken._replace(message=kept))])
            except StoreError:
                raise
            except Exception:  # a damaged database: what it still can store, it stores
                log.exception("message lost topic=%r", held.arrived.topic)

    def _take(self, some: Sequence[Held]) -> None:
        started = time.perf_counter()
        outcomes = self._store.take([held.taken for held in some])
        self.counters.commits += 1
        self.counters.commit_seconds += time.perf_counter() - started
        for held, outcome in zip(some, outcomes, strict=True):
            self._count(held.taken, outcome)
            if isinstance(outcome, Ack):
                self._answer(held, outcome)

    def _answer(self, held: Held, ack: Ack) -> None:
        if self._fill > PATIENCE_FROM:
            ack = dataclasses.replace(ack, retry_after=round(self._fill * PATIENCE_MS))
        fmt = Format.JSON if held.arrived.payload[:1] == b"{" else Format.MSGPACK
        self._acks.append(Publication(self._topics.of(held.taken.device, "ack"), encode(ack, fmt), QOS["ack"]))

    def _count(self, taken: Taken, outcome: Outcome) -> None:
        counters = self.counters
        match taken.message:
            case Batch() as batch:
                counters.batches += 1
                counters.events += len(batch.events)
                self._tell_ack(taken.device, batch.epoch, outcome)
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
