"""Bytes of every kind: whole, in pieces, almost right, and noise."""

import contextlib
import itertools

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from mqtt_probe import connect, packet, publish, subscribe, text

from facewire_broker import packets
from facewire_broker.framer import Framer
from facewire_broker.packets import UnsupportedLevel
from facewire_broker.publish import Message
from facewire_mqtt.framing import Malformed

words = st.text(st.characters(exclude_characters="\0+#", exclude_categories=["Cs"]), min_size=1, max_size=20)
frames = st.lists(
    st.tuples(st.integers(0, 255), st.one_of(st.binary(max_size=5), st.sampled_from([b"x" * 127, b"x" * 128, b"x" * 16383, b"x" * 16384]))),
    max_size=6,
)


def cut(framer: Framer, pieces: list[bytes]) -> list[tuple[int, bytes]]:
    frames = []
    for piece in pieces:
        framer.push(piece)
        while (frame := framer.pull()) is not None:
            frames.append(frame)
    return frames


@given(frames=frames, cuts=st.lists(st.integers(1, 20_000), max_size=20))
def test_packets_are_the_same_however_the_stream_is_cut(frames: list[tuple[int, bytes]], cuts: list[int]) -> None:
    data = b"".join(packet(first, body) for first, body in frames)
    places = sorted({0, len(data), *(at % (len(data) + 1) for at in cuts)})
    framer = Framer(20_000)
    assert cut(framer, [data[a:b] for a, b in itertools.pairwise(places)]) == frames
    assert not framer.is_partial


@given(frames=frames.filter(lambda frames: sum(len(body) for _, body in frames) < 2000))
def test_packets_may_arrive_byte_by_byte(frames: list[tuple[int, bytes]]) -> None:
    data = b"".join(packet(first, body) for first, body in frames)
    assert cut(Framer(20_000), [bytes([byte]) for byte in data]) == frames


def test_unread_packets_are_read_before_later_ones() -> None:
    framer = Framer(100)
    framer.push(packet(1, b"a") + packet(2, b"b"))
    assert framer.pull() == (1, b"a")
    framer.push(packet(3, b"c")[:2])
    assert framer.pull() == (2, b"b")
    assert framer.pull() is None
    framer.push(b"c")
    assert framer.pull() == (3, b"c")


def test_a_length_has_at_most_four_bytes() -> None:
    framer = Framer(1 << 28)
    framer.push(b"\x30\x83\x80\x80\x00abc")
    assert framer.pull() == (0x30, b"abc")
    framer.push(b"\x30\x83\x80\x80\x80\x00abc")
    with pytest.raises(Malformed):
        framer.pull()


def test_a_large_packet_in_small_pieces_is_copied_once() -> None:
    framer, pieces = Framer(1 << 20), [b"x"] * 100_000
    framer.push(packet(0x30, b"x" * 1_000_000)[:100])
    assert framer.pull() is None
    for piece in pieces:
        framer.push(piece)
    assert framer.is_partial
    assert framer.buffered == 100_100


@given(noise=st.binary(max_size=60), kind=st.sampled_from(["connect", "subscribe", "unsubscribe"]))
@example(noise=b"\x00\x04MQTT\x04\x02\x00\x00", kind="connect")
@example(noise=b"\x00\x04MQTT\x04\xc6\x00\x00\x00\x01a\x00\x01w", kind="connect")
def test_noise_raises_malformed_and_nothing_else(noise: bytes, kind: str) -> None:
    for prefix in (b"", b"\x00\x04MQTT\x04", b"\x00\x04MQTT\x04\xc6\x00\x3c\x00\x01a", b"\x00\x01\x00\x01a"):
        with contextlib.suppress(Malformed, UnsupportedLevel):
            getattr(packets, f"read_{kind}")(prefix + noise)


@given(first=st.integers(0x30, 0x3F), noise=st.binary(max_size=30))
def test_a_publish_of_noise_is_malformed_or_split_without_loss(first: int, noise: bytes) -> None:
    try:
        topic, packet_id, payload = packets.split_publish(first, noise)
    except Malformed:
        return
    assert len(topic) + len(payload) + (4 if packet_id else 2) == len(noise)


@given(
    client=words,
    topic=words,
    payload=st.binary(max_size=50),
    qos=st.integers(0, 2),
    retain=st.booleans(),
    clean=st.booleans(),
    user=words,
    secret=words,
    keepalive=st.integers(0, 65535),
)
def test_a_connect_is_read_as_it_was_written(
    client: str, topic: str, payload: bytes, qos: int, retain: bool, clean: bool, user: str, secret: str, keepalive: int
) -> None:
    written = connect(client, clean=clean, keepalive=keepalive, user=user, password=secret, will=(topic, payload, qos, retain))
    framer = Framer(1000)
    [(first, body)] = cut(framer, [written])
    read = packets.read_connect(body)
    assert first == 0x10
    assert (read.client_id, read.clean, read.keepalive, read.username, read.password) == (client, clean, keepalive, user, secret)
    assert read.will is not None
    assert (read.will.topic, read.will.payload, read.will.qos, read.will_retain) == (topic, payload, qos, retain)


@given(client=words, user=words, place=st.integers(0, 200), byte=st.integers(0, 255))
def test_a_connect_with_one_byte_wrong_is_refused_or_means_something_else(client: str, user: str, place: int, byte: int) -> None:
    body = connect(client, user=user, password="x", will=("w", b"m", 1, True))[2:]  # noqa: S106
    at = place % len(body)
    if body[at] == byte or len(body) > 127:
        return
    try:
        read = packets.read_connect(body[:at] + bytes([byte]) + body[at + 1 :])
    except (Malformed, UnsupportedLevel):
        return
    assert read != packets.read_connect(body)


@given(pairs=st.lists(st.tuples(words, st.integers(0, 2)), min_size=1, max_size=5), packet_id=st.integers(1, 65535))
def test_a_subscribe_is_read_as_it_was_written(pairs: list[tuple[str, int]], packet_id: int) -> None:
    [(_, body)] = cut(Framer(10_000), [subscribe(*pairs, packet_id=packet_id)])
    assert packets.read_subscribe(body) == (packet_id, pairs)
    for shorter in range(len(body)):
        with contextlib.suppress(Malformed):
            assert packets.read_subscribe(body[:shorter]) != (packet_id, pairs)


@given(topic=words, payload=st.binary(max_size=300), qos=st.integers(0, 1), retain=st.booleans(), dup=st.booleans())
def test_a_message_is_written_as_a_client_would_write_it(topic: str, payload: bytes, qos: int, retain: bool, dup: bool) -> None:
    written = Message(topic, payload, 1).packet(qos, 7, retain=retain, dup=dup and qos == 1)
    assert written == publish(topic, payload, qos, retain=retain, packet_id=7, dup=dup and qos == 1)


def test_a_topic_must_be_valid_text_without_wildcards() -> None:
    for bad in (b"\xff", b"a\0b", b"a+", b"#", b"", b"\xed\xa0\x80"):
        try:
            packets.read_topic(bad)
        except Malformed:
            continue
        raise AssertionError(bad)
    assert packets.read_topic("é/x".encode()) == "é/x"
    assert text("é")[1] == 2
