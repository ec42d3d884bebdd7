import threading

from facewire_mqtt.connection import Received
from facewire_platform.inbox import Inbox


def received(payload: bytes) -> Received:
    return Received("facewire/v1/d/match", payload, 0, False)


def test_a_full_inbox_drops_and_counts_and_takes_again_once_there_is_room() -> None:
    inbox = Inbox(most_messages=2, most_bytes=10)
    small, large = received(b"1234"), received(b"12345678901")
    assert not inbox.put(large)
    assert [inbox.put(small) for _ in range(3)] == [True, True, False]
    assert inbox.dropped == 2
    assert inbox.take(1, 0) == [small]
    assert inbox.put(small)
    assert len(inbox.take(9, 0)) == 2
    assert inbox.take(9, 0) == []


def test_the_inbox_is_bounded_in_bytes_too() -> None:
    inbox = Inbox(most_messages=100, most_bytes=10)
    message = received(b"1234")
    assert [inbox.put(message) for _ in range(3)] == [True, True, False]
    inbox.take(1, 0)
    assert inbox.put(message)


def test_the_inbox_wakes_whoever_waits_for_it() -> None:
    inbox = Inbox()
    threading.Timer(0.01, inbox.put, [received(b"")]).start()
    assert len(inbox.take(9, 10.0)) == 1


def test_how_full_it_is_goes_by_messages_or_bytes_whichever_is_nearer_to_its_limit() -> None:
    inbox = Inbox(most_messages=4, most_bytes=10)
    inbox.put(received(b"1"))
    assert inbox.fill == 0.25
    inbox.put(received(b"2345678"))
    assert inbox.fill == 0.8
