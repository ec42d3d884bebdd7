"""MQTT 3.1.1 as far as facewire relies on it: the same tests for every broker.

DIFFERENT lists where Mosquitto differs. amqtt 0.12.1's own broker fails most of them, as
FACEWIRE_BROKERS=stock shows (docs/broker.md).
"""

import threading
import zlib
from collections.abc import Iterator

import pytest
from broker_engines import PARAMETERS, anonymous
from mqtt_probe import CONNACK, DISCONNECT, PUBACK, PUBLISH, SUBACK, Probe, connect, packet, publish, subscribe, text

from facewire_mqtt.address import Address

pytestmark = pytest.mark.network

DIFFERENT = {
    "test_mqtt_5_is_refused_with_code_1": "speaks MQTT 5",
    "test_a_dead_members_unacked_messages_go_to_another": "gives them to nobody",
    "test_overlapping_filters_deliver_once_at_the_greater_qos": "delivers at the QoS of either",
    "test_subscribing_at_qos_2_is_granted_1": "grants 2 and delivers at 1 (max_qos)",
    "test_a_shared_subscription_delivers_no_retained_message": "sends it",
    "test_a_malformed_packet_closes_its_connection_and_no_other[mosquitto-ping with a body]": "answers it",
    "test_an_ungraceful_end_publishes_the_will[mosquitto-second CONNECT]": "sends no will after it",
}


@pytest.fixture(scope="module", params=PARAMETERS)
def engine(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Address]]:
    with anonymous(request.param, tmp_path_factory.mktemp("broker")) as address:
        yield request.param, address


@pytest.fixture
def at(engine: tuple[str, Address], request: pytest.FixtureRequest) -> Address:
    name, address = engine
    why = DIFFERENT.get(request.node.name) or DIFFERENT.get(request.node.originalname)
    if name == "mosquitto" and why:
        pytest.skip(f"Mosquitto {why}")
    return address


@pytest.fixture
def t(request: pytest.FixtureRequest) -> str:
    """The test's own topic level, because the tests share a broker."""
    return f"{zlib.crc32(request.node.nodeid.encode()):x}"


# -- quality of service --------------------------------------------------------------------------


@pytest.mark.parametrize("published", [0, 1])
@pytest.mark.parametrize("granted", [0, 1])
def test_a_message_is_delivered_at_the_lesser_qos(at: Address, t: str, published: int, granted: int) -> None:
    with Probe(at, f"{t}a") as one, Probe(at, f"{t}b") as two:
        one.subscribe((t, granted))
        two.publish(t, b"m", published)
        assert one.message().qos == min(published, granted)


@pytest.mark.parametrize("published", [0, 1])
@pytest.mark.parametrize("granted", [0, 1])
def test_a_retained_message_is_delivered_at_the_lesser_qos(at: Address, t: str, published: int, granted: int) -> None:
    with Probe(at, f"{t}a") as one, Probe(at, f"{t}b") as two:
        two.publish(t, b"m", published, retain=True)
        two.ping()
        one.subscribe((t, granted))
        got = one.message()
        assert (got.qos, got.retain) == (min(published, granted), True)


@pytest.mark.parametrize("published", [0, 1])
@pytest.mark.parametrize("granted", [0, 1])
def test_a_will_is_delivered_at_the_lesser_qos(at: Address, t: str, published: int, granted: int) -> None:
    with Probe(at, f"{t}a") as one, Probe(at, f"{t}b", will=(t, b"gone", published, False)) as two:
        one.subscribe((t, granted))
        two.drop()
        got = one.message()
        assert (got.payload, got.qos, got.retain) == (b"gone", min(published, granted), False)


def test_subscribing_again_replaces_the_qos(at: Address, t: str) -> None:
    with Probe(at, f"{t}a") as one, Probe(at, f"{t}b") as two:
        one.subscribe((t, 1))
        one.subscribe((t, 0))
        two.publish(t, b"m", 1)
        assert one.message().qos == 0
        one.subscribe((t, 1))
        two.publish(t, b"m", 1)
        assert one.message().qos == 1
        assert one.has_no_message()


def test_subscribing_again_delivers_the_retained_message_again(at: Address, t: str) -> None:
    with Probe(at, f"{t}a") as one:
        one.publish(t, b"m", retain=True)
        for _ in range(2):
            one.subscribe((t, 0))
            assert one.message().retain


