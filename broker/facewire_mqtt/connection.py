"""A connection that comes back: one clean MQTT session after another (MQTT 3.1.1).

Each session has a paho client of its own, which is thrown away with it. paho keeps QoS 1 messages in memory
and sends them after a reconnect, as late as it may be; here nothing outlives its session, so the only queue is
the store of whoever publishes. For the same reason nothing is handed to paho while there is no session.

    start() ──▶ connect ──▶ subscribed ──▶ Connected ──▶ Received* ──▶ Disconnected ──▶ wait (jitter) ──▶ connect ...

What happens is told to one handler, on paho's thread: it may only fill an inbox.
"""

import contextlib
import functools
import logging
import random
import socket
import ssl
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

from paho.mqtt import client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode
from paho.mqtt.reasoncodes import ReasonCode

log = logging.getLogger(__name__)

#: A broker that accepts the socket and then says nothing is given this long, s.
CONNECT_TIMEOUT: Final = 10.0
#: The wait before a new session doubles from the first to the second of these, s.
RECONNECT_WAIT: Final = (0.5, 30.0)
#: QoS 0 messages that may wait for a slow socket; more are refused, as they would come late.
MAX_UNSENT: Final = 200


@dataclass(frozen=True, slots=True)
class Address:
    """Where a broker is, and as whom we come."""

    host: str = "127.0.0.1"
    port: int = 1883
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    #: Certificate authority, our certificate and its key: PEM files. Any of them turns TLS on.
    cafile: str | None = None
    cert: str | None = None
    key: str | None = field(default=None, repr=False)

    @property
    def tls(self) -> bool:
        return any((self.cafile, self.cert, self.key))

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


def tls_context(address: Address) -> ssl.SSLContext | None:
    """What TLS needs of an address; None where it does without.

    Raises:
        ValueError: a file cannot be used; names it.
    """
    if not address.tls:
        return None
    named = address.cafile
    try:
        context = ssl.create_default_context(cafile=named)
        if named := address.cert:
            context.load_cert_chain(named, address.key)
    except OSError as exc:  # of which SSLError is one
        raise ValueError(f"{named}: {exc.strerror or exc}") from exc
    return context


@dataclass(frozen=True, slots=True)
class Connected:
    """A session is up and every subscription granted."""


@dataclass(frozen=True, slots=True)
class Disconnected:
    """The session ended, or did not come about."""

    reason: str


@dataclass(frozen=True, slots=True)
class Refused:
    """The broker refused who we are, or a subscription. The connection goes on trying."""

    reason: str


@dataclass(frozen=True, slots=True)
class Received:
    """A message came."""

    topic: str
    payload: bytes
    qos: int
    retain: bool


Happening: TypeAlias = Connected | Disconnected | Refused | Received


@dataclass(frozen=True, slots=True)
class Publication:
    """A message to publish, such as a last will."""

    topic: str
    payload: bytes
    qos: int = 1
    retain: bool = False


