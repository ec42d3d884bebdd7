"""The agent publishes recorded events, as matches and as history, and moves the cursor on acks.

    recorder's thread ── commit ──▶ wake ─┐
    paho's thread ── happenings ─▶ inbox ─┴▶ agent's thread: store, uploader ─▶ match, history

One thread owns the store's connection and the uploader. It polls the store every `POLL_EVERY`
seconds, because other processes may record too.
"""

import logging
import random
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, Final

from facewire.errors import DecodeError, StoreError
from facewire.messages import Ack, decode_ack
from facewire_device.ack_log import log_ack
from facewire_device.agent_inbox import AgentInbox
from facewire_device.clock_error import ClockError
from facewire_device.identity import new_id
from facewire_device.opening import refuse_foreign
from facewire_device.publisher import Publisher
from facewire_device.realtime import Realtime
from facewire_device.ring import Ring
from facewire_device.settings import POLL_EVERY, Settings
from facewire_device.store import Store, open_store
from facewire_device.store_database import ReplacedError
from facewire_device.store_file import DamagedError, lock_for_agent
from facewire_device.uploader import Fork, Ignore, Outcome, Retry, Uploader
from facewire_mqtt import Connected, Disconnected, Happening, Received, Refused
from facewire_system.clock import elapsed_ms, now_ms

log = logging.getLogger(__name__)

#: After so many resends without an ack the agent reconnects, even if the session looks alive.
RESENDS_PER_SESSION: Final = 3
#: How long to wait after the store failed, s.
STORE_RETRY: Final = 1.0


