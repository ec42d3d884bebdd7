import gc
import queue
import shutil
import socket
import ssl
import subprocess
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import pytest
from mosquitto_server import Mosquitto
from paho.mqtt import client as paho
from paho.mqtt.enums import MQTTErrorCode
from waiting import WITHIN, wait_until

from facewire.codec import MAX_PAYLOAD_BYTES
from facewire_mqtt import Address, Connected, Connection, Disconnected, Happening, Publication, Received, Refused
from facewire_mqtt import session as session_module
from facewire_mqtt.address import tls_context
from facewire_mqtt.framing import fixed_header

pytestmark = [pytest.mark.network, pytest.mark.mosquitto, pytest.mark.usefixtures("quick_reconnects")]

H = TypeVar("H", bound=Happening)
NewMosquitto = Callable[..., Mosquitto]


class Client:
    """A connection whose happenings can be waited for."""

    def __init__(self, address: Address, *filters: str, name: str = "test", will: Publication | None = None, qos: int = 1) -> None:
        self.happenings: queue.SimpleQueue[Happening] = queue.SimpleQueue()
        self.connection = Connection(
            address, name, [(item, qos) for item in filters], self.handle, will=None if will is None else lambda: will
        )

    def handle(self, happening: Happening) -> None:
        self.happenings.put(happening)

    def wait(self, kind: type[H], timeout: float = WITHIN) -> H:
        """The next happening of this kind."""
        deadline = time.monotonic() + timeout
        while True:
            happening = self.happenings.get(timeout=max(0.0, deadline - time.monotonic()))
            if isinstance(happening, kind):
                return happening

    def publish(self, topic: str, payload: bytes, **more: int) -> bool:
        return self.connection.publish(Publication(topic, payload, **more))  # type: ignore[arg-type]  # retain may be 1


@contextmanager
def running(client: Client, *, up: bool = True) -> Iterator[Client]:
    client.connection.start()
    try:
        if up:
            client.wait(Connected)
        yield client
    finally:
        client.connection.close(timeout=1.0)


def test_a_message_arrives_as_it_was_published(mosquitto: Address) -> None:
    with running(Client(mosquitto, "t/+")) as client:
        assert client.publish("t/a", b"\x00\xff", qos=1)
        assert client.wait(Received) == Received("t/a", b"\x00\xff", 1, retain=False)
        assert client.publish("t/b", b"", qos=0)
        assert client.wait(Received) == Received("t/b", b"", 0, retain=False)


def test_two_clients_with_one_id_say_that_somebody_else_uses_it(mosquitto: Address, caplog: pytest.LogCaptureFixture) -> None:
    first, second = (Client(mosquitto, "t", name="cloned") for _ in range(2))
    with running(first), running(second, up=False):
        wait_until(lambda: "somebody else uses this id" in caplog.text)
    assert "client_id=cloned in_a_row=3 takeovers_in_a_minute=3" in caplog.text


def test_a_session_comes_back_with_its_subscriptions_after_the_broker_was_killed(new_mosquitto: NewMosquitto) -> None:
    broker = new_mosquitto()
    with running(Client(broker.address, "t")) as client:
        for life in (b"1", b"2"):
            broker.kill()
            client.wait(Disconnected)
            broker.start()
            client.wait(Connected)
            assert client.publish("t", life)
            assert client.wait(Received).payload == life


def test_nothing_published_while_the_broker_is_down_is_sent_later(new_mosquitto: NewMosquitto) -> None:
    broker = new_mosquitto()
    with running(Client(broker.address, "t")) as client:
        broker.kill()
        # The first may still find the socket open and is lost with it. All later ones are refused.
        taken = [client.publish("t", b"late", qos=qos) for qos in (1, 0, 1, 0)]
        client.wait(Disconnected)
        assert not client.publish("t", b"late")
        broker.start()
        client.wait(Connected)
        assert client.publish("t", b"now")
        assert client.wait(Received).payload == b"now", taken


