import itertools
import json
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from platform_model import BOOT, EPOCH, StreamModel, bad_event, batch, event

import facewire_platform.schema
import facewire_platform.store
from facewire.errors import BatchRefused, StoreError
from facewire.events import MAX_INT, event_from_map
from facewire.messages import Ack, Batch, Match, Status
from facewire_platform.queries import Filter, History
from facewire_platform.store import Store, open_store

VENDOR_EVENTS = Path(__file__).parent / "data" / "vendor-events.jsonl"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "platform.db"


@pytest.fixture
def store(path: Path) -> Iterator[Store]:
    with open_store(path) as opened:
        yield opened


def take(store: Store, *batches: Batch, device: str = "d", now_ms: int = 1) -> Ack:
    with store.transaction():
        for one in batches:
            ack = store.take_batch(device, one, now_ms)
    return ack


def take_match(store: Store, seq: int, content: int = 0, *, boot: str = BOOT, now_ms: int = 1) -> None:
    with store.transaction():
        store.take_match("d", Match(EPOCH, boot, 1, event(seq, content)), now_ms)


def rows(path: Path, sql: str) -> list[Any]:
    with closing(sqlite3.connect(path)) as db:
        return db.execute(sql).fetchall()


def counts(path: Path) -> tuple[int, int, int, int]:
    """Watermark, stored at or below it, gaps, quarantined."""
    found = rows(
        path, "SELECT watermark, (SELECT count(*) FROM event WHERE stream = id AND seq <= watermark), gaps, quarantined FROM stream"
    )
    return tuple(found[0])


def check_conserved(path: Path) -> None:
    watermark, stored, gaps, quarantined = counts(path)
    assert watermark == stored + gaps + quarantined
    assert gaps == rows(path, "SELECT total(last - first + 1) FROM gap")[0][0]
    assert quarantined == rows(path, "SELECT count(*) FROM rejected")[0][0]


SEQS = st.integers(1, 12)


class StoreMachine(RuleBasedStateMachine):
    """Batches and matches at random, beside the model."""

    dense = 1_000

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.path = Path(self.folder.name) / "x.db"
        self.store = open_store(self.path)
        self.model = StreamModel()
        facewire_platform.store.DENSE = self.dense  # type: ignore[misc]  # how it looks is to make no difference

    @rule(
        after=st.integers(0, 12),
        kinds=st.lists(st.sampled_from(("good", "good", "other", "bad", "lost")), max_size=6),
        unreadable=st.booleans(),
        from_watermark=st.booleans(),
    )
    def history(self, after: int, kinds: list[str], unreadable: bool, from_watermark: bool) -> None:
        after = min(self.model.watermark, 12) if from_watermark else after
        while kinds and kinds[-1] == "lost":
            kinds = kinds[:-1]
        good = [event(seq, int(kind == "other")) for seq, kind in enumerate(kinds, after + 1) if kind in {"good", "other"}]
        bad = [bad_event(seq) for seq, kind in enumerate(kinds, after + 1) if kind == "bad"]
        if unreadable:
            bad.append(bad_event(None))
        one = batch(after, after + len(kinds), *good, bad=tuple(bad))
        ack = take(self.store, one)
        assert (ack.cursor, ack.conflict) == self.model.take(one)

    @rule(seq=SEQS, content=st.integers(0, 1))
    def realtime(self, seq: int, content: int) -> None:
        take_match(self.store, seq, content)
        self.model.take_match(event(seq, content))

    @rule(seq=SEQS)
    def fails_in_the_middle(self, seq: int) -> None:
        with suppress(ZeroDivisionError), self.store.transaction():
            self.store.take_batch("d", batch(self.model.watermark, self.model.watermark + seq, self.model.watermark + seq), 1)
            raise ZeroDivisionError

    @rule()
    def restart(self) -> None:
        self.store.close()
        self.store = open_store(self.path)

    @invariant()
    def is_as_the_model_has_it(self) -> None:
        self.model.check()
        stored = {seq: (at, name) for seq, at, name in rows(self.path, "SELECT seq, timestamp, identity_id FROM event")}
        assert stored == {seq: (e.timestamp, e.identity_id) for seq, e in self.model.stored.items()}
        gaps = rows(self.path, "SELECT first, last FROM gap")
        assert sorted(seq for first, last in gaps for seq in range(first, last + 1)) == sorted(self.model.gaps)
        assert {seq for (seq,) in rows(self.path, "SELECT seq FROM rejected")} == self.model.rejected
        if stream := rows(self.path, "SELECT watermark, gaps, quarantined FROM stream"):
            assert stream == [(self.model.watermark, len(self.model.gaps), len(self.model.rejected))]

    def teardown(self) -> None:
        self.store.close()
        self.folder.cleanup()


