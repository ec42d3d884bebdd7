"""Each limit refuses or drops, counts and logs it, and affects no other client."""

import asyncio
import contextlib
import logging
import time
from collections.abc import Iterator

import pytest
from broker_engines import counted, limited
from mqtt_probe import CONNACK, PINGREQ, Probe, connect, packet, publish, subscribe, text
from waiting import wait_until

from facewire_broker.broker import Broker

pytestmark = pytest.mark.network


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    caplog.set_level(logging.DEBUG)
    yield caplog
    for secret in ("face data", "s3cret"):
        assert secret not in caplog.text


def test_a_packet_before_authentication_has_a_lower_limit(log: pytest.LogCaptureFixture) -> None:
    with limited(connect_bytes=1000) as it, Probe(it.address) as one:
        one.send(connect("a", will=("t", bytes(2000), 0, False))[:10])
        assert one.is_closed()
        assert "over the limit of 1000" in log.text
        assert counted(it, "refused/malformed") == 1


def test_a_packet_that_is_too_long_is_refused_before_it_arrives(log: pytest.LogCaptureFixture) -> None:
    with limited(packet_bytes=1000) as it, Probe(it.address, "a") as one:
        one.publish("t", bytes(900))
        one.send(b"\x30\xff\xff\xff\x7f")
        assert one.is_closed()
        assert "over the limit of 1000" in log.text


def test_a_client_that_sends_no_connect_is_closed(log: pytest.LogCaptureFixture) -> None:
    with limited(connect_timeout=1.0) as it, Probe(it.address) as silent, Probe(it.address) as slow, Probe(it.address, "b") as fine:
        slow.send(connect("a")[:5])
        assert silent.is_closed()
        assert slow.is_closed()
        assert "no CONNECT within 1 s" in log.text
        fine.ping()
        wait_until(lambda: it.call(lambda broker: len(broker.streams.all)) == 1)


def test_a_packet_that_arrives_too_slowly_closes_the_connection(log: pytest.LogCaptureFixture) -> None:
    with limited(packet_timeout=0.3) as it, Probe(it.address, "a") as one:
        whole = publish("t", bytes(1000), 1)
        with contextlib.suppress(OSError):
            for byte in whole[:-1]:
                one.send(bytes([byte]))
                if one.is_closed(timeout=0.02):
                    break
        assert one.is_closed()
        assert "packet is not complete after 0.3 s" in log.text


def test_surplus_connections_are_refused_and_closed_ones_make_room(log: pytest.LogCaptureFixture) -> None:
    with limited(connections=3, connect_timeout=5) as it:
        for round_ in range(4):
            probes = [Probe(it.address) for _ in range(3)]
            wait_until(lambda: it.call(lambda broker: len(broker.streams.all)) == 3)
            with Probe(it.address) as surplus:
                assert surplus.is_closed()
            for n, probe in enumerate(probes):
                (probe.reset, probe.drop)[(round_ + n) % 2]()
            wait_until(lambda: it.call(lambda broker: len(broker.streams.all)) == 0)
        with Probe(it.address, "a") as one:
            assert one.code == 0
        assert "reason=connections" in log.text
        assert counted(it, "refused/connections") == 4


def test_more_subscriptions_than_allowed_are_refused() -> None:
    with limited(subscriptions=3) as it, Probe(it.address, "a") as one:
        assert one.subscribe(*((f"t/{n}", 0) for n in range(5))) == [0, 0, 0, 0x80, 0x80]
        assert one.subscribe(("t/0", 1)) == [1]
        assert counted(it, "refused/filter") == 2


def test_topics_and_filters_are_limited_in_length_and_depth() -> None:
    with limited(topic_bytes=50, topic_levels=5) as it:
        for name in ("t" * 51, "a/b/c/d/e/f"):
            with Probe(it.address, "a") as one:
                assert one.subscribe((name, 0)) == [0x80]
                one.send(publish(name))
                assert one.is_closed()
        with Probe(it.address, "a") as one:
            assert one.subscribe(("a/b/c/d/e", 0)) == [0]
            one.publish("a/b/c/d/e")