def test_publishing_at_the_moment_of_the_loss_never_raises(new_mosquitto: NewMosquitto) -> None:
    broker = new_mosquitto()
    with running(Client(broker.address)) as client:
        broker.kill()
        wait_until(
            lambda: not (client.publish("t", b"x", qos=0) or client.publish("t", b"x", qos=1) or client.happenings.empty()), interval=0.0
        )
        assert isinstance(client.happenings.get(), Disconnected)


@pytest.mark.parametrize("kind", [Connected, Received, Disconnected])
def test_a_handler_that_raises_does_not_kill_the_connection(
    new_mosquitto: NewMosquitto, kind: type[Happening], caplog: pytest.LogCaptureFixture
) -> None:
    broker = new_mosquitto()
    failures = [kind]

    class Failing(Client):
        def handle(self, happening: Happening) -> None:
            super().handle(happening)
            if failures and type(happening) is failures[0]:
                failures.clear()
                raise RuntimeError("handler's mistake")

    with running(Failing(broker.address, "t")) as client:
        if kind is Received:
            client.publish("t", b"1")
        if kind is Disconnected:
            broker.kill()
            broker.start()
        client.wait(Disconnected)
        client.wait(Connected)
        assert client.publish("t", b"2")
        assert client.wait(Received).payload == b"2"
    assert "handler's mistake" in caplog.text


def test_reconnect_begins_another_session(mosquitto: Address) -> None:
    with running(Client(mosquitto, "t")) as client:
        client.connection.reconnect("no sign of life")
        assert client.wait(Disconnected).reason == "no sign of life"
        client.wait(Connected)


@pytest.mark.parametrize("password", ["wrong", None])
def test_a_wrong_password_is_reported_as_refused_credentials(tmp_path: Path, new_mosquitto: NewMosquitto, password: str | None) -> None:
    file = tmp_path / "passwords"
    hasher = shutil.which("mosquitto_passwd") or pytest.skip("Mosquitto is not installed (apt-get install mosquitto)")
    subprocess.run([hasher, "-c", "-b", str(file), "ops", "right"], check=True)
    address = new_mosquitto(f"password_file {file}").address
    known = Address(port=address.port, username="ops" if password else None, password=password)
    with running(Client(known, "t"), up=False) as client:
        assert client.wait(Refused).credentials
        client.wait(Disconnected)
        assert client.wait(Refused).credentials, "it goes on trying"
    with running(Client(Address("127.0.0.1", address.port, "ops", "right"))):
        pass


def test_the_will_is_published_when_a_session_is_lost_and_not_when_it_is_closed(mosquitto: Address) -> None:
    will = Publication("will", b"gone", retain=False)
    with running(Client(mosquitto, "will", "last", name="watcher")) as watcher:
        with running(Client(mosquitto, name="a", will=will)) as client:
            client.connection.reconnect("lost")
            assert watcher.wait(Received).payload == b"gone"
            client.wait(Connected)
            client.connection.close(Publication("last", b"bye"))
        with running(Client(mosquitto, name="b")) as other:
            other.publish("last", b"after")
            assert [watcher.wait(Received).payload for _ in range(2)] == [b"bye", b"after"]


def test_close_publishes_the_last_message_and_ends_the_thread(mosquitto: Address) -> None:
    with running(Client(mosquitto, "status", name="watcher")) as watcher, running(Client(mosquitto)) as client:
        client.connection.close(Publication("status", b"offline", retain=True))
        assert watcher.wait(Received).payload == b"offline"
        client.wait(Disconnected)
        assert not client.publish("t", b"")
        assert not [thread for thread in threading.enumerate() if thread.name == "mqtt test"]


@pytest.mark.parametrize("last", [None, Publication("status", b"offline")])
def test_close_is_fast_when_the_broker_is_stuck(new_mosquitto: NewMosquitto, last: Publication | None) -> None:
    broker = new_mosquitto()
    with running(Client(broker.address)) as client:
        broker.stop()
        # Past what the kernel's buffers take, as only then is a DISCONNECT stuck too.
        for _ in range(20):
            client.publish("t", bytes(1_000_000), qos=0)
        began = time.monotonic()
        client.connection.close(last, timeout=1.0)
        assert time.monotonic() - began < 8.0
        client.wait(Disconnected)