@pytest.mark.parametrize("greater", ["#", "+", "x"])
def test_overlapping_filters_deliver_once_at_the_greater_qos(at: Address, t: str, greater: str) -> None:
    with Probe(at, f"{t}a") as one, Probe(at, f"{t}b") as two:
        one.subscribe(*((f"{t}/{level}", int(level == greater)) for level in "#+x"))
        two.publish(f"{t}/x", b"m", 1)
        assert one.message().qos == 1
        assert one.has_no_message()


def test_subscribing_at_qos_2_is_granted_1(at: Address, t: str) -> None:
    with Probe(at, f"{t}a") as one:
        assert one.subscribe((t, 2), (f"{t}/0", 0), (f"{t}/1", 1)) == [1, 0, 1]


def test_publishing_at_qos_2_ends_the_connection(at: Address, t: str) -> None:
    with Probe(at, f"{t}a") as one:
        one.send(publish(t, b"m", 2))
        assert one.is_closed()


# -- retained messages ---------------------------------------------------------------------------


def test_a_retained_message_is_delivered_only_to_its_subscribers(at: Address, t: str) -> None:
    with Probe(at, f"{t}a") as one, Probe(at, f"{t}b") as two:
        one.subscribe((f"{t}/secret", 1))
        two.publish(f"{t}/secret", b"m", retain=True)
        assert not one.message().retain
        with Probe(at, f"{t}c") as three:
            three.subscribe((f"{t}/other", 1))
            assert three.has_no_message()


def test_a_resumed_session_gets_no_retained_message_again(at: Address, t: str) -> None:
    with Probe(at, f"{t}b") as two:
        two.publish(t, b"m", retain=True)
    with Probe(at, f"{t}a", clean=False) as one:
        one.subscribe((t, 1))
        assert one.message().retain
        one.ping()
        one.disconnect()
    with Probe(at, f"{t}a", clean=False) as one:
        assert one.session_present
        assert one.has_no_message()


def test_an_empty_payload_removes_the_retained_message(at: Address, t: str) -> None:
    with Probe(at, f"{t}a") as one:
        one.publish(t, b"m", retain=True)
        one.publish(t, b"", retain=True)
        one.subscribe((t, 1))
        assert one.has_no_message()


def test_a_wildcard_delivers_every_retained_message_that_it_matches(at: Address, t: str) -> None:
    with Probe(at, f"{t}a") as one:
        for n in range(300):
            one.publish(f"{t}/{n}/status", b"%d" % n, retain=True)
        one.publish(f"{t}/1/other", b"no", retain=True)
        one.subscribe((f"{t}/+/status", 1))
        assert {int(got.payload) for got in one.messages(300)} == set(range(300))
        assert one.has_no_message()


# -- filters -------------------------------------------------------------------------------------

MATCHES = [
    ("a/b", "a/b", True), ("a/b", "a/+", True), ("a/b", "+/b", True), ("a/b", "a/#", True), ("a", "a/#", True), ("a/b/c", "a/+", False),
    ("a/b", "a/b/+", False), ("a//b", "a/+/b", True), ("/a", "+/a", True), ("/a", "a", False), ("a/", "a/+", True), ("a", "a/+", False), ("A", "a", False),
]  # fmt: skip


@pytest.mark.parametrize(("topic", "pattern", "matches"), MATCHES)
def test_a_filter_matches_as_section_4_7_says(at: Address, t: str, topic: str, pattern: str, matches: bool) -> None:
    with Probe(at, f"{t}a") as one:
        one.subscribe((f"{t}/{pattern}", 1))
        one.publish(f"{t}/{topic}")
        assert one.has_no_message() != matches


@pytest.mark.parametrize("pattern", ["a/#/b", "a#", "a+", "+a/b", "", "a/b+/c"])
def test_an_ill_formed_filter_is_refused(at: Address, t: str, pattern: str) -> None:
    with Probe(at, f"{t}a") as one:
        one.send(subscribe((pattern, 0)))
        # The specification allows both: 0x80, or the end of the connection (MQTT-4.8.0-1).
        answer = one.next()
        assert answer is None or answer.body[2:] == b"\x80"


def test_a_leading_wildcard_does_not_match_the_brokers_own_topics(at: Address, t: str) -> None:
    with Probe(at, f"{t}a") as one:
        one.subscribe(("+/broker/uptime", 0))
        one.send(publish(f"$SYS/broker/{t}", b"forged", 0))
        assert one.has_no_message()


def test_nothing_is_delivered_after_unsubscribing(at: Address, t: str) -> None:
    with Probe(at, f"{t}a") as one:
        for pattern in (t, f"{t}/+", f"{t}/#"):
            one.subscribe((pattern, 1))
            one.unsubscribe(pattern)
        one.publish(t)
        one.publish(f"{t}/x")
        assert one.has_no_message()


