"""Purging on either database, beside a store that goes on."""

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from platform_model import bad_event, batch, event
from platform_store import event_at, rows, store_batches, store_match
from platform_store import run as change

import facewire_platform.history.retention
from facewire import codec
from facewire.errors import StoreError
from facewire.events import Event
from facewire.messages import Batch
from facewire_cli.main import cli
from facewire_platform.history.queries import History
from facewire_platform.history.retention import Purged, Retention
from facewire_platform.store.drivers import Location
from facewire_platform.store.writer import Message, Store, Unreadable, open_store
from facewire_system.clock import now_ms

HOUR = 3_600_000


@pytest.fixture
def store(location: Location) -> Iterator[Store]:
    with open_store(location) as opened:
        yield opened


def full(after: int, *events: Event) -> Batch:
    return batch(after, events[-1].seq, *events)


def purge(location: Location, before_ms: int, **how: Any) -> Purged:
    with Retention(location, rest=lambda _: None, **how) as retention:
        return list(retention.older_than(before_ms))[-1]


def purge_person(location: Location, who: str, **how: Any) -> Purged:
    with Retention(location, rest=lambda _: None, **how) as retention:
        return list(retention.person(who))[-1]


def seqs(location: Location) -> list[int]:
    return [seq for (seq,) in rows(location, "SELECT seq FROM event ORDER BY seq")]


def watermark(location: Location) -> int:
    found: int = rows(location, "SELECT watermark FROM stream")[0][0]
    return found


