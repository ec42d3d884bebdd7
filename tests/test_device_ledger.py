"""The ledger of foreign records, and seqs that are skipped, on real SQLite."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from device_events import event

from facewire import codec
from facewire.errors import StoreError
from facewire.messages import decode_batch
from facewire_device.ledger import TIMES_CAPACITY, Entry, Ledger, Outcome
from facewire_device.store import Store, open_store
from facewire_device.uploader import Fork

RECORDED, REPEATED, TOO_OLD = Outcome.RECORDED, Outcome.REPEATED, Outcome.TOO_OLD
#: Later than all events of these tests.
NOW = 10_000_000


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with open_store(tmp_path / "x.db") as store:
        yield store


def entry(number: int, form: str = "rec", *shared: str, score: float = 0.5, realtime: bool = True) -> Entry:
    return Entry(form, f"1/{number}", event(number, score), realtime=realtime, mark=f"m{number}", shared=shared)


def stored_numbers(store: Store) -> list[int]:
    with closing(sqlite3.connect(store.path)) as other:
        rows = other.execute("SELECT packed FROM event WHERE length(packed) > 0 ORDER BY seq").fetchall()
    return [codec.unpack(packed)["timestamp"] for (packed,) in rows]


def test_a_record_that_comes_again_is_not_recorded_again(store: Store) -> None:
    ledger = Ledger(store)
    assert ledger.record([entry(1), entry(2)], now_ms=NOW) == [RECORDED, RECORDED]
    assert ledger.record([entry(2), entry(3), entry(1), entry(3)], now_ms=NOW) == [REPEATED, RECORDED, REPEATED, REPEATED]
    assert stored_numbers(store) == [1, 2, 3]


def test_the_ledger_is_there_after_a_restart(store: Store, tmp_path: Path) -> None:
    Ledger(store).record([entry(1)], now_ms=NOW, notes={"a": "b"})
    store.close()
    with open_store(tmp_path / "x.db") as again:
        ledger = Ledger(again)
        assert ledger.record([entry(1)], now_ms=NOW) == [REPEATED]
        assert (ledger.mark_of("rec", "1/1"), ledger.mark_of("rec", "1/2"), ledger.note("a"), ledger.note("b")) == ("m1", None, "b", None)


def test_a_key_counts_within_its_form(store: Store) -> None:
    assert Ledger(store).record([entry(1), entry(1, "snap")], now_ms=NOW) == [RECORDED, RECORDED]


def test_record_and_row_are_one_transaction(store: Store) -> None:
    ledger = Ledger(store)
    store.execute("CREATE TRIGGER fail BEFORE INSERT ON ledger WHEN new.key = '1/2' BEGIN SELECT raise(FAIL, 'disk'); END")
    with pytest.raises(StoreError, match="disk"):
        ledger.record([entry(1), entry(2)], now_ms=NOW, notes={"a": "b"})
    assert (stored_numbers(store), store.ring().head, ledger.mark_of("rec", "1/1"), ledger.note("a")) == ([], 0, None, None)


def test_the_ledger_survives_a_fork(store: Store) -> None:
    ledger = Ledger(store)
    ledger.record([entry(1), entry(2), entry(3)], now_ms=NOW)
    store.apply_ack(lambda _: Fork(2))
    assert ledger.record([entry(number) for number in (1, 2, 3, 4)], now_ms=NOW) == [REPEATED, REPEATED, REPEATED, RECORDED]
    assert stored_numbers(store) == [2, 3, 4]


def test_a_copy_in_another_form_is_not_recorded_in_either_order(store: Store) -> None:
    ledger = Ledger(store)
    first = [entry(1, "realtime", "s"), entry(2, "history", "s")]
    assert [ledger.record([one], now_ms=NOW)[0] for one in first] == [RECORDED, REPEATED]
    assert ledger.record(first, now_ms=NOW) == [REPEATED, REPEATED]
    # A second event that looks the same, as strangers may: once in each form again.
    assert ledger.record([entry(3, "history", "s")], now_ms=NOW) == [RECORDED]
    assert ledger.record([entry(4, "realtime", "s")], now_ms=NOW) == [REPEATED]
    assert ledger.record([entry(5, "id", "s"), entry(6, "id", "s"), entry(7, "id", "s")], now_ms=NOW) == [REPEATED, REPEATED, RECORDED]
    assert stored_numbers(store) == [1, 3, 7]


def test_a_query_that_may_mean_either_millisecond_meets_its_push(store: Store) -> None:
    ledger = Ledger(store)
    assert ledger.record([entry(1, "id", "700", "701"), entry(2, "history", "701"), entry(3, "history", "700")], now_ms=NOW) == [
        RECORDED,
        REPEATED,
        REPEATED,
    ]


def test_the_ledger_outlives_the_ring_and_then_refuses_what_it_has_forgotten(tmp_path: Path) -> None:
    with open_store(tmp_path / "small.db", capacity=20) as store:
        ledger = Ledger(store)
        last = TIMES_CAPACITY * 20
        ledger.record([entry(number, "rec", f"s{number}") for number in range(1, last + 1)], now_ms=NOW)
        assert ledger.record([entry(1), entry(last)], now_ms=NOW) == [REPEATED, REPEATED]
        ledger.record([entry(number) for number in range(last + 1, last + 301)], now_ms=NOW)
        assert ledger.mark_of("rec", "1/1") is None
        assert ledger.record([entry(1), entry(300), entry(301)], now_ms=NOW) == [TOO_OLD, TOO_OLD, REPEATED]
        assert store.query("SELECT count(*) FROM ledger")[0][0] == last
        assert store.query("SELECT min(place) FROM shared")[0][0] == store.query("SELECT min(place) FROM ledger")[0][0]
        assert store.ring().head == last + 300


def test_a_clock_that_was_far_ahead_for_a_while_does_not_move_the_horizon_there(tmp_path: Path) -> None:
    with open_store(tmp_path / "small.db", capacity=20) as store:
        ledger = Ledger(store)
        ledger.record([Entry("rec", f"f{n}", event(2**40 + n)) for n in range(300)], now_ms=1)
        ledger.record([entry(number) for number in range(2, 500)], now_ms=NOW)
        assert ledger.record([entry(900)], now_ms=NOW) == [RECORDED]


def test_history_only_is_never_above_a_threshold_not_even_after_a_fork(store: Store) -> None:
    ledger = Ledger(store)
    ledger.record([entry(1, score=0.9, realtime=False), entry(2, score=0.9), entry(3, score=0.9, realtime=False)], now_ms=NOW)
    assert [seq for seq, _ in store.events_above(0, 0.5)] == [2]
    store.apply_ack(lambda _: Fork(2))
    assert [seq for seq, _ in store.events_above(0, -1e300)] == [1]
    assert stored_numbers(store) == [2, 3]
    batch = decode_batch(store.next_batch("b" * 16).payload)
    assert [(one.seq, one.score) for one in batch.events] == [(1, 0.9), (2, 0.9)]


def test_skipped_seqs_are_declared_lost_by_the_next_batch(store: Store, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store.append([event(1)])
    added = store.skip(3, "hole in the numbers")
    assert (added.first, added.last) == (2, 4)
    store.append([event(5)])
    batch = decode_batch(store.next_batch("b" * 16).payload)
    assert ([one.seq for one in batch.events], batch.after, batch.cursor, batch.head) == ([1, 5], 0, 5, 5)
    assert "damaged" not in caplog.text
    assert "first=2 last=4 reason=hole in the numbers" in caplog.text
    store.close()
    with open_store(tmp_path / "x.db", check=True) as again:
        again.apply_ack(lambda _: Fork(2))
        batch = decode_batch(again.next_batch("b" * 16).payload)
        assert ([one.seq for one in batch.events], batch.cursor, batch.head) == ([4], 4, 4)
        assert "damaged" not in caplog.text


def test_skipped_seqs_at_the_head_are_declared_with_what_follows(store: Store) -> None:
    store.append([event(1)])
    store.skip(2, "x")
    batch = decode_batch(store.next_batch("b" * 16).payload)
    assert (batch.cursor, batch.head) == (1, 3)


def test_more_may_be_skipped_than_the_ring_holds(tmp_path: Path) -> None:
    with open_store(tmp_path / "small.db", capacity=10) as store:
        store.append([event(1)])
        store.skip(1_000_000, "x")
        assert (store.ring().head, store.ring().oldest) == (1_000_001, 999_992)
        with pytest.raises(ValueError, match="skip of 0 seqs is below the limit of 1"):
            store.skip(0, "x")
    with open_store(tmp_path / "small.db", check=True) as store:
        store.append([event(2)])
        assert store.ring().head == 1_000_002


def test_a_poison_record_takes_a_seq_that_history_declares_lost(store: Store) -> None:
    ledger = Ledger(store)
    poison = Entry("rec", "1/2", None, reason="poison", mark="p")
    assert ledger.record([entry(1), poison, poison, entry(3)], now_ms=NOW) == [RECORDED, RECORDED, REPEATED, RECORDED]
    assert [one.seq for one in decode_batch(store.next_batch("b" * 16).payload).events] == [1, 3]


def test_a_hole_is_named_and_noted_in_one_commit(store: Store) -> None:
    ledger = Ledger(store)
    ledger.skip(2, "hole", {"numbers": "closed"})
    assert (store.ring().head, ledger.note("numbers")) == (2, "closed")
