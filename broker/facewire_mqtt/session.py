"""One clean MQTT 3.1.1 session: a paho client that is used once. The only door to paho.

run() ─▶ connect ─▶ subscribe ─▶ up ─▶ Received* ─▶ end(), from any thread ─▶ run() returns
"""

import contextlib
import logging
import socket
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Final

from paho.mqtt import client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode
from paho.mqtt.reasoncodes import ReasonCode

from facewire.codec import MAX_PAYLOAD_BYTES
from facewire_mqtt.address import Address, tls_context
from facewire_mqtt.happenings import Connected, Happening, Publication, Reached, Received, Refused
from facewire_mqtt.reasons import doubt, reason_of_end

log = logging.getLogger(__name__)

#: Filters in one SUBSCRIBE. A gate may have thousands of devices, and a broker limits the packet.
SUBSCRIBED_AT_ONCE: Final = 100
#: A broker that accepts the socket and then says nothing has this long to answer, s.
CONNECT_TIMEOUT: Final = 10.0
#: QoS 0 messages are refused while one has waited longer than this for a slow socket, s, because
#: they would be late. A burst of up to MAX_UNSENT_BYTES is not refused.
MAX_UNSENT_AGE: Final = 1.0
MAX_UNSENT_BYTES: Final = 8 * 1024 * 1024
#: QoS 1 messages that may wait for their PUBACK; MQTT can tell 65,535 apart (section 2.3.1).
MAX_UNACKED: Final = 20_000
#: Give up on a DISCONNECT after this long if a stuck broker does not read it, s.
DISCONNECT_TIMEOUT: Final = 0.5
#: paho reads a packet of up to 256 MB whole. We read it in pieces of this size, bytes, and of a
#: longer one than any message may be we keep only the beginning: its reader then refuses it.
PIECE_BYTES: Final = 64 * 1024
MOST_BODY_BYTES: Final = MAX_PAYLOAD_BYTES + PIECE_BYTES  # room for its topic
#: PUBLISH with QoS 2, and the bits of a first byte that tell so.
_QOS_2, _TYPE_AND_QOS = 0x34, 0xF6


class _Client(paho.Client):
    """A paho client that reports the end of its thread: nobody else notices an exception there.

    It also bounds what a broker can make it keep: the bytes of one packet, and messages of QoS 2,
    which paho would hold until a PUBREL arrives. We subscribe with QoS 0 and 1 alone.
    """

    def __init__(self, client_id: str, ended: Callable[[str], None]) -> None:
        super().__init__(
            CallbackAPIVersion.VERSION2, client_id=client_id, clean_session=True, protocol=paho.MQTTv311, reconnect_on_failure=False
        )
        self._ended = ended

    def forget(self) -> None:
        """Drop the callbacks: the cycle would keep the sockets open until a garbage collection."""
        self.on_socket_open = self.on_connect = self.on_subscribe = self.on_message = self.on_disconnect = None
        self._ended = lambda _: None

    def _packet_read(self) -> MQTTErrorCode:
        # It reads up to 100 pieces, and goes on at the next call.
        code: MQTTErrorCode = super()._packet_read()
        del self._in_packet["packet"][MOST_BODY_BYTES:]
        return code

    def _sock_recv(self, bufsize: int) -> bytes:
        if self._in_packet["command"] & _TYPE_AND_QOS == _QOS_2:
            self._ended("broker sent QoS 2, which we never ask for")
            raise ConnectionError
        return super()._sock_recv(min(bufsize, PIECE_BYTES))

    def loop_forever(self, timeout: float = 1.0, retry_first_connection: bool = False) -> MQTTErrorCode:
        try:
            return super().loop_forever(timeout, retry_first_connection)
        except Exception as exc:
            log.exception("network thread failed")
            self._ended(f"network thread failed: {exc}")
            return MQTTErrorCode.MQTT_ERR_PROTOCOL
        finally:
            self._ended("network thread ended")