# -- sessions ------------------------------------------------------------------------------------


def test_messages_pubacked_before_a_disconnect_are_delivered(at: Address, t: str) -> None:
    with Probe(at, f"{t}a") as one, Probe(at, f"{t}b") as two:
        one.subscribe((t, 1))
        two.send(*(publish(t, b"%d" % n, 1, packet_id=n + 1) for n in range(200)))
        for _ in range(200):
            two.wait(PUBACK)
        two.disconnect()
        assert [int(got.payload) for got in one.messages(200)] == list(range(200))


def test_messages_in_one_segment_with_disconnect_are_delivered_without_the_will(at: Address, t: str) -> None:
    with Probe(at, f"{t}a") as one, Probe(at, f"{t}b", will=(t, b"will", 1, False)) as two:
        one.subscribe((t, 1))
        two.send(*(publish(t, b"%d" % n, n % 2, packet_id=n + 1) for n in range(50)), DISCONNECT)
        # Order holds within a QoS (MQTT-4.6.0-6).
        assert sorted(int(got.payload) for got in one.messages(50)) == list(range(50))
        assert two.is_closed()
        assert one.has_no_message()


def test_all_packets_may_arrive_in_one_segment(at: Address, t: str) -> None:
    with Probe(at) as one:
        one.send(connect(f"{t}a") + subscribe((t, 1)) + publish(t, bytes(50_000), 1))
        one.wait(CONNACK)
        one.wait(SUBACK)
        assert one.message().payload == bytes(50_000)


def test_a_packet_may_arrive_byte_by_byte(at: Address, t: str) -> None:
    with Probe(at) as one:
        for byte in connect(f"{t}a") + subscribe((t, 1)) + publish(t, b"m" * 200, 1):
            one.send(bytes([byte]))
        one.wait(CONNACK)
        one.wait(SUBACK)
        assert one.message().payload == b"m" * 200


def test_an_unacked_message_is_sent_again_with_dup_and_the_same_packet_id(at: Address, t: str) -> None:
    with Probe(at, f"{t}b") as two:
        with Probe(at, f"{t}a", clean=False, puback=False) as one:
            one.subscribe((t, 1))
            for n in range(3):
                two.publish(t, b"%d" % n)
            first = one.messages(3)
            assert not any(got.dup for got in first)
            one.send(DISCONNECT)
            assert one.is_closed()
        two.publish(t, b"3")
        with Probe(at, f"{t}a", clean=False) as one:
            again = one.messages(4)
    assert [(got.payload, got.dup) for got in again] == [(b"0", True), (b"1", True), (b"2", True), (b"3", False)]
    assert [got.packet_id for got in again[:3]] == [got.packet_id for got in first]


def test_an_acked_message_is_not_sent_again(at: Address, t: str) -> None:
    with Probe(at, f"{t}b") as two:
        with Probe(at, f"{t}a", clean=False) as one:
            one.subscribe((t, 1))
            two.publish(t, b"m")
            one.message()
            one.ping()
        with Probe(at, f"{t}a", clean=False) as one:
            assert one.has_no_message()


def test_messages_for_an_absent_client_arrive_in_order_without_retain(at: Address, t: str) -> None:
    with Probe(at, f"{t}a", clean=False) as one:
        one.subscribe((f"{t}/#", 1))
        one.disconnect()
    with Probe(at, f"{t}b") as two:
        for n in range(20):
            two.publish(f"{t}/x", b"%d" % n, 1, retain=n == 7)
    with Probe(at, f"{t}a", clean=False) as one:
        got = one.messages(20)
        assert [int(m.payload) for m in got] == list(range(20))
        assert not any(m.retain or m.dup for m in got)


def test_a_qos_0_match_does_not_wait_for_an_absent_client(at: Address, t: str) -> None:
    with Probe(at, f"{t}a", clean=False) as one:
        one.subscribe((t, 1))
        one.disconnect()
    with Probe(at, f"{t}b") as two:
        two.publish(t, b"late", 0)
        two.ping()
    with Probe(at, f"{t}a", clean=False) as one:
        assert one.has_no_message()


def test_a_clean_session_forgets_its_subscriptions(at: Address, t: str) -> None:
    with Probe(at, f"{t}a", clean=False) as one:
        one.subscribe((t, 1))
        one.disconnect()
    with Probe(at, f"{t}a", clean=True) as one:
        assert not one.session_present
        one.publish(t)
        assert one.has_no_message()
        one.disconnect()
    with Probe(at, f"{t}a", clean=False) as one:
        assert not one.session_present


