import logging
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from platform_desk import Desk, history, received
from platform_model import BOOT, EPOCH, batch
from platform_store import limit_pages, sqlite_connections

import facewire_platform.store.sqlite
import facewire_platform.store.writer
from facewire import codec
from facewire.errors import StoreError
from facewire.messages import BatchOf, Status, decode_ack, encode
from facewire_mqtt import Received
from facewire_platform.history.queries import History
from facewire_platform.ingest import decide
from facewire_platform.intake.inbox import Inbox
from facewire_platform.intake.rates import Rates
from facewire_platform.store.writer import Message
from facewire_system.clock import now_ms

#: The worker fails on a batch with this cursor.
POISON = 13


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Desk]:
    monkeypatch.setattr(facewire_platform.store.sqlite, "BUSY_TIMEOUT", 0.001)
    opened = Desk(tmp_path / "x.db", monkeypatch)
    yield opened
    opened.worker.close()


def path(desk: Desk) -> Path:
    assert isinstance(desk.location, Path)
    return desk.location


def test_a_group_is_stored_in_one_commit_and_acked_after_it(desk: Desk) -> None:
    acks = desk.turn(*(history(f"d{number}", 0, 1, 2) for number in range(20)))
    assert [ack.cursor for ack in acks] == [2] * 20
    assert desk.worker.counters.commits == 1
    assert len(desk.stored()) == 40


def test_an_ack_tells_when_its_batch_arrived_and_when_it_was_sent(desk: Desk) -> None:
    before = now_ms()
    (ack,) = desk.turn(history("d", 0, 1))
    assert ack.received_at is not None
    assert ack.sent_at is not None
    assert before <= ack.received_at <= ack.sent_at <= now_ms()


def test_bad_messages_stop_none_of_the_others(desk: Desk) -> None:
    odd = Received("facewire/v1/a\nb/history", b"x", 1, False)
    refused = received("d2", "history", encode(batch(5, 5)).replace(b"\xa5after\x05", b"\xa5after\x09"))
    acks = desk.turn(history("d1", 0, 1), received("d1", "history", b"\xc1"), odd, refused, history("d3", 0, 1))
    assert [(ack.cursor, ack.error is None) for ack in acks] == [(1, True), (0, False), (1, True)]
    assert desk.stored() == {("d1", 1), ("d3", 1)}
    assert len(desk.quarantine()) == 3
    assert (desk.worker.counters.quarantined, desk.worker.counters.refused) == (3, 1)