class Connection:
    """Keeps a session with a broker up.

    Args:
        address: the broker.
        client_id: MQTT client id.
        subscriptions: (filter, QoS) pairs, subscribed in every session.
        handler: is told what happens, on paho's thread; must return at once.
        will: makes the last will of a new session; called when it starts.
        keepalive: seconds of silence after which the broker and we ask for a sign of life.
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
    ) -> None:
        self._address = address
        self._client_id = client_id
        self._subscriptions = list(subscriptions)
        self._handler = handler
        self._will = will
        self._keepalive = keepalive
        self._stopping = threading.Event()
        self._session: _Session | None = None
        self._thread = threading.Thread(target=self._run, name=f"mqtt {client_id}", daemon=True)

    def start(self) -> None:
        """Begin, and go on until `close`."""
        self._thread.start()

    def publish(self, message: Publication) -> bool:
        """Hand a message to the session; False where there is none, or its socket is not keeping up.

        One thread publishes.
        """
        session = self._session
        return session is not None and session.publish(message)

    def reconnect(self, reason: str) -> None:
        """End the session, which has stopped to be of use, and begin another."""
        if session := self._session:
            session.end(reason)

    def close(self, last: Publication | None = None, *, timeout: float = 3.0) -> None:
        """Publish a last message if there is a session, wait for its PUBACK, and disconnect."""
        self._stopping.set()
        if session := self._session:
            session.close(last, timeout)
        if self._thread.is_alive():
            self._thread.join(timeout)

    def _run(self) -> None:
        shortest, longest = RECONNECT_WAIT
        wait = shortest
        while not self._stopping.is_set():
            session = _Session(self._handler, self._subscriptions)
            try:
                reason = session.run(self._client(session), self._address, self._keepalive, functools.partial(self._adopt, session))
            except Exception:
                log.exception("session failed broker=%s", self._address)
                reason = "internal error"
            self._session = None
            self._handler(Disconnected(reason))
            wait = shortest if session.was_up else min(wait * 2, longest)
            # Full jitter, lest a fleet comes back in step (https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/).
            self._stopping.wait(wait * random.uniform(0.5, 1.0))  # noqa: S311  # jitter is no secret

    def _adopt(self, session: "_Session") -> None:
        self._session = session

    def _client(self, session: "_Session") -> paho.Client:
        client = paho.Client(
            CallbackAPIVersion.VERSION2,
            client_id=self._client_id,
            clean_session=True,
            protocol=paho.MQTTv311,
            reconnect_on_failure=False,
        )
        address = self._address
        if address.username is not None:
            client.username_pw_set(address.username, address.password)
        if context := tls_context(address):
            client.tls_set_context(context)
        if self._will is not None:
            will = self._will()
            client.will_set(will.topic, will.payload, will.qos, will.retain)
        client.connect_timeout = CONNECT_TIMEOUT
        session.attach(client)
        return client


class _Session:
    """One paho client from its connect to its end."""

    def __init__(self, handler: Callable[[Happening], None], subscriptions: list[tuple[str, int]]) -> None:
        self._handler = handler
        self._subscriptions = subscriptions
        self._ended = threading.Event()
        self._settled = threading.Event()
        self._reason = "closed"
        self._graceful = False
        self._unsent: deque[paho.MQTTMessageInfo] = deque()
        self.was_up = False
        self._up: Callable[[], None] = lambda: None

    def attach(self, client: paho.Client) -> None:
        self._client = client
        client.on_socket_open = _no_delay
        client.on_connect = self._guard(self._on_connect)
        client.on_subscribe = self._guard(self._on_subscribe)
        client.on_message = self._guard(self._on_message)
        client.on_disconnect = self._guard(self._on_disconnect)

    def run(self, client: paho.Client, address: Address, keepalive: int, up: Callable[[], None]) -> str:
        """Live the session; returns why it ended."""
        self._up = up
        try:
            client.connect(address.host, address.port, keepalive)
        except (OSError, ValueError) as exc:
            return str(exc) or type(exc).__name__
        client.loop_start()
        if not self._settled.wait(CONNECT_TIMEOUT) and not self._ended.is_set():
            self.end(f"no answer within {CONNECT_TIMEOUT:g} s")
        self._ended.wait()
        if self._graceful:
            client.disconnect()
        elif isinstance(sock := client.socket(), socket.socket):
            # paho's loop would wait for a stuck socket to take what is queued.
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        client.loop_stop()
        return self._reason

    def publish(self, message: Publication) -> bool:
        while self._unsent and self._unsent[0].is_published():
            self._unsent.popleft()
        if self._ended.is_set() or (message.qos == 0 and len(self._unsent) >= MAX_UNSENT):
            return False
        info = self._client.publish(message.topic, message.payload, message.qos, message.retain)
        if message.qos == 0:
            self._unsent.append(info)
        return info.rc == MQTTErrorCode.MQTT_ERR_SUCCESS

    def close(self, last: Publication | None, timeout: float) -> None:
        sent = True
        if last is not None and not self._ended.is_set():
            info = self._client.publish(last.topic, last.payload, last.qos, last.retain)
            try:
                info.wait_for_publish(timeout)
            except (RuntimeError, ValueError):
                log.warning("last message not sent topic=%s", last.topic)
            sent = info.is_published()
        self.end("closed", graceful=sent)

    def end(self, reason: str, *, graceful: bool = False) -> None:
        if not self._ended.is_set():
            self._reason, self._graceful = reason, graceful
            self._ended.set()
            self._settled.set()

    def _guard(self, callback: Callable[..., None]) -> Callable[..., None]:
        """An exception in a callback would end paho's thread in silence: it ends the session instead."""

        def guarded(_client: paho.Client, _userdata: object, *args: Any) -> None:
            try:
                callback(*args)
            except Exception:
                log.exception("callback failed name=%s", callback.__name__)
                self.end("internal error")

        return guarded

    def _on_connect(self, _flags: object, code: ReasonCode, *_: object) -> None:
        if code.is_failure:
            if code.value in {0x86, 0x87, 0x8C}:  # bad user name or password, not authorized
                self._handler(Refused(str(code)))
            self.end(str(code))
        elif self._subscriptions:
            self._client.subscribe(self._subscriptions)
        else:
            self._is_up()

    def _on_subscribe(self, _mid: int, codes: list[ReasonCode], *_: object) -> None:
        refused = [name for (name, _qos), code in zip(self._subscriptions, codes, strict=False) if code.is_failure]
        if refused:
            self._handler(Refused(f"subscription to {', '.join(refused)} refused"))
            self.end("subscription refused")
        else:
            self._is_up()

    def _is_up(self) -> None:
        self.was_up = True
        self._settled.set()
        self._up()
        self._handler(Connected())

    def _on_message(self, message: paho.MQTTMessage) -> None:
        try:
            topic = message.topic
        except UnicodeDecodeError:
            log.warning("ignored topic that is not UTF-8")
            return
        self._handler(Received(topic, bytes(message.payload), message.qos, message.retain))

    def _on_disconnect(self, _flags: object, code: ReasonCode, *_: object) -> None:
        self.end(str(code))


def _no_delay(_client: paho.Client, _userdata: Any, sock: Any) -> None:
    # Without it one message in a thousand waits 30 ms for Nagle's algorithm and a delayed ack.
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