class Agent:
    """Runs a device's side of the wire on a thread of its own.

    Args:
        settings: the device's.
        on_turn: called on the agent's thread after each turn of its loop, at least once a second
            even in an outage. If the calls stop, the agent hangs.
        on_failure: called on that thread when the agent fails; `wait` then raises.

    Attributes:
        boot: identity of this run; a new one if the store is replaced.
        realtime: publishes matches and counts them.
        describe_source: gives what a bridge adds to the status; called on the agent's thread.

    Raises:
        StoreError: the store cannot be opened.
        ValueError: a setting is out of its limits.
    """

    def __init__(
        self, settings: Settings, on_turn: Callable[[], None] = lambda: None, on_failure: Callable[[], None] = lambda: None
    ) -> None:
        self.settings = settings
        self._on_turn = on_turn
        self._on_failure = on_failure
        self.describe_source: Callable[[], Mapping[str, Any]] = dict
        self.boot = new_id()
        self._uploader = self._new_uploader()
        self._inbox = AgentInbox()
        self._publisher = Publisher(settings, self.boot, self._inbox.put)
        self._stopping = threading.Event()
        #: Set once an ack in this run has left nothing to send.
        self._confirmed = threading.Event()
        self._was_connected = threading.Event()
        self._failure: BaseException | None = None
        self._last_error = ""
        #: Whether the file may have changed since the store was checked.
        self._must_check = False
        self._status_due = 0.0
        # Open the store here too: the caller then sees its errors, and a cloned store forks before
        # anybody records into it.
        refuse_foreign(settings.store)
        self._lock = lock_for_agent(settings.store)
        try:
            with self._open_store(check=True) as store:
                store.assign_device(settings.device)
                ring = store.ring()
        except BaseException:
            self._lock.close()
            raise
        self._clock = ClockError()
        self.realtime = Realtime(self.boot, settings.threshold, ring, self._clock, self._publisher.match)
        self._thread = threading.Thread(target=self._run, name="agent", daemon=True)

    def open_store(self) -> Store:
        """Open this device's store on the calling thread, for example for a `Recorder`."""
        return self._open_store(check=False)

    def _open_store(self, *, check: bool) -> Store:
        settings = self.settings
        replace = check and settings.set_aside
        return open_store(settings.store, capacity=settings.capacity, machine=settings.machine, replace=replace, check=check)

    def _new_uploader(self) -> Uploader:
        settings = self.settings
        return Uploader(self.boot, now=time.monotonic(), period=settings.period, catch_up=settings.catch_up, jitter=random.random)

    def start(self) -> None:
        """Connect and start to publish."""
        self._publisher.connection.start()
        self._thread.start()

    def wake(self) -> None:
        """Poll the store now, after an event was recorded. For `Recorder(on_commit=…)`."""
        self._inbox.wake()

    def wait_connected(self, timeout: float) -> bool:
        """Wait up to `timeout` seconds for the first session; returns whether there was one."""
        return self._was_connected.wait(timeout)

    def wait_acked(self, pause: Callable[[float], bool] | None = None) -> bool:
        """Wait until an ack in this run confirms all events.

        Args:
            pause: waits so many seconds; if it returns true, the waiting ends.

        Returns:
            Whether all events are acked.

        Raises:
            StoreError: the agent has failed.
        """
        with self.open_store() as store:
            while not (self._confirmed.is_set() and store.ring().lag == 0):
                if pause is not None and pause(POLL_EVERY):
                    self.wait(0)
                    return False
                self.wait(POLL_EVERY if pause is None else 0)
        return True

    def wait(self, timeout: float | None = None) -> None:
        """Wait `timeout` seconds, or for ever. Raises `StoreError` if the agent failed."""
        self._thread.join(timeout)
        if isinstance(self._failure, StoreError):
            raise StoreError(str(self._failure)) from self._failure
        if self._failure is not None:
            raise StoreError(f"the agent has failed: {self._failure!r}") from self._failure

    def stop(self) -> None:
        """Say goodbye to the broker and end. The next run sends what is not acked."""
        self._stopping.set()
        self._inbox.wake()
        if self._thread.is_alive():
            self._thread.join()
        self._publisher.close()
        self._lock.close()
        log.info("device stopped matches_published=%d matches_missed=%d", self.realtime.published, self.realtime.missed)

    def __enter__(self) -> "Agent":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _run(self) -> None:
        try:
            while not self._stopping.is_set():
                self._run_on_store()
                self._on_turn()
        except BaseException as exc:
            if isinstance(exc, StoreError):
                log.error("agent failed error=%s", exc)  # noqa: TRY400  # it says what to do
            else:
                log.exception("agent failed")
            self._failure = exc
            self._on_failure()

    def _run_on_store(self) -> None:
        """Work until `stop`, or until the store must be opened again.

        After that it may be another file, or be damaged, so it is checked as at the start.

        Raises:
            DamagedError: it is damaged, and not to be set aside. Waiting does not mend it.
        """
        check, self._must_check = self._must_check, True
        store: Store | None = None
        try:
            with self._open_store(check=check) as store:
                store.assign_device(self.settings.device)
                if check:
                    self._begin_anew(store)
                while not self._stopping.is_set():
                    self._turn_or_wait(store)
                    self._on_turn()
                self.realtime.poll(store)
        except DamagedError as exc:
            # Found at work: look at the whole file, and set it aside if that is allowed.
            if check and (store is None or self._last_error):
                raise
            self._log_failure(exc)
        except StoreError as exc:
            self._wait_after_failure(exc)

    def _begin_anew(self, store: Store) -> None:
        """Begin a new run, as after a restart: the file may be another one, such as an old copy.

        By the new boot the platform sees that the store went back, and a gate that its seqs did.
        """
        self.boot = self._publisher.boot = new_id()
        self._uploader = self._new_uploader()
        self._confirmed.clear()
        self.realtime.restart(self.boot, store.ring())
        self._publisher.connection.reconnect("the store was opened anew")

    def _turn_or_wait(self, store: Store) -> None:
        try:
            self._turn(store)
            if self._last_error:
                log.info("store works again store=%s", store.path)
            self._last_error = ""
        except (ReplacedError, DamagedError):
            raise
        except StoreError as exc:
            self._wait_after_failure(exc)

    def _wait_after_failure(self, exc: StoreError) -> None:
        """The store failed, say on a full disk: wait before the next try."""
        self._log_failure(exc)
        self._stopping.wait(STORE_RETRY)

    def _log_failure(self, exc: StoreError) -> None:
        """Log an error once."""
        if str(exc) != self._last_error:
            log.error("store failed error=%s", exc)
        self._last_error = str(exc)

    def _turn(self, store: Store) -> None:
        happening = self._next_happening()
        if happening is not None:
            self._handle(happening, store)
        self._clock.watch(elapsed_ms(), now_ms())
        self.realtime.poll(store)
        if self._uploader.poll(time.monotonic()):
            self._publish_batch(store)

    def _next_happening(self) -> Happening | None:
        wakes_at = self._uploader.wakes_at
        poll_every = self.settings.poll_every
        wait = poll_every if wakes_at is None else min(poll_every, wakes_at - time.monotonic())
        return self._inbox.next(wait)

    def _handle(self, happening: Happening, store: Store) -> None:
        match happening:
            case Connected():
                log.info("connected broker=%s device=%s boot=%s", self.settings.address, self.settings.device, self.boot)
                self._publisher.connected = True
                self._was_connected.set()
                self._uploader.connected(time.monotonic())
                self._publish_status(store)
            case Disconnected(reason):
                if self._publisher.connected:
                    log.warning("disconnected reason=%s matches_missed=%d", reason, self.realtime.missed)
                self._publisher.connected = False
                self._uploader.disconnected()
            case Refused(reason):
                log.error("broker refuses device=%s reason=%s", self.settings.device, reason)
            case Received(topic=topic, payload=payload):
                self._handle_ack(topic, payload, store)

    def _handle_ack(self, topic: str, payload: bytes, store: Store) -> None:
        if topic != self._publisher.acks:
            log.warning("ignored message topic=%r", topic)
            return
        try:
            ack = decode_ack(payload)
        except DecodeError as exc:
            log.warning("ignored ack error=%s", exc)
            return
        now, elapsed = time.monotonic(), elapsed_ms()
        outcome, ring = store.apply_ack(lambda ring: self._decide(now, ack, ring))
        log_ack(ack, outcome, ring)
        if isinstance(outcome, Ignore | Retry):
            return
        self._clock.acked(elapsed, ack)
        if isinstance(outcome, Fork):
            self.realtime.forked(ring, outcome.first)
            self._status_due = now
            self._confirmed.clear()  # the platform has yet to hear of the new epoch
        elif ring.lag == 0:
            self._confirmed.set()
        if now >= self._status_due:
            self._publish_status(store)

    def _decide(self, now: float, ack: Ack, ring: Ring) -> Outcome:
        # Since the batch was sent, another process may have forked the store, or replaced it.
        return self._uploader.acked(now, ack, ring) if ack.epoch == ring.epoch else Ignore()

    def _publish_batch(self, store: Store) -> None:
        batch, began = store.next_batch(self.boot, self.settings.batch), elapsed_ms()
        if not self._publisher.batch(batch):
            self._uploader.disconnected()
            self._publisher.connection.reconnect("publishing failed")
            return
        resends = self._uploader.sent(time.monotonic(), batch.epoch, batch.key)
        if not resends:
            self._clock.batch_sent(began)
        log.debug("sent batch key=%d resends=%d", batch.key, resends)
        if resends:
            log.warning("no ack in time, batch resent key=%d resends=%d", batch.key, resends)
        if resends and resends % RESENDS_PER_SESSION == 0:
            self._publisher.connection.reconnect(f"no ack after {resends} resends")

    def _publish_status(self, store: Store) -> None:
        self._status_due = time.monotonic() + self.settings.period
        more = {"missed": self.realtime.missed, **self.describe_source()}
        self._publisher.status(store.ring(), threshold=self.realtime.threshold, capacity=store.capacity, clock=self._clock, more=more)