def test_a_stuck_socket_accepts_a_bounded_number_of_messages(new_mosquitto: NewMosquitto, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session_module, "MAX_UNACKED", 300)
    monkeypatch.setattr(session_module, "MAX_UNSENT_AGE", 60.0)
    broker = new_mosquitto()
    with running(Client(broker.address)) as client:
        broker.stop()
        taken = [client.publish("t", bytes(100_000), qos=0) for _ in range(400)]
        assert session_module.MAX_UNSENT_BYTES // 100_000 <= sum(taken) < 400
        assert not taken[-1]
        assert [client.publish("t", b"", qos=1) for _ in range(301)] == [True] * 300 + [False]


def test_no_message_follows_one_that_waits_too_long_for_a_stuck_socket(
    new_mosquitto: NewMosquitto, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session_module, "MAX_UNSENT_BYTES", 1 << 40)
    monkeypatch.setattr(session_module, "MAX_UNSENT_AGE", 0.05)
    broker = new_mosquitto()
    with running(Client(broker.address)) as client:
        broker.stop()
        wait_until(lambda: not client.publish("t", bytes(100_000), qos=0), interval=0.0)
        assert not client.publish("t", b"", qos=0)


def test_a_healthy_link_accepts_a_whole_burst_of_qos_0_messages(mosquitto: Address, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session_module, "MAX_UNSENT_AGE", 60.0)  # a busy machine may be slow to send
    with running(Client(mosquitto, "t", name="watcher", qos=0)) as watcher, running(Client(mosquitto)) as client:
        assert all(client.publish("t", b"%d" % number, qos=0) for number in range(3_000))
        assert [watcher.wait(Received).payload for _ in range(3_000)] == [b"%d" % number for number in range(3_000)]


def test_many_messages_may_wait_for_their_puback(mosquitto: Address) -> None:
    with running(Client(mosquitto, "t", qos=0)) as client:
        assert all(client.publish("t", b"%d" % number, qos=1) for number in range(1_000))
        assert [client.wait(Received).payload for _ in range(1_000)] == [b"%d" % number for number in range(1_000)]


@contextmanager
def impostor(answer: bytes) -> Iterator[Address]:
    """A listener that sends these bytes to each client, and then nothing."""
    done = threading.Event()

    def serve() -> None:
        held = []
        while not done.is_set():
            try:
                sock, _ = server.accept()
            except OSError:
                break
            held.append(sock)
            sock.sendall(answer)
        for sock in held:
            sock.close()

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield Address(port=server.getsockname()[1])
        finally:
            done.set()
            server.shutdown(socket.SHUT_RDWR)
            thread.join()


@pytest.mark.parametrize(
    "packet", [b"\x30\x01\x00", b"\x30\x03\x00\x09a", b"\x90\x00", b"\x32\x03\x00\x01a", b"\xf0\x00", b"\x30" + b"\xff" * 5]
)
def test_a_malformed_packet_ends_the_session_and_another_begins(packet: bytes) -> None:
    with impostor(b"\x20\x02\x00\x00" + packet) as address, running(Client(address)) as client:
        client.wait(Disconnected)
        client.wait(Connected)


