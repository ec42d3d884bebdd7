"""The recorder, which a recognition process calls. Concurrent callers share a commit.

    record() ─┐                        ┌─▶ commit of the next group ─▶ all of its callers return
    record() ─┼─▶ group being gathered ┤
    record() ─┘   while one commits    └─▶ on_commit(): wakes the agent

A recorder needs no broker: the agent on the same store publishes, in this process or another.
"""

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from facewire.errors import StoreError
from facewire.events import Event, read_source
from facewire_device.photo_folder import PhotoFolder, photos_of
from facewire_device.store import Appended, Store
from facewire_device.store_database import ReplacedError

log = logging.getLogger(__name__)


class Recorded(NamedTuple):
    """An event's identity on its device."""

    epoch: str
    seq: int


class _Group:
    """Events that are committed together."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.appended: Appended | None = None
        self.error: Exception | None = None
        # A turnstile: each caller that comes out lets the next one out. A threading.Event would
        # wake all of them at once, only to queue for its lock.
        self._gate = threading.Lock()
        self._gate.acquire()

    def finish(self) -> None:
        """Let the waiting callers return."""
        self._gate.release()

    def wait(self) -> None:
        """Wait until it is committed. Raises what the commit raised."""
        with self._gate:
            pass
        if isinstance(self.error, StoreError):
            # One error object raised in many threads would tangle their tracebacks.
            raise StoreError(str(self.error)) from self.error
        if self.error is not None:
            raise self.error


class Recorder:
    """Records events from any thread.

    Args:
        open_store: opens the store; called on the thread that will own it.
        on_commit: called after each commit, on that thread; if it raises, the error is logged.

    Attributes:
        closed: whether `close` was called.
        photos: the folder of photographs beside the store.

    Raises:
        StoreError: the store cannot be opened.
    """

    def __init__(self, open_store: Callable[[], Store], on_commit: Callable[[], None] = lambda: None) -> None:
        self._open_store = open_store
        self._store: Store | None = None
        self._on_commit = on_commit
        self._gathering = _Group()
        self._lock = threading.Condition()
        self.closed = False
        self._opened = _Group()
        self._thread = threading.Thread(target=self._run, name="recorder", daemon=True)
        self._thread.start()
        self._opened.wait()
        assert self._store is not None  # noqa: S101  # else `wait` has raised
        self.photos: PhotoFolder = PhotoFolder(photos_of(self._store.path))

    def record(self, event: Mapping[str, Any]) -> Recorded:
        """Record one comparison, given in the vendor's fields.

        Returns when the event is durable and the agent is about to publish its match. By then its
        photographs are in the folder beside the store, or lost if the disk did not take them.

        Raises:
            EventError: a field is missing or wrong, or the event is too large. Nothing is recorded.
            StoreError: the store failed. Nothing is recorded.
        """
        read, photographs = read_source(event)
        self.photos.keep_or_lose(photographs)
        return self.record_all([read])[0]

    def record_all(self, events: Sequence[Event]) -> list[Recorded]:
        """Record checked events in one commit, all or none. Raises `StoreError`."""
        if not events:
            return []
        with self._lock:
            if self.closed:
                raise StoreError("the recorder is closed")
            group = self._gathering
            start = len(group.events)
            group.events.extend(events)
            self._lock.notify()
        group.wait()
        assert group.appended is not None  # noqa: S101  # set before `finish`
        first = group.appended.first + start
        return [Recorded(group.appended.epoch, seq) for seq in range(first, first + len(events))]

    @property
    def pending(self) -> int:
        """Events that wait for the next commit."""
        with self._lock:
            return len(self._gathering.events)

    def close(self) -> None:
        """Commit the pending events, and close the store."""
        with self._lock:
            self.closed = True
            self._lock.notify()
        self._thread.join()

    def __enter__(self) -> "Recorder":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _run(self) -> None:
        try:
            self._store = self._open_store()
        except Exception as exc:  # noqa: BLE001  # raised in the caller's thread
            self._opened.error = exc
            return
        finally:
            self._opened.finish()
        while group := self._next_group():
            self._commit(group)
        self._close_store()

    def _next_group(self) -> _Group | None:
        with self._lock:
            while not self._gathering.events and not self.closed:
                self._lock.wait()
            group, self._gathering = self._gathering, _Group()
        return group if group.events else None

    def _commit(self, group: _Group) -> None:
        try:
            group.appended = self._append(group.events)
        except Exception as exc:  # noqa: BLE001  # raised in the callers' threads
            group.error = exc
        else:
            self._call_on_commit()
        group.finish()

    def _append(self, events: Sequence[Event]) -> Appended:
        try:
            return self._current_store().append(events)
        except ReplacedError as exc:
            log.warning("store opened anew error=%s", exc)
            self._close_store()
            return self._current_store().append(events)

    def _current_store(self) -> Store:
        if self._store is None:
            self._store = self._open_store()
        return self._store

    def _close_store(self) -> None:
        store, self._store = self._store, None
        if store is not None:
            store.close()

    def _call_on_commit(self) -> None:
        # The events are durable: an error in the callback is not the callers'.
        try:
            self._on_commit()
        except Exception:
            log.exception("on_commit failed")