@pytest.mark.parametrize("chunk", [1, 2, 1_000])
def test_older_events_are_deleted_and_the_watermark_stays(
    store: Store, location: Location, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(facewire_platform.history.retention, "CHUNK", chunk)
    store_batches(store, full(0, *(event_at(seq, seq * 10) for seq in range(1, 8))))
    assert purge(location, 40, dry_run=True) == Purged(events=3, reached=30)
    assert seqs(location) == [1, 2, 3, 4, 5, 6, 7]
    assert purge(location, 40) == Purged(events=3, reached=30)
    assert seqs(location) == [4, 5, 6, 7]
    assert watermark(location) == 7
    assert rows(location, "SELECT stored, gaps, quarantined FROM stream") == [(7, 0, 0)]
    assert purge(location, 40) == Purged()


def test_events_above_the_watermark_are_kept_until_their_history_copy_arrives(store: Store, location: Location) -> None:
    store_batches(store, batch(0, 1, 1))
    store_match(store, 3)
    late = 2**62
    assert purge(location, late) == Purged(events=1, kept=1, reached=event(3).timestamp)
    assert seqs(location) == [3]
    store_batches(store, batch(1, 3, 2, 3))
    assert purge(location, late).events == 2
    # Everything was stored once and counted once.
    assert rows(location, "SELECT watermark, stored, gaps FROM stream") == [(3, 3, 0)]


def test_a_resent_event_is_stored_again_after_a_purge_and_counted_once(store: Store, location: Location) -> None:
    store_batches(store, batch(0, 3, 1, 2, 3))
    purge(location, 2**62)
    assert store_batches(store, batch(1, 3, 2, 3)).cursor == 3
    assert seqs(location) == [2, 3]
    assert rows(location, "SELECT watermark, stored, gaps, quarantined FROM stream") == [(3, 3, 0, 0)]


def test_gaps_stay_and_quarantine_ages(store: Store, location: Location) -> None:
    store_batches(store, batch(0, 3, 1, bad=(bad_event(3),)), now_ms=100)
    store.store([Message("", Unreadable("t", "late", b"x"), 200)])
    assert purge(location, 150).quarantined == 1
    assert rows(location, "SELECT reason FROM quarantine") == [("late",)]
    assert rows(location, "SELECT watermark, stored, gaps, quarantined FROM stream") == [(3, 1, 1, 1)]
    assert rows(location, "SELECT count(*) FROM rejected")[0][0] == 1
    assert rows(location, "SELECT count(*) FROM gap")[0][0] == 1


@pytest.mark.parametrize("chunk", [1, 1_000])
def test_every_event_of_a_person_is_deleted_and_no_other(
    store: Store, location: Location, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(facewire_platform.history.retention, "CHUNK", chunk)
    whose = ("7", "17", "7", "name", "7", "x" * 64, "x" * 65, "7", "nul\0", "nul")
    store_batches(store, full(0, *(event_at(seq, (seq - 3) * HOUR // 2, identity_id=who) for seq, who in enumerate(whose, 1))))
    assert purge_person(location, "7", dry_run=True).events == 4
    assert seqs(location) == list(range(1, 11))
    assert purge_person(location, "7") == Purged(events=4, reached=5 * HOUR // 2)
    assert seqs(location) == [2, 4, 6, 7, 9, 10]
    for who, left in (("x" * 64, [2, 4, 7, 9, 10]), ("nul\0", [2, 4, 7, 10]), ("nobody", [2, 4, 7, 10])):
        purge_person(location, who)
        assert seqs(location) == left
    assert watermark(location) == 10


def test_a_person_is_deleted_from_quarantine_by_id_and_by_names(store: Store, location: Location) -> None:
    store_batches(
        store, full(0, event_at(1, 1, identity_id="7", identity_name="小明"), event_at(2, 2, identity_id="8", identity_name="Bob"))
    )
    payloads = {
        "id": codec.pack({"identity_id": "7", "score": "bad"}),
        "name": b'{"identity_name": "\\u5c0f\\u660e", "cut',
        "text": '{"identity_name": "小明"'.encode(),
        "longer id": codec.pack({"identity_id": "17"}),
        "other": b'{"identity_name": "Bob"}',
    }
    store.store([Message("", Unreadable("t", reason, raw), 1) for reason, raw in payloads.items()])
    assert purge_person(location, "7", dry_run=True) == Purged(events=1, quarantined=3, reached=1)
    assert purge_person(location, "7") == Purged(events=1, quarantined=3, reached=1)
    assert sorted(reason for (reason,) in rows(location, "SELECT reason FROM quarantine")) == ["longer id", "other"]


def test_another_purge_finishes_an_interrupted_one(store: Store, location: Location, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(facewire_platform.history.retention, "CHUNK", 2)
    store_batches(store, full(0, *(event_at(seq, seq, identity_id="7") for seq in range(1, 8))))
    with Retention(location, rest=lambda _: None) as retention:
        steps = retention.person("7")
        while not next(steps).events:
            pass
    assert seqs(location) == [3, 4, 5, 6, 7]
    assert purge_person(location, "7").events == 5
    assert seqs(location) == []


def test_the_store_takes_batches_between_two_transactions_of_a_purge(
    store: Store, location: Location, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(facewire_platform.history.retention, "CHUNK", 2)
    store_batches(store, full(0, *(event_at(seq, seq) for seq in range(1, 7))))
    seqs_to_come = iter(range(7, 100))

    def ingest(_: float) -> None:
        seq = next(seqs_to_come)
        store_batches(store, full(seq - 1, event_at(seq, seq * 1_000)))

    with Retention(location, rest=ingest) as retention:
        assert list(retention.older_than(1_000))[-1].events == 6
    assert watermark(location) == seqs(location)[-1] > 8
    assert len(seqs(location)) == watermark(location) - 6


def test_sqlite_keeps_no_bytes_of_a_deleted_person_in_file_or_log(tmp_path: Path) -> None:
    path = tmp_path / "x.db"
    with open_store(path) as store:
        store_batches(
            store,
            full(0, *(event_at(seq, seq, identity_id=f"secret-{seq % 5}", identity_name=f"Name-{seq % 5}-") for seq in range(1, 101))),
        )
        # Worker and purge hold it open, as they would.
        purge_person(path, "secret-3")
        file_bytes = b"".join(Path(f"{path}{suffix}").read_bytes() for suffix in ("", "-wal"))
    assert b"secret-3" not in file_bytes
    assert b"Name-3-" not in file_bytes
    assert b"secret-2" in file_bytes


def test_purging_a_missing_database_is_an_error_and_creates_none(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="there is no database"):
        Retention(tmp_path / "x.db")
    assert list(tmp_path.iterdir()) == []


def test_a_lock_held_too_long_is_an_error_and_a_retry_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(facewire_platform.history.retention, "PATIENCE", 0.01)
    path = tmp_path / "x.db"
    open_store(path).close()
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreError, match="locked"):
            purge(path, 1)
    assert purge(path, 1) == Purged()


# The command


def run(path: Path, *arguments: str) -> Result:
    return CliRunner().invoke(cli, ["platform", "purge", "--database", f"sqlite:///{path}", *arguments])


def test_the_command_says_how_many(tmp_path: Path) -> None:
    with open_store(tmp_path / "x.db") as store:
        store_batches(store, full(0, event_at(1, 1, identity_id="7"), event_at(2, 2, identity_id="8"), event_at(3, 2**60, identity_id="8")))
    counts = {"events": 1, "kept": 0, "quarantined": 0}
    assert json.loads(run(tmp_path / "x.db", "--person", "7", "--dry-run").stdout) == {**counts, "dry_run": True}
    assert json.loads(run(tmp_path / "x.db", "--person", "7").stdout) == {**counts, "dry_run": False}
    assert "no event has this identity_id" in run(tmp_path / "x.db", "--person", "7").stderr
    assert json.loads(run(tmp_path / "x.db", "--older-than", "180d").stdout) == {**counts, "dry_run": False}
    assert seqs(tmp_path / "x.db") == [3]


@pytest.mark.parametrize(
    "arguments", [[], ["--older-than", "1d", "--person", "7"], ["--older-than", "0"], ["--person", ""], ["--older-than", "soon"]]
)
def test_a_purge_that_would_delete_by_accident_is_refused(tmp_path: Path, arguments: list[str]) -> None:
    open_store(tmp_path / "x.db").close()
    done = run(tmp_path / "x.db", *arguments)
    assert done.exit_code == 2
    assert len(arguments) != 2 or f"Invalid value for '{arguments[0]}':" in done.stderr


def test_a_person_s_match_far_above_the_watermark_is_deleted_once_its_device_is_silent(store: Store, location: Location) -> None:
    store_batches(store, batch(0, 1, 1))
    store_match(store, 1_000_000, now_ms=now_ms())
    assert purge_person(location, "p", dry_run=True) == purge_person(location, "p") == Purged(1, 1, 0, event(1).timestamp)
    change(location, "UPDATE stream SET last_seen = 1")
    assert purge_person(location, "p", dry_run=True) == purge_person(location, "p") == Purged(1, 0, 0, event(1).timestamp)
    assert seqs(location) == []
    with History(location) as history:
        assert [row["unaccounted"] for row in history.conservation()] == [0]
    store_batches(store, batch(1, 2, 2))
    with History(location) as history:
        assert [(row["stored"], row["unaccounted"]) for row in history.conservation()] == [(2, 0)]