def test_a_message_that_the_worker_fails_on_stops_none_of_the_others(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(batch: BatchOf[Any], *rest: Any, **more: Any) -> Any:
        if batch.cursor == POISON:
            raise ZeroDivisionError("小明")
        return decide(batch, *rest, **more)

    monkeypatch.setattr(facewire_platform.store.writer, "decide", failing)
    acks = desk.turn(history("d1", 0, 1), history("poison", 0, POISON), history("d2", 0, 1))
    assert [ack.cursor for ack in acks] == [1, 1]
    assert desk.stored() == {("d1", 1), ("d2", 1)}
    assert [(row["topic"], row["reason"]) for row in desk.quarantine()] == [
        ("facewire/v1/poison/history", "internal error: ZeroDivisionError")
    ]
    assert desk.turn(history("d1", 1, 2))[0].cursor == 2


def test_messages_received_during_an_outage_are_stored_and_acked_after_it(desk: Desk, caplog: pytest.LogCaptureFixture) -> None:
    with closing(sqlite3.connect(path(desk), isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        will = received("d1", "status", encode(Status(BOOT, False, 1)))
        assert desk.turn(received("d1", "status", encode(Status(BOOT, True, 1, EPOCH))), history("d1", 0, 1), will) == []
        assert desk.turn(history("d2", 0, 1)) == []
        assert desk.quarantine() == []
        other.execute("ROLLBACK")
    assert [ack.cursor for ack in desk.turn()] == [1]
    assert [ack.cursor for ack in desk.turn()] == [1]
    assert desk.stored() == {("d1", 1), ("d2", 1)}
    with History(path(desk)) as opened:
        assert not next(opened.devices())["online"], "the will was lost"
    assert [record.message.partition(" error")[0] for record in caplog.records if record.levelno >= logging.WARNING] == [
        "database fails, waiting",
        "database works again",
    ]


def test_an_outage_in_the_middle_of_storing_one_by_one_loses_nothing(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []

    def failing(batch: BatchOf[Any], *rest: Any, **more: Any) -> Any:
        calls.append(batch.cursor)
        if batch.cursor == POISON:
            raise ZeroDivisionError
        if batch.cursor == 2 and calls.count(2) == 1:
            raise StoreError("full")
        return decide(batch, *rest, **more)

    monkeypatch.setattr(facewire_platform.store.writer, "decide", failing)
    assert [ack.cursor for ack in desk.turn(history("d1", 0, 1), history("poison", 0, POISON), history("d2", 0, 2))] == [1]
    assert [ack.cursor for ack in desk.turn()] == [2]
    assert desk.stored() == {("d1", 1), ("d2", 2)}
    assert len(desk.quarantine()) == 1


def test_a_full_disk_only_delays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    connections = sqlite_connections(monkeypatch)
    desk = Desk(tmp_path / "x.db", monkeypatch)
    disk = connections[-1]
    desk.turn(history("d1", 0, 1))
    limit_pages(disk, 0)
    large = received("d1", "history", encode(batch(1, 2, batch(1, 2, 2).events[0]._replace(extra={"photo": bytes(100_000)}))))
    assert desk.turn(large) == []
    assert desk.turn() == []
    limit_pages(disk, 100)
    assert [ack.cursor for ack in desk.turn()] == [2]
    assert desk.quarantine() == []
    desk.worker.close()


def test_a_replaced_database_is_opened_again_before_the_next_ack(desk: Desk) -> None:
    first = desk.turn(history("d1", 0, 1))[0]
    for file in path(desk).parent.glob("x.db*"):
        file.unlink()
    second = desk.turn(history("d1", 1))[0]
    assert (second.cursor, second.store == first.store) == (0, False)
    assert desk.turn(history("d1", 0, 1))[0].cursor == 1
    assert desk.stored() == {("d1", 1)}


def test_a_commit_into_a_removed_file_is_not_acked(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    def wiped(*arguments: Any, **more: Any) -> Any:
        monkeypatch.undo()
        path(desk).unlink()
        return decide(*arguments, **more)

    monkeypatch.setattr(facewire_platform.store.writer, "decide", wiped)
    assert desk.turn(history("d1", 0, 1)) == []
    assert [ack.cursor for ack in desk.turn()] == [1]
    assert desk.stored() == {("d1", 1)}


def test_the_worker_waits_while_a_foreign_file_replaces_the_database(desk: Desk) -> None:
    desk.turn(history("d1", 0, 1))
    for file in path(desk).parent.glob("x.db*"):
        file.unlink()
    path(desk).write_bytes(b"no database" * 1000)
    assert desk.turn(history("d1", 1)) == []
    assert desk.turn() == []
    path(desk).unlink()
    assert [ack.cursor for ack in desk.turn()] == [0]


def test_logs_never_name_a_person(desk: Desk, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    name = "Ann Example"
    fields = {"seq": 1, "timestamp": 1, "score": 0.5, "identity_id": name, "identity_name": name, "person_type": 1}
    bad = [fields | {"seq": seq, field: [name]} for seq, field in enumerate(("timestamp", "identity_id", "identity_name", "group_name"), 2)]
    wire = {"epoch": EPOCH, "boot": BOOT, "after": 0, "cursor": 5, "head": 5, "oldest": 1, "events": [fields, *bad]}
    assert len(desk.turn(received("d", "history", codec.encode(wire)))[0].rejected) == 4
    desk.turn(received("d", "history", codec.encode(wire | {"events": [fields | {"score": 0.75}]})))
    assert desk.worker.counters.conflicts == 1
    assert caplog.records
    assert name not in caplog.text


def test_a_worker_that_cannot_keep_up_asks_devices_to_wait(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    assert desk.turn(history("d1", 0, 1))[0].retry_after is None
    monkeypatch.setattr(desk, "inbox", Inbox(lambda _: None, most_messages=2, gather=0.0))
    assert desk.turn(history("d1", 1, 2))[0].retry_after == 30_000


def test_dropped_messages_are_counted_and_logged(desk: Desk, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(desk, "inbox", Inbox(lambda _: None, most_messages=1, gather=0.0))
    assert len(desk.turn(history("d1", 0, 1), history("d2", 0, 1))) == 1
    assert desk.worker.counters.dropped == 1
    assert "inbox full, dropped=1" in caplog.text


def test_the_worker_logs_the_records_of_its_receiver(desk: Desk, caplog: pytest.LogCaptureFixture) -> None:
    desk.turn(logging.makeLogRecord({"name": "facewire_mqtt.session", "levelno": logging.WARNING, "msg": "from there"}))
    assert [(record.name, record.getMessage()) for record in caplog.records] == [("facewire_mqtt.session", "from there")]


def test_a_worker_that_ends_acks_the_batches_it_has_stored(desk: Desk) -> None:
    desk.inbox.put(history("d1", 0, 1))
    desk.worker.run()
    assert [decode_ack(message.payload).cursor for message in desk.last] == [1]


def test_a_device_over_its_rate_is_asked_for_patience_and_loses_nothing(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "monotonic", lambda: 1000.0)
    epochs = [f"{number:016x}" for number in range(22)]
    acks = desk.turn(*(received("d", "history", encode(batch(0, 1, 1, epoch=epoch))) for epoch in epochs))
    assert [(ack.cursor, ack.retry_after) for ack in acks] == [(1, None)] * 20 + [(0, 600_000)] * 2
    assert [(ack.epoch, ack.boot, ack.key, ack.error) for ack in acks[20:]] == [(epoch, BOOT, 1, None) for epoch in epochs[20:]]
    assert (desk.worker.counters.over_rate, desk.worker.counters.refused) == (2, 0)
    [ack] = desk.turn(history("other", 0, 1))
    assert (ack.cursor, ack.retry_after) == (1, None)


def test_a_batch_over_the_rate_is_answered_with_the_watermark_that_stands(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "monotonic", lambda: 1000.0)
    desk.turn(history("d", 0, 1, 2, 3))
    rates = Rates()
    while rates.judge(Message("d", Status(BOOT, True, 1), 1), 1000.0) is None:
        pass
    monkeypatch.setattr(desk.worker, "_rates", rates)
    [ack] = desk.turn(history("d", 3, *range(4, 104)))
    assert (ack.cursor, ack.key, ack.retry_after) == (3, 103, 1_000)