def test_a_packet_of_220_mb_takes_little_memory_and_its_reader_sees_that_it_is_too_large() -> None:
    length, piece = 220 * 1024 * 1024, bytes(1024 * 1024)
    with socket.create_server(("127.0.0.1", 0)) as server, running(Client(Address(port=server.getsockname()[1])), up=False) as client:
        broker, _ = server.accept()
        with broker:
            broker.settimeout(WITHIN)
            tracemalloc.start()
            broker.sendall(b"\x20\x02\x00\x00" + fixed_header(0x32, length) + b"\x00\x01t\x00\x07")
            for _ in range(length // len(piece) - 1):
                broker.sendall(piece)
            broker.sendall(piece[5:] + b"\x30\x04\x00\x01t!")
            received = [client.wait(Received).payload for _ in range(2)]
            peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
            while b"\x40\x02\x00\x07" not in broker.recv(4096):  # its PUBACK, lest the broker sends it for ever
                pass
    assert [len(received[0]), received[1]] == [MAX_PAYLOAD_BYTES + 1, b"!"]
    assert peak < 40 * 1024 * 1024, peak


def test_messages_of_qos_2_which_paho_would_keep_end_the_session() -> None:
    with impostor(b"\x20\x02\x00\x00" + b"\x34\x06\x00\x01t\x00\x07!") as address, running(Client(address)) as client:
        assert client.wait(Disconnected).reason == "broker sent QoS 2, which we never ask for"
        client.wait(Connected)


@pytest.mark.parametrize(
    ("happens", "reason"),
    [(lambda _: 1 / 0, "network thread failed: division by zero"), (lambda _: MQTTErrorCode.MQTT_ERR_UNKNOWN, "network thread ended")],
)
def test_the_end_of_the_network_thread_ends_the_session_and_another_begins(
    mosquitto: Address, monkeypatch: pytest.MonkeyPatch, happens: Callable[[object], object], reason: str
) -> None:
    with running(Client(mosquitto)) as client:
        with monkeypatch.context() as broken:
            broken.setattr(paho.Client, "loop_misc", happens)
            assert client.wait(Disconnected).reason == reason
        client.wait(Connected)


def test_acks_do_not_wait_for_one_another_s_puback() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, running(Client(Address(port=server.getsockname()[1])), up=False) as client:
        broker, _ = server.accept()
        with broker:
            broker.settimeout(WITHIN)
            broker.sendall(b"\x20\x02\x00\x00")
            client.wait(Connected)
            assert all(client.publish("t", b"<ack>", qos=1) for _ in range(50))
            received = b""
            while received.count(b"<ack>") < 50:
                received += broker.recv(4096)


def test_a_message_that_paho_refuses_is_refused_and_forgotten(mosquitto: Address, monkeypatch: pytest.MonkeyPatch) -> None:
    with running(Client(mosquitto)) as client:
        info = paho.MQTTMessageInfo(1)
        info.rc = MQTTErrorCode.MQTT_ERR_NO_CONN
        with monkeypatch.context() as offline:
            offline.setattr(paho.Client, "publish", lambda *_: info)
            assert [client.publish("t", b"", qos=qos) for qos in (0, 0, 1, 1)] == [False] * 4
        assert client.publish("t", b"", qos=0)


def test_a_silent_broker_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session_module, "CONNECT_TIMEOUT", 0.1)
    with impostor(b"") as address, running(Client(address), up=False) as client:
        assert client.wait(Disconnected) == Disconnected("no answer within 0.1 s: another port, or TLS (cafile)?", "port")


def test_a_refused_subscription_is_reported_as_refused() -> None:
    with impostor(b"\x20\x02\x00\x00\x90\x03\x00\x01\x80") as address, running(Client(address, "t/#"), up=False) as client:
        assert client.wait(Refused) == Refused("subscription to t/# refused", credentials=False)


def test_close_before_the_broker_has_answered_ends_it_for_good(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session_module, "CONNECT_TIMEOUT", 60.0)
    with impostor(b"") as address:
        client = Client(address)
        client.connection.start()
        began = time.monotonic()
        client.connection.close(Publication("status", b"offline"))
        assert time.monotonic() - began < 30.0
        assert not [thread for thread in threading.enumerate() if thread.name == "mqtt test"]


def test_a_broker_that_does_not_listen_is_a_state_not_an_error() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with running(Client(Address(port=port)), up=False) as client:
        assert "refused" in client.wait(Disconnected).reason
        assert not client.publish("t", b"")
        client.wait(Disconnected)