class SparseStoreMachine(StoreMachine):
    """The same, each batch being taken for a wide one."""

    dense = 0


TestStore = StoreMachine.TestCase
TestStoreSparse = SparseStoreMachine.TestCase
TestStore.settings = TestStoreSparse.settings = settings(max_examples=60, stateful_step_count=15, deadline=None)


@pytest.fixture(autouse=True)
def dense() -> Iterator[None]:
    before = facewire_platform.store.DENSE
    yield
    facewire_platform.store.DENSE = before  # type: ignore[misc]  # see StoreMachine


def test_a_stream_begins_at_watermark_0_and_another_epoch_is_another_stream(store: Store) -> None:
    assert take(store, batch(0, 2, 1, 2)).cursor == 2
    assert take(store, batch(5, 6, 6, epoch="00000000000000e2")).cursor == 0
    assert take(store, batch(0, 1, 1, epoch="00000000000000e2")).cursor == 1
    assert take(store, batch(0, 0), device="other").cursor == 0


def test_the_same_batch_twice_in_a_transaction_is_stored_once(store: Store, path: Path) -> None:
    assert take(store, batch(0, 2, 1, 2), batch(0, 2, 1, 2)).cursor == 2
    assert counts(path) == (2, 2, 0, 0)


def test_late_events_split_gaps_and_close_them(store: Store, path: Path) -> None:
    take(store, batch(0, 9, 9))
    take_match(store, 4)
    assert rows(path, "SELECT first, last FROM gap ORDER BY first") == [(1, 3), (5, 8)]
    take(store, batch(0, 8, 1, 3, 5, 8))
    assert rows(path, "SELECT first, last FROM gap ORDER BY first") == [(2, 2), (6, 7)]
    take(store, batch(0, 7, 2, 6, 7))
    assert rows(path, "SELECT * FROM gap") == []
    check_conserved(path)


def test_a_split_gap_keeps_the_time_at_which_it_was_declared(store: Store, path: Path) -> None:
    take(store, batch(0, 9, 9), now_ms=70)
    take_match(store, 4, now_ms=90)
    assert rows(path, "SELECT DISTINCT declared_at FROM gap") == [(70,)]


def test_a_bad_event_later_sent_good_leaves_the_quarantine(store: Store, path: Path) -> None:
    assert [r.seq for r in take(store, batch(0, 4, 1, 4, bad=(bad_event(2), bad_event(3)))).rejected] == [2, 3]
    assert counts(path) == (4, 2, 0, 2)
    take(store, batch(1, 2, 2))
    take_match(store, 3)
    assert counts(path) == (4, 4, 0, 0)
    assert rows(path, "SELECT * FROM quarantine") == []


