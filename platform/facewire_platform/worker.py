"""The worker: takes what devices publish, stores it in groups, acks what is durable.

    paho's thread ── Received ──▶ inbox (bounded) ──▶ worker's thread: decode ─▶ one transaction ─▶ commit ─▶ acks

What does not fit the inbox is dropped and counted: a device sends its history again.
"""

import logging
import secrets
import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Final

from facewire.codec import Format
from facewire.errors import BatchRefused, BrokerError, CredentialsRefused, DecodeError, ProtocolError, StoreError
from facewire.messages import Ack, Batch, Match, Message, Status, decode, encode
from facewire.topics import QOS, Kind, Topics
from facewire_mqtt.connection import Address, Connected, Connection, Disconnected, Happening, Publication, Received, Refused
from facewire_platform.schema import Where
from facewire_platform.store import open_store

log = logging.getLogger(__name__)

#: What may wait for the database: messages, and their bytes.
INBOX_MESSAGES: Final = 50_000
INBOX_BYTES: Final = 256 * 1024 * 1024
#: Messages stored in one commit at most; fewer if no more are waiting.
GROUP: Final = 200
#: The wait after a failure of the database, s.
STORE_RETRY: Final = 1.0
#: A worker that has nothing to do looks this often whether it should stop, s.
LOOK_EVERY: Final = 0.5
SUBSCRIBED: Final[tuple[Kind, ...]] = ("match", "history", "status")


class Inbox:
    """A queue between paho's thread and ours, bounded in messages and bytes."""

    def __init__(self, most_messages: int = INBOX_MESSAGES, most_bytes: int = INBOX_BYTES) -> None:
        self._waiting: deque[Received] = deque()
        self._size_bytes = 0
        self._most_messages, self._most_bytes = most_messages, most_bytes
        self._changed = threading.Condition()
        self.dropped = 0

    def put(self, message: Received) -> bool:
        """Add a message; False if it does not fit, which is counted."""
        size_bytes = len(message.payload)
        with self._changed:
            if len(self._waiting) >= self._most_messages or self._size_bytes + size_bytes > self._most_bytes:
                self.dropped += 1
                return False
            self._waiting.append(message)
            self._size_bytes += size_bytes
            self._changed.notify()
        return True

    def take(self, most: int, timeout: float) -> list[Received]:
        """Up to `most` messages, oldest first; waits for one, no longer than `timeout` seconds."""
        with self._changed:
            if not self._waiting:
                self._changed.wait(timeout)
            taken = [self._waiting.popleft() for _ in range(min(most, len(self._waiting)))]
            self._size_bytes -= sum(len(message.payload) for message in taken)
        return taken


@dataclass(slots=True)
class Counters:
    """What a worker has done since it started."""

    batches: int = 0
    matches: int = 0
    statuses: int = 0
    quarantined: int = 0
    refused: int = 0
    conflicts: int = 0
    commits: int = 0
    stale_statuses: int = 0


@dataclass(frozen=True, slots=True)
class _Answer:
    topic: str
    ack: Ack
    format: Format


@dataclass(slots=True)
class _Group:
    """What came of the messages of one transaction, to be done once it is durable."""

    answers: list[_Answer] = field(default_factory=list)
    counters: Counters = field(default_factory=Counters)