# -- take-over, keep-alive, will -----------------------------------------------------------------


@pytest.mark.parametrize("clean", [True, False])
def test_a_second_connection_takes_over_and_the_first_is_closed(at: Address, t: str, clean: bool) -> None:
    with Probe(at, f"{t}a", clean=clean) as old, Probe(at, f"{t}b") as two:
        old.subscribe((t, 1))
        with Probe(at, f"{t}a", clean=clean) as new:
            assert new.session_present != clean
            assert old.is_closed()
            if clean:
                new.subscribe((t, 1))
            two.publish(t, b"m")
            assert new.message().payload == b"m"
            assert new.has_no_message()


@pytest.mark.parametrize("clean", [True, False])
def test_the_will_of_a_connection_taken_over_does_not_overwrite_the_new_status(at: Address, t: str, clean: bool) -> None:
    will = (f"{t}/status", b"offline", 1, True)
    with Probe(at, f"{t}a", clean=clean, will=will) as old, Probe(at, f"{t}a", clean=clean, will=will) as new:
        new.publish(f"{t}/status", b"online", retain=True)
        assert old.is_closed()
        with Probe(at, f"{t}w") as watcher:
            watcher.subscribe((f"{t}/status", 1))
            assert watcher.message().payload == b"online"
            assert watcher.has_no_message()


def test_a_silent_client_is_closed_after_one_and_a_half_keep_alives_and_its_will_published(at: Address, t: str) -> None:
    with Probe(at, f"{t}w") as watcher, Probe(at, f"{t}a", keepalive=1, will=(t, b"power loss", 1, False)) as silent:
        watcher.subscribe((t, 1))
        assert watcher.message(timeout=10).payload == b"power loss"
        assert silent.is_closed()


ENDS = {
    "type 15": packet(0xF0),
    "wildcard": publish("a/+"),
    "length of 5 bytes": b"\x30\xff\xff\xff\xff\x01",
    "second CONNECT": connect("x"),
    "RST": b"",
}


@pytest.mark.parametrize("end", ENDS)
def test_an_ungraceful_end_publishes_the_will(at: Address, t: str, end: str) -> None:
    with Probe(at, f"{t}w") as watcher, Probe(at, f"{t}a", will=(t, b"gone", 1, True)) as one:
        watcher.subscribe((t, 1))
        if ENDS[end]:
            one.send(ENDS[end])
        else:
            one.reset()
        assert watcher.message().payload == b"gone"
        assert watcher.has_no_message()


def test_a_disconnect_publishes_no_will(at: Address, t: str) -> None:
    with Probe(at, f"{t}w") as watcher, Probe(at, f"{t}a", will=(t, b"gone", 1, False)) as one:
        watcher.subscribe((t, 1))
        one.send(DISCONNECT)
        assert one.is_closed()
        assert watcher.has_no_message()


# -- many ----------------------------------------------------------------------------------------


def test_nothing_is_lost_while_clients_come_and_go(at: Address, t: str) -> None:
    """amqtt's own broker loses 4 % of the messages at 50 reconnects a second."""
    done = threading.Event()

    def reconnect() -> None:
        while not done.is_set():
            with Probe(at, f"{t}c") as other:
                other.subscribe((f"{t}/{id(other)}/+", 0), (f"{t}/#", 0))

    churn = threading.Thread(target=reconnect)
    churn.start()
    try:
        with Probe(at, f"{t}a") as one, Probe(at, f"{t}b") as two:
            one.subscribe((f"{t}/m", 1))
            for n in range(500):
                two.publish(f"{t}/m", b"%d" % n)
            assert [int(got.payload) for got in one.messages(500)] == list(range(500))
    finally:
        done.set()
        churn.join()


# -- shared subscriptions ------------------------------------------------------------------------


def test_members_of_a_shared_subscription_take_turns(at: Address, t: str) -> None:
    members = [Probe(at, f"{t}{n}") for n in range(3)]
    with Probe(at, f"{t}p") as one:
        one.subscribe((t, 1))
        for member in members:
            member.subscribe((f"$share/g/{t}", 1))
        for n in range(30):
            one.publish(t, b"%d" % n)
        assert len(one.messages(30)) == 30
        for member in members:
            member.ping()
            assert len(member.inbox) == 10
        assert sorted(int(got.payload) for member in members for got in member.inbox) == list(range(30))
        for member in members:
            member.drop()


