import threading

import pytest
from platform_model import batch

import facewire_platform.reader
from facewire.errors import BatchRefused
from facewire.messages import Ack, Batch, encode
from facewire.topics import Topics
from facewire_mqtt.connection import Received
from facewire_platform.inbox import Inbox
from facewire_platform.reader import GROUP, Reader
from facewire_platform.rows import InsertRows
from facewire_platform.store import Unreadable


def received(kind: str, payload: bytes, retain: bool = False) -> Received:
    return Received(f"facewire/v1/d/{kind}", payload, 1, retain)


@pytest.fixture
def inbox() -> Inbox:
    return Inbox()


@pytest.fixture
def reader(inbox: Inbox) -> Reader:
    return Reader(inbox, Topics(), InsertRows)


def test_messages_come_out_decoded_and_in_order(inbox: Inbox, reader: Reader) -> None:
    reader.start()
    for seq in range(1, 1_001):
        inbox.put(received("history", encode(batch(seq - 1, seq, seq))))
    taken: list[int] = []
    while len(taken) < 1_000:
        for held in reader.take(10.0):
            assert isinstance(held.taken.message, Batch)
            taken.append(held.taken.message.cursor)
    reader.stop()
    assert taken == list(range(1, 1_001))


def test_what_nobody_takes_stays_in_the_inbox_and_does_not_keep_it_from_stopping(
    inbox: Inbox, reader: Reader, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(facewire_platform.reader, "GROUP", 1)
    for _ in range(100):
        inbox.put(received("match", b""))
    reader.start()
    assert reader.take(10.0)
    assert inbox.fill > 0
    reader.stop()
    assert "reader" not in {thread.name for thread in threading.enumerate()}


def test_a_batch_that_is_refused_is_kept_and_answered(inbox: Inbox, reader: Reader) -> None:
    inbox.put(received("history", encode(batch(5, 5)).replace(b"\xa5after\x05", b"\xa5after\x09")))
    kept, refused = (held.taken.message for held in reader.read(GROUP, 0.0))
    assert isinstance(kept, Unreadable)
    assert isinstance(refused, BatchRefused)


def test_what_is_not_for_us_or_cannot_be_read_is_kept_with_its_reason(inbox: Inbox, reader: Reader) -> None:
    ack = encode(Ack("0" * 16, "0" * 16, 0, 0, "s"))
    for message in (received("ack", ack), received("match", b"\xc1"), Received("elsewhere", b"", 1, False)):
        inbox.put(message)
    reasons = [held.taken.message.reason for held in reader.read(GROUP, 0.0) if isinstance(held.taken.message, Unreadable)]
    assert len(reasons) == 3
    assert reasons[0] == "an ack is not for us"


def test_it_is_told_what_the_broker_had_kept(inbox: Inbox, reader: Reader) -> None:
    inbox.put(received("match", b"", retain=True))
    inbox.put(received("history", encode(batch(0, 0)), retain=True))
    assert [held.taken.retained for held in reader.read(GROUP, 0.0)] == [False, True]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_reader_that_died_is_not_waited_for(inbox: Inbox, reader: Reader, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader, "_decode", lambda _: 1 / 0)
    reader.start()
    with pytest.raises(RuntimeError, match="has ended"):
        reader.take(0.5)