def test_a_client_id_is_limited_in_length() -> None:
    with limited(client_id_chars=10) as it, Probe(it.address, "a" * 11) as one:
        assert one.code == 2


def test_messages_in_flight_are_limited_and_pubacks_let_more_follow() -> None:
    with limited(inflight=3) as it, Probe(it.address, "a", puback=False) as one, Probe(it.address, "b") as two:
        one.subscribe(("t", 1))
        for n in range(10):
            two.publish("t", b"%d" % n)
        one.ping()
        first = list(one.inbox)
        assert [got.payload for got in first] == [b"0", b"1", b"2"]
        one.inbox.clear()
        one.auto_puback = True
        one.send(*(packet(0x40, got.packet_id.to_bytes(2, "big")) for got in first))
        assert [int(got.payload) for got in one.messages(7)] == list(range(3, 10))


@pytest.mark.parametrize("limits", [{"queued": 5}, {"queued_bytes": 5000}])
def test_messages_beyond_the_queue_are_dropped_and_counted(limits: dict[str, int], log: pytest.LogCaptureFixture) -> None:
    with limited(inflight=1, **limits) as it, Probe(it.address, "b") as two:
        with Probe(it.address, "a", clean=False) as one:
            one.subscribe(("t", 1))
        for n in range(50):
            two.publish("t", b"%02d" % n + b"face data" * 110)
        wait_until(lambda: counted(it, "messages/dropped") >= 44)
        waiting = it.call(lambda broker: len(broker.hub.sessions[None, "a"].undelivered))
        assert waiting <= 6
        assert "dropping messages client='a'" in log.text
        with Probe(it.address, "a", clean=False) as one:
            assert [int(got.payload[:2]) for got in one.messages(waiting)] == list(range(waiting))


def test_all_sessions_together_hold_no_more_than_their_limit_and_give_it_back(log: pytest.LogCaptureFixture) -> None:
    with limited(all_queued_bytes=20_000) as it, Probe(it.address, "b") as two:
        for round_ in range(2):
            for name in "acd":
                with Probe(it.address, name, clean=False) as one:
                    one.subscribe(("t", 1))
            for _ in range(10):
                two.publish("t", bytes(1_700))
            held = it.call(lambda broker: sum(len(session.undelivered) for session in broker.hub.sessions.values()))
            assert held == 10, "each counts 2,000"
            assert counted(it, "messages/dropped") == 20 * (round_ + 1)
            for name in "acd":
                with Probe(it.address, name, clean=True) as one:
                    one.ping()
            wait_until(lambda: it.call(lambda broker: len(broker.hub.sessions)) == 1)
        assert "dropping messages" in log.text


def test_a_client_that_reads_nothing_is_closed_and_its_queue_is_bounded(log: pytest.LogCaptureFixture) -> None:
    limits = {"write_timeout": 0.3, "queued_bytes": 2_000_000, "unsent_bytes": 100_000}
    with limited(**limits) as it, Probe(it.address, "stuck") as stuck, Probe(it.address, "b") as two:
        stuck.subscribe(("t", 0))
        deadline = time.monotonic() + 10
        while counted(it, "refused/stuck") == 0:
            assert time.monotonic() < deadline
            two.publish("t", bytes(100_000))
        assert counted(it, "messages/dropped") > 0
        assert "has read nothing for 0.3 s" in log.text


def test_the_broker_stops_reading_a_client_that_reads_no_answers() -> None:
    with limited(unsent_bytes=20_000, write_timeout=0.3, close_timeout=0.3) as it, Probe(it.address, "a") as one:
        one.sock.settimeout(5)
        flood = iter(lambda: one.send(PINGREQ * 50_000), 0)
        with pytest.raises(OSError, match=r"reset|timed out|pipe"):
            list(flood)


def test_retained_messages_are_limited_in_number_and_size(log: pytest.LogCaptureFixture) -> None:
    with limited(retained=2, retained_bytes=1000) as it, Probe(it.address, "a") as one:
        for name in ("a", "b", "c"):
            one.publish(name, b"face data", retain=True)
        one.publish("a", bytes(2000), retain=True)
        one.subscribe(("+", 1))
        assert [got.topic for got in one.messages(1)] == ["b"]
        assert one.has_no_message()
        assert counted(it, "refused/retained") == 2