class Worker:
    """Runs the platform's side of the wire, on the calling thread.

    Args:
        database: the SQLite file, or the postgresql:// URL.
        address: the broker.
        topics: where the devices publish.

    Raises:
        StoreError: the database cannot be opened, or another worker has it.
    """

    def __init__(self, database: Where, address: Address, topics: Topics) -> None:
        self._topics = topics
        self._database = database
        self._address = address
        self._inbox = Inbox()
        self._told_dropped = 0
        #: Taken from the inbox and not stored yet.
        self._held: list[Received] = []
        self._outage = ""
        self._stopping = threading.Event()
        self.counters = Counters()
        self._refused: Refused | None = None
        self._was_connected = False
        self._store = open_store(database)
        subscriptions = [(topics.all(kind), QOS[kind]) for kind in SUBSCRIBED]
        self._connection = Connection(address, f"facewire-platform-{secrets.token_hex(4)}", subscriptions, self._tell)

    def run(self) -> None:
        """Work until `stop` is called, from a signal handler or another thread.

        Raises:
            CredentialsRefused: the broker does not know us.
            BrokerError: it does not let us subscribe.
        """
        self._connection.start()
        try:
            while not self._stopping.is_set():
                self._turn()
        finally:
            self._connection.close()
            self._store.close()
            log.info("worker stopped %s dropped=%d", " ".join(f"{k}={v}" for k, v in asdict(self.counters).items()), self._inbox.dropped)
        if self._refused is not None:
            raise (CredentialsRefused if self._refused.credentials else BrokerError)(f"{self._address}: {self._refused.reason}")

    def stop(self) -> None:
        """End after the group at hand; what else waits is sent again by its devices."""
        self._stopping.set()

    def _tell(self, happening: Happening) -> None:
        """Called on the connection's threads."""
        match happening:
            case Received():
                self._inbox.put(happening)
            case Connected():
                self._was_connected = True
                log.info("connected broker=%s store=%s", self._address, self._store.identity)
            case Disconnected(reason) if not self._stopping.is_set():
                log.warning("no connection broker=%s reason=%s", self._address, reason)
            case Refused(reason):
                log.error("broker refuses reason=%s", reason)
                if not self._was_connected:
                    self._refused = happening
                    self.stop()

    def _turn(self) -> None:
        self._held = self._held or self._inbox.take(GROUP, LOOK_EVERY)
        if self._inbox.dropped > self._told_dropped:
            log.warning("inbox full, dropped=%d", self._inbox.dropped - self._told_dropped)
            self._told_dropped = self._inbox.dropped
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

    def _reopen(self) -> None:
        """The database was wiped or restored under us. Devices find out by our acks what they have to send again."""
        log.warning("database was replaced, opening it again")
        self._store.close()
        self._store = open_store(self._database)
        log.info("database open store=%s", self._store.identity)

    def _store_held(self) -> None:
        try:
            self._store_group(self._held)
            self._held = []
        except StoreError:
            raise
        except Exception:
            log.exception("group failed, storing its messages one by one messages=%d", len(self._held))
            while self._held:
                self._store_alone(self._held[0])
                del self._held[0]

    def _tell_outage(self, reason: str) -> None:
        if reason and reason != self._outage:
            log.error("database fails, waiting error=%s", reason)
        elif self._outage and not reason:
            log.warning("database works again")
        self._outage = reason

    def _store_group(self, messages: Sequence[Received]) -> None:
        group = _Group()
        with self._store.transaction():
            for message in messages:
                self._take(message, group)
        self._count(group.counters)
        for answer in group.answers:
            self._connection.publish(Publication(answer.topic, encode(answer.ack, answer.format), QOS["ack"]))

    def _store_alone(self, message: Received) -> None:
        """One message that we fail on, which is our fault, must not keep the others from being stored.

        Raises:
            StoreError: an outage, no fault of the message.
        """
        try:
            self._store_group([message])
        except StoreError:
            raise
        except Exception as exc:
            log.exception("message failed topic=%r", message.topic)
            self._quarantine_failed(message, type(exc).__name__)

    def _quarantine_failed(self, message: Received, error: str) -> None:
        try:
            with self._store.transaction():
                self._store.quarantine(message.topic, f"internal error: {error}", message.payload, _now_ms())
        except StoreError:
            raise
        except Exception:  # a damaged database: what it still can store, it stores
            log.exception("message lost topic=%r", message.topic)

    def _take(self, message: Received, group: _Group) -> None:
        now_ms = _now_ms()
        try:
            device, kind = self._topics.parse(message.topic)
        except ProtocolError as exc:
            self._quarantine(message, str(exc), now_ms, group)
            return
        try:
            self._take_decoded(device, decode(kind, message.payload), message, now_ms, group)
        except BatchRefused as exc:
            self._quarantine(message, str(exc), now_ms, group)
            group.counters.refused += 1
            self._answer(device, self._store.take_refused(device, exc), message, group)
        except DecodeError as exc:
            self._quarantine(message, str(exc), now_ms, group)

    def _take_decoded(self, device: str, decoded: Message, message: Received, now_ms: int, group: _Group) -> None:
        match decoded:
            case Batch():
                ack = self._store.take_batch(device, decoded, now_ms)
                group.counters.batches += 1
                group.counters.quarantined += len(ack.rejected)
                if ack.conflict is not None:
                    group.counters.conflicts += 1
                    log.warning("conflict device=%s epoch=%s seq=%d", device, decoded.epoch, ack.conflict)
                for rejected in ack.rejected:
                    log.warning("quarantined device=%s epoch=%s seq=%s reason=%s", device, decoded.epoch, rejected.seq, rejected.reason)
                self._answer(device, ack, message, group)
            case Match():
                self._store.take_match(device, decoded, now_ms)
                group.counters.matches += 1
            case Status():
                counts = self._store.take_status(device, decoded, now_ms)
                group.counters.statuses += 1
                group.counters.stale_statuses += not counts

    def _answer(self, device: str, ack: Ack, message: Received, group: _Group) -> None:
        fmt = Format.JSON if message.payload[:1] == b"{" else Format.MSGPACK
        group.answers.append(_Answer(self._topics.of(device, "ack"), ack, fmt))

    def _quarantine(self, message: Received, reason: str, now_ms: int, group: _Group) -> None:
        log.warning("quarantined topic=%r error=%s", message.topic, reason)
        self._store.quarantine(message.topic, reason, message.payload, now_ms)
        group.counters.quarantined += 1

    def _count(self, news: Counters) -> None:
        news.commits += 1
        for name, more in asdict(news).items():
            setattr(self.counters, name, getattr(self.counters, name) + more)


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
