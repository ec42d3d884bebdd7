"""A connection that comes back: one clean MQTT session after another (MQTT 3.1.1).

Each session has its own paho client and throws it away at the end. paho keeps QoS 1 messages in
memory and sends them after a reconnect, however late. Here nothing outlives its session, so the
only queue is the publisher's store. For the same reason paho gets nothing while there is no
session.

    start() ─▶ connect ─▶ Connected ─▶ Received* ─▶ Disconnected ─▶ wait (jitter) ─▶ connect ...

One handler hears of everything, on a thread of ours or of paho's, never on both at once. It may
only fill an inbox.
"""

import logging
import random
import threading
import time
from collections.abc import Callable, Sequence

from facewire_mqtt.address import Address, TlsFailed
from facewire_mqtt.backoff import Backoff
from facewire_mqtt.happenings import Disconnected, Happening, Publication
from facewire_mqtt.reasons import Reasons
from facewire_mqtt.session import Session
from facewire_system.failures import reason_of

log = logging.getLogger(__name__)


class Connection:
    """Keeps a session with a broker up.

    Args:
        address: the broker.
        client_id: MQTT client id.
        subscriptions: (filter, QoS) pairs, subscribed in every session.
        handler: called with each happening; must return at once. An exception of it is logged and
            ends the session.
        will: makes the last will of a new session; called at its start.
        keepalive: seconds of silence after which either side pings.
        quiet: do not log why there is no connection, because the handler does.
    """

    def __init__(
        self,
        address: Address,
        client_id: str,
        subscriptions: Sequence[tuple[str, int]],
        handler: Callable[[Happening], None],
        *,
        will: Callable[[], Publication] | None = None,
        keepalive: int = 30,
        quiet: bool = False,
    ) -> None:
        self._address = address
        self._client_id = client_id
        self._subscriptions = list(subscriptions)
        self._handler = handler
        self._will = will
        self._keepalive = keepalive
        self._stopping = threading.Event()
        #: The present session, up or not. `_run` sets this and then reads `_stopping`; `close` does
        #: both in the opposite order, so that one of them always ends the session.
        self._latest: Session | None = None
        self._session: Session | None = None
        #: The session that we ended ourselves.
        self._given_up: Session | None = None
        self._backoff = Backoff()
        self._quiet = quiet
        self._reasons = Reasons()
        self._thread = threading.Thread(target=self._run, name=f"mqtt {client_id}", daemon=True)

    def start(self) -> None:
        """Begin, and go on until `close`."""
        self._thread.start()

    def publish(self, message: Publication) -> bool:
        """Give a message to the session; False if there is none, or its socket does not keep up.

        Only one thread may publish.
        """
        session = self._session
        return session is not None and session.publish(message)

    def reconnect(self, reason: str) -> None:
        """End a session that has become useless, and begin another."""
        if session := self._session:
            self._given_up = session
            session.end(reason)

    def close(self, last: Publication | None = None, *, timeout: float = 3.0) -> None:
        """Publish a last message if there is a session, wait for its PUBACK, and disconnect."""
        self._stopping.set()
        if session := self._latest:
            session.close(last, timeout)
        if self._thread.is_alive():
            self._thread.join(timeout)

    def _run(self) -> None:
        while True:
            session = self._latest = Session(self._address, self._client_id, self._subscriptions, self._handler, self._adopt)
            if self._stopping.is_set():
                return
            reason = self._live(session)
            self._session = self._latest = None
            self._tell_safely(Disconnected(reason, session.reached))
            self._note_end(session)
            self._note_reason(session, reason)
            self._given_up = None
            del session  # paho closes its sockets when nobody refers to it
            # Jitter, so that a fleet does not reconnect in step
            # (https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/).
            self._stopping.wait(self._backoff.wait * random.uniform(0.5, 1.0))  # noqa: S311  # jitter is no secret

    def _note_end(self, session: Session) -> None:
        now = time.monotonic()
        up_for = None if session.up_at is None else now - session.up_at
        if self._backoff.ended(now, up_for, by_us=session is self._given_up or self._stopping.is_set()):
            log.warning(
                "the broker ends our sessions: somebody else uses this id, or the broker drops us client_id=%s in_a_row=%d takeovers_in_a_minute=%d",
                self._client_id,
                self._backoff.in_a_row,
                self._backoff.takeovers(now),
            )

    def _note_reason(self, session: Session, reason: str) -> None:
        """Say why there was no session, once for each change of reason."""
        if session.up_at is not None:
            self._reasons.connected()
        elif not self._quiet and not self._stopping.is_set() and self._reasons.is_news(reason, time.monotonic()):
            log.warning("no connection broker=%s client_id=%s reason=%s", self._address, self._client_id, reason)

    def _live(self, session: Session) -> str:
        try:
            return session.run(self._will() if self._will else None, self._keepalive)
        except OSError as exc:
            session.reached = "port" if isinstance(exc, TlsFailed) else "nothing"
            return reason_of(exc)
        except ValueError as exc:
            return str(exc) or type(exc).__name__
        except Exception:
            log.exception("session failed broker=%s", self._address)
            return "internal error"

    def _tell_safely(self, happening: Happening) -> None:
        # The thread that brings the connection back must outlive a handler's mistake.
        try:
            self._handler(happening)
        except Exception:
            log.exception("handler failed happening=%s", type(happening).__name__)

    def _adopt(self, session: Session) -> None:
        self._session = session