def test_sessions_leave_no_socket_open_until_garbage_is_collected(mosquitto: Address) -> None:
    open_files = Path("/proc/self/fd")
    if not open_files.exists():
        pytest.skip("no /proc")
    gc.collect()
    gc.disable()
    try:
        before = len(list(open_files.iterdir()))
        with running(Client(mosquitto, "t")) as client:
            for _ in range(10):
                client.connection.reconnect("again")
                client.wait(Disconnected)
                client.wait(Connected)
        assert len(list(open_files.iterdir())) <= before
    finally:
        gc.enable()


def openssl(folder: Path, *args: str) -> None:
    subprocess.run(["openssl", *args], check=True, cwd=folder, capture_output=True)


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    folder = tmp_path_factory.mktemp("tls")
    new = ("req", "-newkey", "rsa:2048", "-nodes", "-days", "2")
    openssl(folder, *new, "-x509", "-keyout", "ca.key", "-out", "ca.pem", "-subj", "/CN=test CA", "-addext", "keyUsage=keyCertSign")
    for name in ("server", "client"):
        openssl(folder, *new, "-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj", f"/CN={name}")
        (folder / "ext").write_text("subjectAltName=IP:127.0.0.1\n")
        sign = ("x509", "-req", "-in", f"{name}.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2")
        openssl(folder, *sign, "-extfile", "ext", "-out", f"{name}.pem")
    openssl(folder, *new, "-x509", "-keyout", "other.key", "-out", "other.pem", "-subj", "/CN=other CA")
    return folder


def test_tls_by_a_certificate_authority_and_a_client_certificate(certificates: Path, new_mosquitto: NewMosquitto) -> None:
    files = f"cafile {certificates}/ca.pem\ncertfile {certificates}/server.pem\nkeyfile {certificates}/server.key"
    broker = new_mosquitto(f"{files}\nrequire_certificate true\nallow_anonymous true")
    ours = {"cafile": f"{certificates}/ca.pem", "cert": f"{certificates}/client.pem", "key": f"{certificates}/client.key"}
    with running(Client(Address(port=broker.port, **ours), "t")) as client:
        assert client.publish("t", b"x" * 100_000)
        assert client.wait(Received).payload == b"x" * 100_000
        broker.kill()
        client.wait(Disconnected)
        broker.start()
        client.wait(Connected)
    with running(Client(Address(port=broker.port, cafile=ours["cafile"])), up=False) as client:
        closed = Disconnected("the connection was closed before an answer: another port, or our certificate (cert)?", "port")
        assert client.wait(Disconnected) == closed
    with running(Client(Address(port=broker.port, cafile=f"{certificates}/other.pem")), up=False) as client:
        assert client.wait(Disconnected) == Disconnected("certificate verify failed: self-signed certificate in certificate chain", "port")


def test_an_unusable_tls_file_is_named(certificates: Path) -> None:
    ca = str(certificates / "ca.pem")
    assert tls_context(Address()) is None
    assert isinstance(tls_context(Address(cafile=ca)), ssl.SSLContext)
    with pytest.raises(ValueError, match=r"missing\.pem: No such file"):
        tls_context(Address(cafile=str(certificates / "missing.pem")))
    with pytest.raises(ValueError, match=r"ca\.pem: "):
        tls_context(Address(cafile=ca, cert=ca))


def test_a_key_with_a_passphrase_is_refused(certificates: Path) -> None:
    openssl(certificates, "rsa", "-in", "client.key", "-aes256", "-passout", "pass:secret", "-out", "locked.key")
    with pytest.raises(ValueError, match=r"client\.pem: "):
        tls_context(Address(cert=str(certificates / "client.pem"), key=str(certificates / "locked.key")))


def test_an_address_shows_no_secret() -> None:
    address = Address("::1", 1883, "ops", "tops3cret", key="key.pem")
    assert str(address) == "[::1]:1883"
    assert "tops3cret" not in repr(address)