def test_the_count_survives_that_the_quarantine_is_bounded(store: Store, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(facewire_platform.store, "MOST_QUARANTINED", 2)
    take(store, batch(0, 5, bad=tuple(bad_event(seq) for seq in range(1, 6))))
    assert rows(path, "SELECT seq FROM quarantine") == [(4,), (5,)]
    take(store, batch(0, 1, 1))
    assert counts(path) == (5, 1, 0, 4)
    check_conserved(path)


def test_what_retention_deleted_may_come_again_and_the_counts_do_not_mind(store: Store, path: Path) -> None:
    take(store, batch(0, 4, 1, 4, bad=(bad_event(2),)))
    with store.transaction():
        store._db.execute_sql("DELETE FROM event WHERE seq = 1")
    assert take(store, batch(0, 1, 1)).cursor == 4
    assert counts(path) == (4, 2, 1, 1)


def test_quarantine_keeps_one_row_for_a_message_however_often_it_comes(store: Store, path: Path) -> None:
    for now_ms in (1, 2, 3):
        with store.transaction():
            store.quarantine("t", "why", b"\x00raw", now_ms)
    assert rows(path, "SELECT topic, reason, payload, size_bytes, first_at, last_at, times FROM quarantine") == [
        ("t", "why", b"\x00raw", 4, 1, 3, 3)
    ]


def test_quarantine_keeps_the_beginning_of_a_large_payload_and_its_size(store: Store, path: Path) -> None:
    with store.transaction():
        store.quarantine("t", "why", bytes(1_000_000), 1)
    assert rows(path, "SELECT length(payload), size_bytes FROM quarantine") == [(65_536, 1_000_000)]


def test_a_batch_over_all_the_integers_is_one_gap_and_one_event(store: Store, path: Path) -> None:
    assert take(store, batch(0, 2**60, 2**60)).cursor == 2**60
    assert take(store, batch(2**60, MAX_INT, MAX_INT)).cursor == MAX_INT
    assert take(store, batch(MAX_INT, MAX_INT)).cursor == MAX_INT
    assert rows(path, "SELECT first, last FROM gap") == [(1, 2**60 - 1), (2**60 + 1, MAX_INT - 1)]
    watermark, stored, gaps, _ = counts(path)
    assert watermark == stored + gaps


def test_a_hole_at_the_end_of_the_integers_is_a_hole(store: Store) -> None:
    assert take(store, batch(MAX_INT, MAX_INT)).cursor == 0
    assert take(store, batch(MAX_INT - 1, MAX_INT, MAX_INT)).cursor == 0
    assert take(store, batch(0, MAX_INT, 1)).cursor == MAX_INT


def test_a_wide_batch_over_many_matches_declares_every_hole_between_them(store: Store, path: Path) -> None:
    """More gaps than one statement may have variables, which once kept the device's history out for ever."""
    with store.transaction():
        for seq in range(2, 40_001, 2):
            store._insert(1, (event(seq),))
        ack = store.take_batch("d", batch(0, 40_001, 40_001), 1)
    assert ack.cursor == 40_001
    assert rows(path, "SELECT count(*), min(last - first), max(last - first) FROM gap")[0] == (20_000, 0, 0)
    check_conserved(path)


def test_match_first_or_history_first_makes_no_difference(store: Store, path: Path) -> None:
    take_match(store, 1)
    assert counts(path) == (0, 0, 0, 0)
    take(store, batch(0, 2, 1, 2))
    take_match(store, 2)
    assert counts(path) == (2, 2, 0, 0)


def test_a_match_with_other_content_than_history_is_found_by_its_history_copy(store: Store) -> None:
    take_match(store, 2, content=5)
    ack = take(store, batch(0, 2, 1, 2))
    assert (ack.conflict, ack.cursor) == (2, 1)


def test_a_refused_batch_is_answered_with_the_watermark_and_changes_nothing(store: Store, path: Path) -> None:
    take(store, batch(0, 2, 1, 2))
    before = rows(path, "SELECT * FROM stream")
    with store.transaction():
        ack = store.take_refused("d", BatchRefused("too many", epoch=EPOCH, boot=BOOT, key=9))
    assert ack == Ack(EPOCH, BOOT, 9, 2, store.identity, error="too many")
    with store.transaction():
        assert store.take_refused("new", BatchRefused("too many", epoch=EPOCH, boot=BOOT, key=9)).cursor == 0
    assert rows(path, "SELECT * FROM stream") == before


def online(path: Path) -> bool:
    with History(path) as history:
        return bool(next(history.devices())["online"])


def tell(store: Store, boot: str, *, online: bool) -> bool:
    with store.transaction():
        return store.take_status("d", Status(boot, online, 1, EPOCH if online else None), 1)


OLD, NEW = "0000000000000001", "0000000000000002"


def test_a_will_of_an_old_boot_is_ignored(store: Store, path: Path) -> None:
    assert tell(store, OLD, online=True)
    assert tell(store, NEW, online=True)
    assert not tell(store, OLD, online=False)
    assert online(path)
    assert tell(store, NEW, online=False)
    assert not online(path)


def test_a_boot_is_seen_from_its_batches_and_its_matches_too(store: Store, path: Path) -> None:
    for seq, how in enumerate(("batch", "match"), 1):
        assert tell(store, f"{seq:016x}", online=True)
        if how == "batch":
            take(store, batch(0, 0, boot=f"{seq + 1:016x}"))
        else:
            take_match(store, 9, boot=f"{seq + 1:016x}")
        assert not tell(store, f"{seq:016x}", online=False)
        assert online(path)


def test_every_field_of_the_vendors_comes_back_as_it_went_in(store: Store, path: Path) -> None:
    lines = [json.loads(line) for line in VENDOR_EVENTS.read_text().splitlines()]
    with store.transaction():
        for seq, fields in enumerate(lines, 1):
            fields.setdefault("person_type", 4)
            store.take_match("d", Match(EPOCH, BOOT, 1, event_from_map({**fields, "seq": seq})), 1)
    with History(path) as history:
        found = {row["seq"]: row for row in history.events(Filter())}
    for seq, fields in enumerate(lines, 1):
        assert found[seq] == {"device": "d", "epoch": EPOCH, "seq": seq, **fields}


def test_the_identity_of_a_store_stays_and_a_new_store_has_another(tmp_path: Path) -> None:
    made = []
    for name in ("a", "a", "b"):
        with open_store(tmp_path / name) as store:
            made.append(store.identity)
    assert made[0] == made[1] != made[2]


def test_a_second_worker_is_refused_while_the_first_lives(store: Store, path: Path) -> None:
    with pytest.raises(StoreError, match="another worker"):
        open_store(path)
    (path.parent / "link.db").symlink_to(path)
    with pytest.raises(StoreError, match="another worker"):
        open_store(path.parent / "link.db")
    store.close()
    open_store(path).close()


FOREIGN = {
    "another program's database": ["CREATE TABLE t (a)"],
    "another facewire database": ["CREATE TABLE t (a)", "PRAGMA application_id = 7"],
    "an empty database of another program": ["PRAGMA application_id = 7"],
}


@pytest.mark.parametrize("statements", FOREIGN.values(), ids=FOREIGN)
@pytest.mark.parametrize("opener", [open_store, History])
def test_a_foreign_database_is_refused_and_not_touched(path: Path, statements: list[str], opener: Any) -> None:
    with closing(sqlite3.connect(path)) as db:
        for statement in statements:
            db.execute(statement)
        db.commit()
    before = path.read_bytes()
    with pytest.raises(StoreError, match="is not the database of a facewire platform"):
        opener(path)
    assert path.read_bytes() == before


@pytest.mark.parametrize("opener", [open_store, History])
def test_a_newer_schema_is_refused_with_both_numbers(path: Path, opener: Any) -> None:
    open_store(path).close()
    with closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA user_version = 99")
    with pytest.raises(StoreError, match="schema 99, this facewire knows 1"):
        opener(path)


@pytest.mark.parametrize("opener", [open_store, History])
def test_no_database_at_all_is_refused_in_one_line(path: Path, opener: Any) -> None:
    path.write_bytes(b"no database, for sure" * 1000)
    with pytest.raises(StoreError, match="not a database"):
        opener(path)
    path.unlink()
    path.mkdir()
    with pytest.raises(StoreError, match="is a directory"):
        opener(path)
    with pytest.raises(StoreError, match=r"No such file|there is no database"):
        opener(path / "missing" / "x.db")


def test_a_name_that_sqlite_would_read_otherwise_is_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in (":memory:", "a b?mode=ro#%41", "file:x"):
        with open_store(Path(name)) as store:
            take(store, batch(0, 1, 1))
        with History(Path(name)) as history:
            assert len(list(history.events(Filter()))) == 1
        assert (tmp_path / name).exists()


def test_a_query_writes_nothing_and_makes_no_files(path: Path) -> None:
    with pytest.raises(StoreError, match="there is no database"):
        History(path)
    assert list(path.parent.iterdir()) == []
    path.touch()
    with pytest.raises(StoreError, match="is not the database"):
        History(path)
    assert [(file.name, file.stat().st_size) for file in path.parent.iterdir()] == [(path.name, 0)]
    path.unlink()
    with open_store(path) as store:
        take(store, batch(0, 1, 1))
    before = {file.name: file.read_bytes() for file in path.parent.iterdir()}
    with History(path) as history:
        assert len(list(history.events(Filter()))) == 1
        with pytest.raises(Exception, match="readonly"):
            history._db.execute_sql("DELETE FROM event")
    assert {file.name: file.read_bytes() for file in path.parent.iterdir()} == before


def test_after_a_kill_a_query_reads_what_was_committed_and_leaves_the_recovery_to_the_worker(path: Path) -> None:
    script = (
        "import os, sys\n"
        "sys.path.insert(0, sys.argv[2])\n"
        "from pathlib import Path\n"
        "from platform_model import batch\n"
        "from facewire_platform.store import open_store\n"
        "store = open_store(Path(sys.argv[1]))\n"
        "with store.transaction(): store.take_batch('d', batch(0, 1, 1), 1)\n"
        "os._exit(9)\n"
    )
    subprocess.run([sys.executable, "-c", script, str(path), str(Path(__file__).parent)], check=False, timeout=30)
    before = path.read_bytes()
    with History(path) as history:
        assert len(list(history.events(Filter()))) == 1
    assert path.read_bytes() == before
    with open_store(path) as store:
        assert take(store, batch(1, 1)).cursor == 1


def test_a_lock_of_another_process_is_an_outage(store: Store, path: Path) -> None:
    store._db.pragma("busy_timeout", 1)
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreError, match="locked"):
            take(store, batch(0, 1, 1))
        other.execute("ROLLBACK")
    assert take(store, batch(0, 1, 1)).cursor == 1