def test_a_shared_subscription_delivers_no_retained_message(at: Address, t: str) -> None:
    with Probe(at, f"{t}a") as one:
        one.publish(t, retain=True)
        one.subscribe((f"$share/g/{t}", 1))
        assert one.has_no_message()


def test_a_member_that_left_gets_nothing(at: Address, t: str) -> None:
    with Probe(at, f"{t}a") as one, Probe(at, f"{t}b") as two:
        for member in (one, two):
            member.subscribe((f"$share/g/{t}/#", 1))
        two.unsubscribe(f"$share/g/{t}/#")
        for _ in range(10):
            one.publish(f"{t}/x")
        assert len(one.messages(10)) == 10
        assert two.has_no_message()


@pytest.mark.parametrize("clean", [True, False])
def test_a_dead_members_unacked_messages_go_to_another(at: Address, t: str, clean: bool) -> None:
    with Probe(at, f"{t}a", puback=False, clean=clean) as dead, Probe(at, f"{t}b") as alive:
        dead.subscribe((f"$share/g/{t}", 1))
        for n in range(5):
            alive.publish(t, b"%d" % n)
        dead.messages(5)
        alive.subscribe((f"$share/g/{t}", 1))
        dead.reset()
        got = alive.messages(5)
        assert [(int(m.payload), m.dup) for m in got] == [(n, False) for n in range(5)]


# -- CONNECT -----------------------------------------------------------------------------------


def test_mqtt_5_is_refused_with_code_1(at: Address, t: str) -> None:
    with Probe(at, f"{t}a", level=5) as one:
        assert one.code == 1
        assert one.is_closed()


def test_without_a_client_id_there_is_only_a_clean_session(at: Address) -> None:
    with Probe(at, "", clean=True) as one:
        assert one.code == 0
    with Probe(at, "", clean=False) as one:
        assert one.code == 2
        assert one.is_closed()


def test_the_first_packet_must_be_connect(at: Address, t: str) -> None:
    for first in (publish(t), subscribe((t, 0)), DISCONNECT, b"GET / HTTP/1.1\r\n\r\n"):
        with Probe(at) as one:
            one.send(first)
            assert one.is_closed()


def test_a_second_connect_ends_the_connection(at: Address, t: str) -> None:
    with Probe(at, f"{t}a") as one:
        one.send(connect(f"{t}a"))
        assert one.is_closed()


MALFORMED = {
    "reserved type": packet(0x00),
    "reserved type 15": packet(0xF0),
    "CONNACK from a client": packet(0x20, b"\0\0"),
    "subscribe with wrong flags": packet(0x80, b"\0\1" + text("a") + b"\0"),
    "subscribe without filters": packet(0x82, b"\0\1"),
    "subscribe at QoS 3": packet(0x82, b"\0\1" + text("a") + b"\3"),
    "subscribe that is cut short": packet(0x82, b"\0\1" + b"\0\5a"),
    "filter that is not UTF-8": packet(0x82, b"\0\1" + text(b"\xff\xfe") + b"\0"),
    "topic that is not UTF-8": packet(0x30, text(b"\xc3\x28") + b"m"),
    "topic with U+0000": packet(0x30, text("a\0b") + b"m"),
    "topic with a wildcard": publish("a/#"),
    "topic longer than its packet": packet(0x30, b"\0\x09abc"),
    "empty topic": publish(""),
    "PUBLISH at QoS 3": packet(0x36, text("a") + b"\0\1m"),
    "packet id 0": publish("a", b"m", 1, packet_id=0),
    "ping with a body": packet(0xC0, b"x"),
    "length of five bytes": b"\x30\xff\xff\xff\xff\xff\x01",
    "unsubscribe without filters": packet(0xA2, b"\0\1"),
}


@pytest.mark.parametrize("bad", MALFORMED)
def test_a_malformed_packet_closes_its_connection_and_no_other(at: Address, t: str, bad: str) -> None:
    with Probe(at, f"{t}a") as one, Probe(at, f"{t}b") as other:
        other.subscribe((t, 1))
        one.send(MALFORMED[bad] + publish(t, b"after", 1))
        assert one.is_closed()
        assert other.has_no_message()
        other.publish(t, b"m")
        assert other.message().payload == b"m"


def test_a_publish_sent_just_before_the_close_is_delivered(at: Address, t: str) -> None:
    with Probe(at, f"{t}a") as one, Probe(at, f"{t}b") as two:
        one.subscribe((t, 0))
        two.send(publish(t, b"x" * 100_000))
        got = one.wait(PUBLISH)
        assert len(got.body) == 100_000 + 2 + len(t)
