import pytest
from platform_model import batch

import facewire_platform.intake.reader
from facewire.errors import BatchRefused
from facewire.messages import Ack, Batch, BatchOf, encode
from facewire.topics import Topics
from facewire_platform.intake.decoder import pack
from facewire_platform.intake.inbox import Queued
from facewire_platform.intake.reader import read
from facewire_platform.store.rows import InsertRows
from facewire_platform.store.writer import Message, Unreadable

BATCH = encode(batch(0, 2, 1, 2))


def reading(kind: str, payload: bytes, *, packed: bytes | None = None, retained: bool = False) -> list[Message]:
    queued = Queued(f"facewire/v1/d/{kind}", payload, retained, packed)
    messages = read(queued, Topics(), InsertRows, 7)
    assert all(one.at_ms == 7 for one in messages)
    return messages


def test_a_packed_batch_reads_the_same_as_a_plain_one() -> None:
    (plain,), (packed,) = reading("history", BATCH), reading("history", b"", packed=pack(BATCH, InsertRows))
    assert isinstance(plain.body, Batch)
    assert isinstance(packed.body, BatchOf)
    assert (plain.device, packed.device) == ("d", "d")
    assert InsertRows.of(plain.body.events).packed == InsertRows.of(packed.body.events).packed


def test_a_refused_batch_is_quarantined_and_answered() -> None:
    payload = encode(batch(5, 5)).replace(b"\xa5after\x05", b"\xa5after\x09")
    unreadable, refused = (message.body for message in reading("history", payload))
    assert isinstance(unreadable, Unreadable)
    assert unreadable.raw == payload
    assert isinstance(refused, BatchRefused)


def test_a_foreign_or_unreadable_message_is_quarantined_with_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    ack = encode(Ack("0" * 16, "0" * 16, 0, 0, "s"))
    (not_ours,), (no_message,) = reading("ack", ack), reading("match", b"\xc1")
    assert not_ours.body == Unreadable("facewire/v1/d/ack", "an ack is not for us", ack)
    assert isinstance(no_message.body, Unreadable)
    (elsewhere,) = read(Queued("elsewhere", b"", False, None), Topics(), InsertRows, 7)
    assert isinstance(elsewhere.body, Unreadable)
    monkeypatch.setattr(facewire_platform.intake.reader, "decode", lambda *_: 1 / 0)
    (ours,) = reading("match", b"")
    assert ours.body == Unreadable("facewire/v1/d/match", "internal error: ZeroDivisionError", b"")


def test_a_retained_message_is_marked() -> None:
    assert [message.retained for retained in (True, False) for message in reading("history", BATCH, retained=retained)] == [True, False]