def test_sessions_are_limited_in_number_and_expire() -> None:
    with limited(sessions=2, session_expiry=0.5) as it:
        for name in ("a", "b"):
            with Probe(it.address, name, clean=False) as one:
                one.subscribe((name, 1))
                one.disconnect()
        with Probe(it.address, "c") as third:
            assert third.code == 3
        wait_until(lambda: it.call(lambda broker: len(broker.hub.sessions)) == 0)
        with Probe(it.address, "c") as third:
            assert third.code == 0
            # The filter went with its last subscription.
            assert it.call(lambda broker: broker.hub.index.match("a")) == []


def test_a_client_without_a_keep_alive_gets_the_brokers() -> None:
    with limited(keepalive=1) as it, Probe(it.address, "a", keepalive=0) as silent, Probe(it.address, "b", keepalive=100) as other:
        assert silent.is_closed()
        other.ping()


def test_a_flood_of_refusals_is_summed_up_in_the_log(log: pytest.LogCaptureFixture) -> None:
    with limited() as it, Probe(it.address, "a") as one:
        for _ in range(100):
            one.send(publish("$SYS/forged", b"face data", 0))
        one.ping()
        assert counted(it, "refused/publish") == 100
        wait_until(lambda: "90 more" in log.text)
        assert log.text.count("reason=publish") == 11


def test_neither_payloads_nor_secrets_are_logged(log: pytest.LogCaptureFixture) -> None:
    with limited(queued=1) as it:
        with Probe(it.address, "a", user="u", password="s3cret", will=("w", b"face data", 0, False)) as one:  # noqa: S106
            one.subscribe(("t", 1))
            one.publish("t", b"face data")
            one.send(packet(0x32, text("t") + b"\0\0face data"))
            assert one.is_closed()
        with Probe(it.address) as two:
            two.send(connect("a", user="u", password="s3cret")[:-1] + b"\xff" + packet(0xF0, b"face data"))  # noqa: S106
            assert two.is_closed()


def test_counters_are_on_sys() -> None:
    with limited() as it, Probe(it.address, "a") as one:
        one.send(publish("$x", b"m", 0))
        one.ping()
        one.subscribe(("$SYS/broker/#", 0))
        it.call(lambda broker: broker.hub.publish_counters(12.7))
        figures = {got.topic.removeprefix("$SYS/broker/"): int(got.payload) for got in [one.message() for _ in range(6)]}
        assert figures == {"clients/connected": 1, "messages/received": 1, "refused/publish": 1, "sessions": 1, "retained": 0, "uptime": 12}


def test_a_client_may_reset_its_connection_while_the_broker_answers() -> None:
    with limited() as it:
        for _ in range(200):
            with Probe(it.address) as one:
                one.send(connect("a") + subscribe(("t", 1)) + publish("t", bytes(100_000), 1) * 3)
                one.reset()
        with Probe(it.address, "a") as one:
            assert one.code == 0
        wait_until(lambda: it.call(lambda broker: (len(broker.streams.all), len(broker.hub.sessions))) == (0, 0))


def test_an_amqtt_plugin_broadcasts_through_the_hub() -> None:
    with limited() as it, Probe(it.address, "a") as one:
        one.subscribe(("t", 1))

        async def both(broker: Broker) -> None:
            await broker.internal_message_broadcast("t", b"broadcast", 1)
            await broker.retain_message(None, "t", b"retained", 0)

        task = it.call(lambda broker: asyncio.ensure_future(both(broker)))
        wait_until(task.done)
        assert one.message().payload == b"broadcast"
        one.subscribe(("t", 1))
        assert one.message().payload == b"retained"


def test_connack_comes_before_anything_else() -> None:
    with limited() as it:
        with Probe(it.address, "a", clean=False) as one:
            one.subscribe(("t", 1))
            one.disconnect()
        with Probe(it.address, "b") as two:
            two.publish("t", b"m")
        with Probe(it.address) as one:
            one.send(connect("a", clean=False))
            first = one.next()
            assert first is not None
            assert first.kind == CONNACK
            assert one.message().payload == b"m"