def test_a_full_disk_is_an_outage_in_which_nothing_is_half_written(store: Store, path: Path) -> None:
    take(store, batch(0, 1, 1))
    before = store._db.pragma("page_count")
    store._db.pragma("max_page_count", before)
    with pytest.raises(StoreError, match="full"):
        take(store, batch(1, 5, *(event(seq, photo=bytes(100_000)) for seq in range(2, 6))))
    assert counts(path) == (1, 1, 0, 0)
    store._db.pragma("max_page_count", before + 1_000)
    assert take(store, batch(1, 3, 2, 3)).cursor == 3


def test_a_mistake_of_ours_is_no_outage(store: Store) -> None:
    with pytest.raises(Exception, match="no such table") as caught, store.transaction():
        store._db.execute_sql("SELECT * FROM missing")
    assert not isinstance(caught.value, StoreError)
    assert take(store, batch(0, 1, 1)).cursor == 1


def test_a_damaged_page_is_an_error_that_says_so(path: Path) -> None:
    with open_store(path) as store:
        take(store, batch(0, 100, *(event(seq, photo=bytes(1_000)) for seq in range(1, 101))))
    content = bytearray(path.read_bytes())
    content[3 * 16_384 :] = b"\xff" * (len(content) - 3 * 16_384)
    path.write_bytes(content)
    with pytest.raises(StoreError, match=r"malformed|not a database"), History(path) as history:
        list(itertools.chain(history.events(Filter()), history.devices(), history.gaps(), history.quarantine()))


def test_a_commit_is_on_the_disk_before_the_transaction_ends(store: Store) -> None:
    assert store._db.pragma("synchronous") == 2  # FULL
    assert store._db.pragma("journal_mode") == "wal"


def test_the_usual_batch_takes_few_statements(store: Store) -> None:
    take(store, batch(0, 100, *range(1, 101)))
    told: list[str] = []
    store._db.connection().set_trace_callback(told.append)
    take(store, batch(100, 200, *range(101, 201)))
    store._db.connection().set_trace_callback(None)
    assert len(told) == 6, told  # begin, stream, stored, insert, update, commit
