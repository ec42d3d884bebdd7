import logging
import threading

import pytest

import facewire_platform.intake.inbox
from facewire_mqtt import Connected, Disconnected, Received
from facewire_platform.intake.inbox import Inbox, Queued


def received(payload: bytes, retain: bool = False, device: str = "d") -> Received:
    return Received(f"facewire/v1/{device}/match", payload, 0, retain)


def inbox(most_messages: int = 100, most_bytes: int = 100, gather: float = 0.0, share: float = 1) -> Inbox:
    return Inbox(lambda message: message.payload[1:] or None, most_messages, most_bytes, gather, share)


def test_messages_come_out_in_order_with_their_packed_forms() -> None:
    full = inbox()
    full.put(received(b"1"))
    full.put(received(b"23", retain=True))
    topic = "facewire/v1/d/match"
    assert full.take(9, 0.0).messages == [Queued(topic, b"1", False, None), Queued(topic, b"23", True, b"3")]
    assert full.take(9, 0.0).messages == []


def test_a_full_inbox_drops_and_counts_until_there_is_room_again() -> None:
    full = inbox(most_messages=2)
    for _ in range(3):
        full.put(received(b"1"))
    delivery = full.take(1, 0.0)
    assert (len(delivery.messages), delivery.dropped, delivery.fill) == (1, 1, 1.0)
    full.put(received(b"1"))
    delivery = full.take(9, 0.0)
    assert (len(delivery.messages), delivery.dropped) == (2, 0)


def test_the_inbox_is_bounded_in_bytes_with_the_packed_ones() -> None:
    full = inbox(most_bytes=10)
    full.put(received(b"123"))
    assert full.take(0, 0.0).fill == 0.5
    full.put(received(b"123456"))
    assert full.take(0, 0.0).dropped == 1
    full.put(received(b"123"))
    full.take(1, 0.0)
    full.put(received(b"1"))
    assert [message.payload for message in full.take(9, 0.0).messages] == [b"123", b"1"]


def test_a_message_that_does_not_fit_is_not_packed() -> None:
    packed: list[Received] = []
    full = Inbox(packed.append, most_messages=0)
    full.put(received(b""))
    assert packed == []


def test_few_large_messages_are_taken_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(facewire_platform.intake.inbox, "TAKEN_BYTES", 5)
    full = inbox()
    for _ in range(3):
        full.put(received(b"123"))
    assert [len(full.take(9, 0.0).messages) for _ in range(3)] == [1, 1, 1]


def test_a_message_or_news_ends_the_wait() -> None:
    full = inbox()
    for something in (received(b"1"), Connected()):
        threading.Timer(0.01, full.put, [something]).start()
        assert any(full.take(9, 1000.0)[:2])


def test_messages_are_gathered_until_there_are_enough() -> None:
    full = inbox(gather=10.0)
    full.put(received(b"1"))
    full.take(2, 20.0)
    full.put(received(b"2"))
    threading.Timer(0.01, full.put, [received(b"3")]).start()
    assert [message.payload for message in full.take(2, 20.0).messages] == [b"2", b"3"]


def test_news_or_the_timeout_ends_the_gathering() -> None:
    full = inbox(gather=10.0)
    full.put(received(b"1"))
    assert len(full.take(2, 0.0).messages) == 1
    full.put(received(b"2"))
    assert len(full.take(2, 0.01).messages) == 1
    full.put(received(b"3"))
    full.put(Connected())
    assert len(full.take(2, 1000.0).messages) == 1


def test_the_first_message_in_a_while_does_not_wait_for_others() -> None:
    full = inbox(gather=1000.0)
    full.put(received(b"1"))
    assert len(full.take(2, 1000.0).messages) == 1


def test_a_request_for_news_alone_does_not_wait() -> None:
    full = inbox(gather=1000.0)
    full.put(received(b"1"))
    full.take(1, 0.0)
    assert full.take(0, 1000.0).messages == []
    full.put(received(b"1"))
    assert full.take(0, 1000.0).messages == []


def test_news_stay_in_order_and_the_oldest_of_too_many_go() -> None:
    full = inbox()
    record = logging.makeLogRecord({"msg": "x"})
    for number in range(facewire_platform.intake.inbox.INBOX_NEWS):
        full.put(Disconnected(str(number)))
    full.put(record)
    news = full.take(0, 0.0).news
    assert (len(news), news[0], news[-1]) == (facewire_platform.intake.inbox.INBOX_NEWS, Disconnected("1"), record)
    assert full.take(0, 0.0).news == []


def test_devices_take_turns_and_each_keeps_its_order() -> None:
    full = inbox()
    for number in range(5):
        full.put(received(b"%d" % number, device="loud"))
    full.put(received(b"a", device="quiet"))
    full.put(received(b"b", device="quiet"))
    taken = [message.payload for _ in range(4) for message in full.take(2, 0.0).messages]
    assert taken == [b"0", b"a", b"1", b"b", b"2", b"3", b"4"]


def test_a_device_fills_only_its_own_share_and_others_still_find_room() -> None:
    full = inbox(most_messages=40, most_bytes=1000, share=1 / 4)
    for _ in range(11):
        full.put(received(b"1", device="loud"))
    for device in ("a", "b"):
        full.put(received(b"1", device=device))
    delivery = full.take(3, 0.0)
    assert (delivery.dropped, delivery.fill) == (1, 12 / 40)
    assert len(delivery.messages) == 3


def test_the_share_is_one_of_bytes_too_and_room_comes_back() -> None:
    full = inbox(most_bytes=40, share=1 / 4)
    for _ in range(3):
        full.put(received(b"123", device="loud"))
    full.put(received(b"1", device="quiet"))
    assert full.take(0, 0.0).dropped == 1
    assert [message.payload for message in full.take(9, 0.0).messages] == [b"123", b"1", b"123"]
    full.put(received(b"1234", device="loud"))
    assert len(full.take(9, 0.0).messages) == 1


def test_with_a_flood_of_one_device_another_waits_for_one_message_of_it() -> None:
    flooded = Inbox(lambda _: None)
    for number in range(100_000):
        flooded.put(received(b"%d" % number, device="loud"))
    flooded.put(received(b"!", device="quiet"))
    delivery = flooded.take(2, 0.0)
    assert [message.payload for message in delivery.messages] == [b"0", b"!"]
    assert (delivery.dropped, round(delivery.fill, 2)) == (100_000 - 3_125, 0.06)