class _Unsent:
    """QoS 0 messages that paho has not written to the socket, oldest first."""

    def __init__(self) -> None:
        #: paho's record of each message, its size, and since when it waits.
        self._waiting: deque[tuple[paho.MQTTMessageInfo, int, float]] = deque()
        self._size_bytes = 0

    def has_room(self, size_bytes: int, now: float) -> bool:
        while self._waiting and self._waiting[0][0].is_published():
            self._size_bytes -= self._waiting.popleft()[1]
        if not self._waiting:
            return True
        return now - self._waiting[0][2] <= MAX_UNSENT_AGE and self._size_bytes + size_bytes <= MAX_UNSENT_BYTES

    def append(self, info: paho.MQTTMessageInfo, size_bytes: int, now: float) -> None:
        self._waiting.append((info, size_bytes, now))
        self._size_bytes += size_bytes


class Session:
    """One paho client, from its connect to its end.

    Args:
        address: the broker.
        client_id: MQTT client id.
        subscriptions: (filter, QoS) pairs.
        handler: called with each happening, on paho's thread.
        up: called with the session once it can publish, before the handler.

    Attributes:
        up_at: when the broker had accepted us and granted every subscription, monotonic, s; None
            before.
        reached: how far it got.
    """

    def __init__(
        self,
        address: Address,
        client_id: str,
        subscriptions: list[tuple[str, int]],
        handler: Callable[[Happening], None],
        up: "Callable[[Session], None]",
    ) -> None:
        self._address = address
        self._client_id = client_id
        self._subscriptions = subscriptions
        self._handler = handler
        self._up = up
        self._ended = threading.Event()
        self._settled = threading.Event()
        self._gone = threading.Event()
        #: Subscriptions that the broker has granted, the first ones.
        self._granted = 0
        self._reason = "closed"
        self._graceful = False
        self._unsent = _Unsent()
        #: QoS 1 messages without a PUBACK, oldest first.
        self._unacked: deque[paho.MQTTMessageInfo] = deque()
        self.up_at: float | None = None
        self.reached: Reached = "nothing"

    @property
    def was_up(self) -> bool:
        return self.up_at is not None

    def run(self, will: Publication | None, keepalive: int) -> str:
        """Run the session; returns why it ended.

        Raises:
            OSError, ValueError: it could not begin.
        """
        if self._ended.is_set():
            return self._reason
        client = self._client = self._make_client(will)
        try:
            client.connect(self._address.host, self._address.port, keepalive)
            client.loop_start()
            if not self._settled.wait(CONNECT_TIMEOUT):
                self.end(f"no answer within {CONNECT_TIMEOUT:g} s{doubt(self.reached, tls=self._address.tls)}")
            self._ended.wait()
            self._hang_up(client)
        finally:
            client.forget()
        return self._reason

    def _make_client(self, will: Publication | None) -> _Client:
        client, address = _Client(self._client_id, self.end), self._address
        if address.username is not None:
            client.username_pw_set(address.username, address.password)
        if context := tls_context(address):
            client.tls_set_context(context)
        if will is not None:
            client.will_set(will.topic, will.payload, will.qos, will.retain)
        client.connect_timeout = CONNECT_TIMEOUT
        # paho would allow 20 messages on their way: 400 acks a second if the broker is 50 ms away.
        # `publish` has its own limits.
        client.max_inflight_messages_set(0)
        client.on_socket_open = self._on_socket_open
        client.on_connect = self._on_connect
        client.on_subscribe = self._on_subscribe
        client.on_message = self._on_message
        client.on_disconnect = self._on_disconnect
        return client

    def _hang_up(self, client: _Client) -> None:
        if self._graceful:
            client.disconnect()
            self._gone.wait(DISCONNECT_TIMEOUT)
        if isinstance(sock := client.socket(), socket.socket):
            # paho's loop would wait until a stuck socket takes the queued bytes. SSLSocket's own
            # shutdown would make it a plain socket, and paho would read encrypted bytes.
            with contextlib.suppress(OSError):
                socket.socket.shutdown(sock, socket.SHUT_RDWR)
        client.loop_stop()

    def publish(self, message: Publication) -> bool:
        """Give a message to paho; False if the session has ended or its socket does not keep up."""
        now = time.monotonic()
        if self._ended.is_set() or not self._has_room(message, now):
            return False
        info = self._client.publish(message.topic, message.payload, message.qos, message.retain)
        if info.rc != MQTTErrorCode.MQTT_ERR_SUCCESS:
            return False  # not kept, because `is_published` of such an info raises
        if message.qos:
            self._unacked.append(info)
        else:
            self._unsent.append(info, len(message.payload), now)
        return True

    def _has_room(self, message: Publication, now: float) -> bool:
        if not message.qos:
            return self._unsent.has_room(len(message.payload), now)
        while self._unacked and self._unacked[0].is_published():
            self._unacked.popleft()
        return len(self._unacked) < MAX_UNACKED

    def close(self, last: Publication | None, timeout: float) -> None:
        """Publish a last message, wait up to `timeout` seconds for its PUBACK, and end."""
        sent = last is None or (self.was_up and not self._ended.is_set() and self._publish_last(last, timeout))
        if not sent and self.was_up:
            log.warning("last message not sent")
        # Without its last message the session must end like a failure, so that the broker publishes
        # the will.
        self.end("closed", graceful=sent or not self.was_up)

    def _publish_last(self, last: Publication, timeout: float) -> bool:
        info = self._client.publish(last.topic, last.payload, last.qos, last.retain)
        deadline = time.monotonic() + timeout
        try:
            while not info.is_published() and not self._ended.is_set() and time.monotonic() < deadline:
                info.wait_for_publish(min(timeout, 0.1))
            return info.is_published()
        except (RuntimeError, ValueError):
            return False

    def end(self, reason: str, *, graceful: bool = False) -> None:
        """Make `run` return. From any thread; the first reason counts."""
        if not self._ended.is_set():
            self._reason, self._graceful = reason, graceful
            self._ended.set()
            self._settled.set()

    def _on_socket_open(self, _client: object, _userdata: object, sock: Any) -> None:
        self.reached = "port"
        # Without it one message in a thousand waits 30 ms for Nagle's algorithm and a delayed ACK.
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def _on_connect(self, _client: object, _userdata: object, _flags: object, code: ReasonCode, *_: object) -> None:
        self.reached = "broker"
        if code.is_failure:
            if code.value in {0x86, 0x87, 0x8C}:  # bad user name or password, not authorized
                self._handler(Refused(str(code), credentials=True))
            self.end(str(code))
        else:
            self._subscribe_on()

    def _subscribe_on(self) -> None:
        """Subscribe the next filters, or be up if there are none."""
        if asked := self._subscriptions[self._granted :][:SUBSCRIBED_AT_ONCE]:
            self._client.subscribe(asked)
        else:
            self._is_up()

    def _on_subscribe(self, _client: object, _userdata: object, _mid: int, codes: list[ReasonCode], *_: object) -> None:
        asked = self._subscriptions[self._granted :][:SUBSCRIBED_AT_ONCE]
        refused = [name for (name, _qos), code in zip(asked, codes, strict=False) if code.is_failure]
        if refused:
            self._handler(Refused(f"subscription to {', '.join(refused)} refused"))
            self.end("subscription refused")
        else:
            self._granted += len(asked)
            self._subscribe_on()

    def _is_up(self) -> None:
        self.up_at = time.monotonic()
        self._settled.set()
        self._up(self)
        self._handler(Connected())

    def _on_message(self, _client: object, _userdata: object, message: paho.MQTTMessage) -> None:
        try:
            topic = message.topic
        except UnicodeDecodeError:
            log.warning("ignored topic that is not UTF-8")
            return
        payload = bytes(memoryview(message.payload)[: MAX_PAYLOAD_BYTES + 1])
        self._handler(Received(topic, payload, message.qos, message.retain))

    def _on_disconnect(self, _client: object, _userdata: object, _flags: object, code: ReasonCode, *_: object) -> None:
        self.end(reason_of_end(code.value, self.reached, tls=self._address.tls))
        self._gone.set()
