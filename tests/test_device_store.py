import multiprocessing
import os
import random
import resource
import shutil
import signal
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import pytest
from device_events import event, events
from device_processes import append_many, append_until_killed, die_in_a_fork, start_process
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from facewire.errors import StoreError
from facewire.events import MAX_EVENT_BYTES, Event
from facewire.messages import Batch, Origin, decode_batch
from facewire_device import outgoing
from facewire_device import store as module
from facewire_device.identity import new_id
from facewire_device.ring import Ring
from facewire_device.state import COLUMNS, state_crc
from facewire_device.store import Appended, Store, open_store
from facewire_device.store_database import ReplacedError
from facewire_device.store_file import DamagedError, lock_for_agent
from facewire_device.uploader import Adopt, Fork, Ignore

BOOT = "b" * 16


def decoded_batch(store: Store, most: int = 100) -> Batch:
    built = store.next_batch(BOOT, most)
    batch = decode_batch(built.payload)
    assert (batch.epoch, batch.boot, batch.cursor, batch.bad) == (built.epoch, BOOT, built.key, ())
    return batch


def drain(store: Store) -> list[Event]:
    """All events above the cursor, as a platform gets them."""
    found: list[Event] = []
    while (batch := decoded_batch(store)).events:
        found += batch.events
        adopt(store, batch.cursor)
    return found


def adopt(store: Store, cursor: int) -> Ring:
    return store.apply_ack(lambda _: Adopt(cursor))[1]


def fork(store: Store, first: int) -> Ring:
    return store.apply_ack(lambda _: Fork(first))[1]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "store.db"


@pytest.fixture
def store(path: Path) -> Iterator[Store]:
    with open_store(path) as opened:
        yield opened


def numbers(found: list[Event]) -> list[int]:
    return [item.timestamp for item in found]


# What it holds


def test_a_new_store_is_empty_and_has_an_epoch_of_its_own(tmp_path: Path) -> None:
    with open_store(tmp_path / "a") as a, open_store(tmp_path / "b") as b:
        assert a.ring() == Ring(a.ring().epoch)
        assert a.ring().epoch != b.ring().epoch
        assert a.capacity == 10_000
        assert not decoded_batch(a).events


def test_an_event_comes_back_as_it_went_in_with_its_seq(store: Store) -> None:
    given = Event(0, 5, -0.0, "p", "Zoë\0", 9, "g", "e", {"x": [1, {"y": None}], "picture": b"\0\xff", "big": 2**63})
    assert store.append([given]) == Appended(store.ring().epoch, 1, 1)
    assert decoded_batch(store).events == (given._replace(seq=1),)


def test_seqs_go_on_without_a_hole_after_the_store_was_closed(path: Path) -> None:
    with open_store(path) as store:
        store.append(events(1, 3))
        epoch = store.ring().epoch
    with open_store(path) as store:
        assert store.append(events(4, 5)) == Appended(epoch, 4, 5)
        assert [item.seq for item in drain(store)] == [1, 2, 3, 4, 5]


def test_a_batch_ends_at_its_number_of_events_or_before_it_grows_too_large(store: Store) -> None:
    store.append([*events(1, 150), *events(151, 160, picture=bytes(MAX_EVENT_BYTES // 2))])
    assert decoded_batch(store, 7).cursor == 7
    assert decoded_batch(store).cursor == 100
    adopt(store, 150)
    payload = store.next_batch(BOOT).payload
    assert 1 < len(decode_batch(payload).events) < 10
    assert len(payload) < outgoing.MAX_BATCH_BYTES + 1000


def test_an_event_over_the_batch_limit_goes_alone(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outgoing, "MAX_BATCH_BYTES", 100)
    store.append(events(1, 2, picture=bytes(500)))
    assert numbers(drain(store)) == [1, 2]


def test_only_scores_above_the_threshold_are_found_after_a_seq(store: Store) -> None:
    store.append([event(number, score) for number, score in enumerate([0.9, 0.8, 0.81, 0.2, 0.95], 1)])
    assert [seq for seq, _ in store.events_above(0, 0.8)] == [1, 3, 5]
    assert [seq for seq, _ in store.events_above(1, 0.8)] == [3, 5]


def test_another_connections_commit_changes_the_version_and_nothing_else_does(store: Store, path: Path) -> None:
    before = store.version()
    store.append([event()])
    assert store.version() == before
    with open_store(path) as other:
        other.append([event()])
        assert store.version() != before


def test_the_rate_uses_the_devices_clock(store: Store) -> None:
    assert store.rate() is None
    store.append(events(1000, 1000))
    assert store.rate() is None
    store.append(events(5000, 5000))
    assert store.rate() is None, "two events show no rate"
    store.append(events(9000, 9000))
    assert store.rate() == pytest.approx(0.25)


# The ring


def test_the_oldest_events_are_overwritten_and_the_unacked_ones_counted(path: Path) -> None:
    with open_store(path, capacity=5) as store:
        store.append(events(1, 4))
        adopt(store, 2)
        store.append(events(5, 9))
        assert (store.ring().oldest, store.ring().dropped) == (5, 2)
        batch = decoded_batch(store)
        assert (batch.after, [item.seq for item in batch.events]) == (2, [5, 6, 7, 8, 9])


def test_overwritten_rows_are_deleted_whichever_connection_recorded(path: Path) -> None:
    with open_store(path, capacity=50) as one, open_store(path) as other:
        for number in range(1, 1_000, 2):
            one.append([event(number)])
            other.append([event(number + 1)])
            if number == 501:
                fork(other, 450)
        (rows,) = sqlite3.connect(path).execute("SELECT count(*) FROM event").fetchone()
        assert 50 <= rows <= 50 + module.TRIM_EVERY


def test_appending_more_than_the_ring_holds_keeps_the_last(path: Path) -> None:
    with open_store(path, capacity=3) as store:
        assert store.append(events(1, 10)) == Appended(store.ring().epoch, 1, 10)
        assert numbers(drain(store)) == [8, 9, 10]


def test_a_capacity_is_kept_until_another_is_given(path: Path) -> None:
    with open_store(path, capacity=5) as store:
        store.append(events(1, 5))
    with open_store(path) as store:
        assert store.capacity == 5
    with open_store(path, capacity=2) as store:
        assert (store.ring().oldest, store.ring().dropped) == (4, 3)
        assert numbers(drain(store)) == [4, 5]
    with open_store(path, capacity=8) as store:
        store.append(events(6, 13))
        assert (store.ring().oldest, store.capacity) == (6, 8)


def test_a_capacity_that_another_connection_changes_counts_at_once(path: Path) -> None:
    with open_store(path, capacity=5) as store:
        store.append(events(1, 5))
        open_store(path, capacity=2).close()
        store.append([event(6)])
        assert store.ring().oldest == 5


@pytest.mark.parametrize("capacity", [0, -1, 10**20])
def test_a_capacity_out_of_its_limits_is_refused_and_makes_no_file(path: Path, capacity: int) -> None:
    with pytest.raises(ValueError, match=rf"capacity of {capacity} events is not from 1 to the limit"):
        open_store(path, capacity=capacity)
    assert not path.exists()


# Forks


@pytest.mark.parametrize("count", [1, 99, 100, 101, 350])
@pytest.mark.parametrize("first", [1, 2, 50, 101, 340])
def test_a_fork_records_the_events_from_a_seq_on_again_from_seq_1(path: Path, count: int, first: int) -> None:
    with open_store(path) as store:
        store.append(events(1, count))
        before = adopt(store, min(40, count))
        after = fork(store, first)
        remaining = list(range(first, count + 1))
        assert (
            after
            == store.ring()
            == Ring(after.epoch, head=len(remaining), origins=(Origin(before.epoch, min(first, count + 1), count, diverged=True),))
        )
        assert after.epoch != before.epoch
        found = drain(store)
        assert (numbers(found), [item.seq for item in found]) == (remaining, list(range(1, len(remaining) + 1)))
    with open_store(path, check=True):
        pass


def test_a_fork_of_an_overflowed_ring_leaves_the_overwritten_events_as_a_gap(path: Path) -> None:
    with open_store(path, capacity=150) as store:
        store.append(events(1, 400))
        after = fork(store, 101)
        assert (after.head, after.oldest, after.dropped) == (300, 151, 150)
        found = drain(store)
        assert (found[0].seq, found[0].timestamp, len(found)) == (151, 251, 150)
        store.append(events(401, 401))
        assert store.ring().oldest == 152


def test_a_fork_killed_in_the_middle_changes_nothing(path: Path) -> None:
    with open_store(path) as store:
        store.append(events(1, 500))
        before = store.ring()
    process = start_process(die_in_a_fork, path)
    process.join()
    assert process.exitcode == -signal.SIGKILL
    with open_store(path) as store:
        assert store.ring() == before
        assert numbers(drain(store)) == list(range(1, 501))


def test_another_machine_forks_the_store_with_its_unacked_events(path: Path) -> None:
    with open_store(path, machine="one") as store:
        store.append(events(1, 5))
        epoch = adopt(store, 3).epoch
    with open_store(path, machine="one") as store:
        assert store.ring().epoch == epoch
    with open_store(path) as store:
        assert store.ring().epoch == epoch, "a machine that is not known leaves the owner alone"
    with open_store(path, machine="two") as store:
        assert store.ring().epoch != epoch
        assert numbers(drain(store)) == [4, 5]


def test_the_first_known_machine_owns_the_store_without_a_fork(path: Path) -> None:
    with open_store(path) as store:
        epoch = store.ring().epoch
    with open_store(path, machine="one") as store:
        assert store.ring().epoch == epoch


def test_an_ack_that_is_ignored_changes_nothing(store: Store) -> None:
    store.append([event()])
    before = store.ring()
    assert store.apply_ack(lambda _: Ignore()) == (Ignore(), before)
    assert store.ring() == before


def test_a_store_stays_with_its_device(store: Store) -> None:
    store.assign_device("gate-1")
    store.assign_device("gate-1")
    with pytest.raises(StoreError, match="belongs to device 'gate-1', not to 'gate-2'"):
        store.assign_device("gate-2")
    assert store.device() == "gate-1"


class AgainstAModel(RuleBasedStateMachine):
    """The store beside a list and a few numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(mkdtemp())
        self.path = self.folder / "s.db"
        self.capacity = 7
        self.store = open_store(self.path, capacity=7)
        self.recorded = 0
        #: The (seq, number) of each event that the ring must hold.
        self.held: list[tuple[int, int]] = []
        self.head = self.cursor = 0

    def teardown(self) -> None:
        self.store.close()
        shutil.rmtree(self.folder)

    @rule(count=st.integers(0, 9))
    def append(self, count: int) -> None:
        first = self.recorded + 1
        self.store.append(events(first, self.recorded + count))
        self.held += [(self.head + 1 + place, first + place) for place in range(count)]
        self.recorded += count
        self.head += count
        self.held = self.held[-self.capacity :]

    @rule()
    def send_and_adopt(self) -> None:
        batch = decoded_batch(self.store, 3)
        expected = [pair for pair in self.held if pair[0] > self.cursor][:3]
        assert [(item.seq, item.timestamp) for item in batch.events] == expected
        self.cursor = adopt(self.store, batch.cursor).cursor
        assert self.cursor == batch.cursor

    @rule(share=st.floats(0, 1))
    def go_back(self, share: float) -> None:
        self.cursor = int(self.cursor * share)
        adopt(self.store, self.cursor)

    @precondition(lambda self: self.head)
    @rule(share=st.floats(0, 1))
    def fork(self, share: float) -> None:
        first = 1 + int(self.head * share)
        fork(self.store, first)
        self.held = [(seq - first + 1, number) for seq, number in self.held if seq >= first]
        self.head, self.cursor = self.head - first + 1, 0

    @rule(capacity=st.integers(1, 12))
    def reopen(self, capacity: int) -> None:
        self.store.close()
        self.store = open_store(self.path, capacity=capacity)
        self.capacity = capacity
        self.held = self.held[-capacity:]

    @invariant()
    def they_agree(self) -> None:
        ring = self.store.ring()
        assert (ring.head, ring.cursor) == (self.head, self.cursor)
        assert ring.oldest == (self.held[0][0] if self.held else self.head + 1)


TestAgainstAModel = AgainstAModel.TestCase
TestAgainstAModel.settings = settings(max_examples=40, stateful_step_count=25)


# Processes


@pytest.mark.process
def test_processes_that_make_one_store_at_once_agree_on_its_epoch_and_its_seqs_have_no_hole(path: Path) -> None:
    processes = [start_process(append_many, path, 1_000 * which, 150) for which in range(1, 4)]
    for process in processes:
        process.join()
        assert process.exitcode == 0
    with open_store(path) as store:
        found = drain(store)
    assert [item.seq for item in found] == list(range(1, 451))
    for which in range(1, 4):
        own = [number for number in numbers(found) if number // 1_000 == which]
        assert own == list(range(1_000 * which, 1_000 * which + 150)), "each one's events, in its order"


@pytest.mark.process
def test_confirmed_events_survive_a_kill(path: Path) -> None:
    ours, theirs = multiprocessing.get_context("spawn").Pipe(duplex=False)
    process = start_process(append_until_killed, path, theirs)
    theirs.close()
    said = [ours.recv() for _ in range(100)]
    process.kill()
    process.join()
    while ours.poll():
        try:
            said.append(ours.recv())
        except EOFError:
            break
    with open_store(path) as store:
        assert numbers(drain(store))[: len(said)] == said


@pytest.mark.process
def test_a_second_open_in_a_process_does_not_let_another_process_delete_the_wal_under_the_first(path: Path) -> None:
    with open_store(path) as store:
        open_store(path).close()
        process = start_process(append_many, path, 1, 1)
        process.join()
        assert process.exitcode == 0
        store.append([event(2)])
        process = start_process(append_many, path, 3, 1)
        process.join()
        assert numbers(drain(store)) == [1, 2, 3]
    with open_store(path) as store:
        assert store.ring().head == 3


def test_only_one_agent_may_lock_a_store(path: Path) -> None:
    first = lock_for_agent(path)
    with pytest.raises(StoreError, match="another agent runs on this store"):
        lock_for_agent(path)
    first.close()
    lock_for_agent(path).close()


def test_an_agent_without_a_folder_names_the_folder_and_not_a_file_of_ours(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=f"^{tmp_path}/none/s.db: there is no folder {tmp_path}/none$"):
        lock_for_agent(tmp_path / "none" / "s.db")


# Full disks


@contextmanager
def no_file_larger_than(size_bytes: int) -> Iterator[None]:
    """A disk that is full: a write past this fails."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)


@pytest.mark.parametrize(
    "change",
    [
        lambda s: s.append(events(1, 2_000)),
        lambda s: adopt(s, 30),
        lambda s: fork(s, 20),
        lambda s: s.resize(5),
        lambda s: s.assign_machine("m"),
    ],
)
def test_on_a_full_disk_a_change_fails_completely_and_a_later_one_succeeds(path: Path, change: Callable[[Store], Any]) -> None:
    with open_store(path) as store, open_store(path) as other:
        store.append(events(1, 50))
        before = store.ring()
        with no_file_larger_than((path.with_name("store.db-wal")).stat().st_size):
            for _ in range(2):
                with pytest.raises(StoreError, match=r"store\.db: (disk I/O error|database or disk is full)"):
                    change(store)
            assert store.ring() == other.ring() == before
            assert decoded_batch(store).cursor == 50, "what is there can still be sent"
        change(store)
        assert store.append([event(51)]).last == store.ring().head
    with open_store(path, check=True):
        pass


# Files that are not as they should be


def closed_store(path: Path, count: int = 300) -> bytes:
    with open_store(path) as store:
        store.append(events(1, count, note="x" * 50))
    return path.read_bytes()


def _foreign_sqlite(path: Path, size_bytes: int = 8192) -> None:
    database = sqlite3.connect(path)
    database.execute("PRAGMA journal_mode = wal")
    database.execute("CREATE TABLE mine (a)")
    database.close()
    os.truncate(path, size_bytes)


def _empty_sqlite(path: Path) -> None:
    database = sqlite3.connect(path)
    database.execute("VACUUM")
    database.close()


FOREIGN: dict[str, Callable[[Path], object]] = {
    "garbage": lambda path: path.write_bytes(b"garbage" * 1000),
    "one byte": lambda path: path.write_bytes(b"S"),
    "text": lambda path: path.write_text("hello"),
    "another application's": _foreign_sqlite,
    "an empty SQLite database": _empty_sqlite,
    "a damaged one of another application": lambda path: _foreign_sqlite(path, 5000),
    "a header of zeros": lambda path: path.write_bytes(bytes(100) + closed_store(path)[100:]),
}


@pytest.mark.parametrize("make", FOREIGN.values(), ids=FOREIGN)
def test_a_foreign_file_is_refused_and_not_changed(path: Path, make: Callable[[Path], object]) -> None:
    make(path)
    before, beside = path.read_bytes(), sorted(path.parent.iterdir())
    for replace in (False, True):
        with pytest.raises(StoreError, match=r"is not an SQLite database|is another application's"):
            open_store(path, replace=replace)
    assert (path.read_bytes(), sorted(path.parent.iterdir())) == (before, beside)


def test_a_foreign_databases_wal_is_not_changed(path: Path) -> None:
    database = sqlite3.connect(path)
    database.execute("PRAGMA journal_mode = wal")
    database.execute("CREATE TABLE mine (a)")
    wal = path.with_name("store.db-wal")
    copy = path.parent / "copy"
    copy.mkdir()
    for name in (path, wal):
        shutil.copy(name, copy)
    database.close()
    with pytest.raises(StoreError, match="is another application's"):
        open_store(copy / path.name)
    assert sorted(item.name for item in copy.iterdir()) == [path.name, wal.name]


def test_a_directory_a_pipe_and_a_missing_folder_are_named(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="is not a regular file"):
        open_store(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(StoreError, match="is not a regular file"):
        open_store(tmp_path / "pipe")
    with pytest.raises(StoreError, match="there is no folder"):
        open_store(tmp_path / "missing" / "s.db")


def test_a_missing_store_is_not_created_unless_asked(path: Path) -> None:
    with pytest.raises(StoreError, match="there is no store"):
        open_store(path, create=False)
    assert not path.exists()


def test_an_empty_file_becomes_a_store(path: Path) -> None:
    path.touch()
    with open_store(path) as store:
        assert store.append([event()]).first == 1


def test_a_name_that_means_memory_to_sqlite_is_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with open_store(Path(":memory:")) as store:
        store.append([event()])
    with open_store(Path(":memory:")) as store:
        assert store.ring().head == 1


def test_a_store_of_an_older_facewire_is_brought_up_to_date(path: Path) -> None:
    with open_store(path) as store:
        store.append(events(1, 3))
        before = store.ring()
    with closing(sqlite3.connect(path)) as database:
        database.execute("ALTER TABLE state DROP COLUMN origins")
        database.execute("ALTER TABLE state DROP COLUMN crc")
        database.execute("PRAGMA user_version = 1")
    with open_store(path) as store, open_store(path) as other:
        assert store.ring() == other.ring() == before
        forked = fork(store, 2)
        assert other.ring() == forked
        assert forked.origins == (Origin(before.epoch, 2, 3, diverged=True),)


def test_a_store_of_a_newer_facewire_is_refused_and_not_taken_for_damaged(path: Path) -> None:
    closed_store(path)
    database = sqlite3.connect(path)
    database.execute("PRAGMA user_version = 3")
    database.close()
    for replace in (False, True):
        with pytest.raises(StoreError, match="has schema 3, but this facewire only knows 2: upgrade facewire"):
            open_store(path, replace=replace)


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "half of it": lambda whole: whole[: len(whole) // 2],
    "one page less": lambda whole: whole[:-4096],
    "its first page alone": lambda whole: whole[:4096],
    "half a page": lambda whole: whole[:2000],
    "a page of zeros": lambda whole: whole[:8192] + bytes(4096) + whole[12288:],
    "a page of noise": lambda whole: whole[:4096] + random.Random(1).randbytes(4096) + whole[8192:],
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_store_is_refused_or_set_aside_with_a_new_epoch(path: Path, damage: Callable[[bytes], bytes]) -> None:
    damaged = damage(closed_store(path))
    path.write_bytes(damaged)
    with pytest.raises(StoreError, match=r"damaged.*--set-aside-damaged"):
        open_store(path)
    assert path.read_bytes() == damaged
    with open_store(path, replace=True) as store:
        assert store.append([event()]).first == 1
    assert path.with_name("store.db.damaged-1").read_bytes() == damaged


def seal_state(path: Path) -> None:
    """Give the state a checksum that fits, so that only its numbers are wrong."""
    with closing(sqlite3.connect(path)) as database:
        for row in database.execute(f"SELECT {', '.join(COLUMNS)} FROM state").fetchall():
            database.execute("UPDATE state SET crc = ?", (state_crc(row[:-1]),))
        database.commit()


def change_state(path: Path, change: str) -> None:
    database = sqlite3.connect(path)
    database.execute(change)
    database.commit()
    database.close()


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE state SET cursor = 301",
        "UPDATE state SET cursor = -1",
        "UPDATE state SET head = 299",
        "UPDATE state SET oldest = 0",
        "UPDATE state SET oldest = 302",
        "UPDATE state SET capacity = 3",
        "UPDATE state SET epoch = 'x'",
        "UPDATE state SET head = 'many'",
        "DELETE FROM state",
        "INSERT INTO state SELECT 2, epoch, head, oldest, cursor, dropped, origins, capacity, device, machine, crc FROM state",
        "DELETE FROM event WHERE seq = 7",
        "DROP TABLE state",
        "DROP TABLE event",
    ],
)
def test_inconsistent_numbers_are_damage(path: Path, change: str) -> None:
    closed_store(path)
    with open_store(path):
        pass
    change_state(path, change)
    if "TABLE state" not in change:
        seal_state(path)
    with pytest.raises(StoreError, match=r"is damaged.*--set-aside-damaged"):
        open_store(path)


PLAUSIBLE = {
    "epoch": "'0123456789abcdef'",
    "head": "head + 1",
    "oldest": "oldest + 1",
    "cursor": "1",
    "dropped": "1",
    "origins": "'[]'",
    "capacity": "20000",
    "device": "'e'",
    "machine": "'n'",
    "crc": "0",
}


@pytest.mark.parametrize("column", COLUMNS)
def test_a_state_that_is_not_what_was_written_is_damage_at_the_start_and_at_work(path: Path, column: str) -> None:
    with open_store(path, machine="m") as store:
        store.append(events(1, 5))
        store.assign_device("d")
        change_state(path, f"UPDATE state SET {column} = {PLAUSIBLE[column]}")
        for use in (store.ring, store.device, lambda: store.append([event(6)]), lambda: adopt(store, 2), lambda: store.assign_device("d")):
            with pytest.raises(DamagedError, match="its state is not what was written"):
                use()
        with closing(sqlite3.connect(path)) as database:
            assert database.execute("SELECT count(*) FROM event").fetchone() == (5,)
    with pytest.raises(DamagedError, match=r"its state is not what was written.*--set-aside-damaged"):
        open_store(path, check=False)
    with open_store(path, replace=True) as store:
        assert store.append([event(1)]).first == 1


def test_a_damaged_event_is_left_out_and_so_declared_lost(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    whole = closed_store(path, 5)
    assert whole.count(b"p3\xad") == 1
    path.write_bytes(whole.replace(b"p3\xad", b"p4\xad"))
    with open_store(path) as store:
        batch = decoded_batch(store)
        assert ([item.seq for item in batch.events], batch.cursor) == ([1, 2, 4, 5], 5)
        assert [seq for seq, _ in store.events_above(0, 0.1)] == [1, 2, 4, 5]
        fork(store, 2)
        assert [item.seq for item in decoded_batch(store).events] == [1, 3, 4]
        assert numbers(drain(store)) == [2, 4, 5]
    assert "event damaged" in caplog.text
    with open_store(path, check=True):
        pass


def test_a_whole_batch_of_damaged_events_does_not_stop_those_after_it(path: Path) -> None:
    closed_store(path, 250)
    change_state(path, "UPDATE event SET packed = 'text' WHERE seq BETWEEN 2 AND 120")
    with open_store(path) as store:
        assert [item.seq for item in drain(store)] == [1, *range(121, 251)]


@pytest.mark.parametrize("seed", range(60))
def test_after_random_damage_each_event_is_right_or_left_out_or_the_store_is_refused(path: Path, seed: int) -> None:
    whole = bytearray(closed_store(path))
    chance = random.Random(seed)
    for _ in range(1 + seed % 8):
        whole[chance.randrange(len(whole))] ^= chance.randrange(1, 256)
    path.write_bytes(whole)
    with suppress(StoreError), open_store(path) as store:
        assert store.ring().head == 300
        found = drain(store)
        assert [item for item in found if item != event(item.seq, note="x" * 50)._replace(seq=item.seq)] == []


def test_a_store_that_lost_its_wal_still_has_its_epoch(path: Path) -> None:
    with open_store(path) as store:
        epoch = store.ring().epoch
        store.append(events(1, 5))
        shutil.copy(path, path.with_name("copy"))
    with open_store(path.with_name("copy")) as store:
        assert store.ring() == Ring(epoch), "an older image of the same store, which the platform's ack finds out"


@pytest.mark.parametrize("left", [b"", None])
def test_a_wal_without_its_file_is_not_deleted(path: Path, left: bytes | None) -> None:
    wal = path.with_name("store.db-wal")
    with open_store(path) as store:
        store.append(events(1, 5))
        content = wal.read_bytes()
    wal.write_bytes(content)
    path.unlink() if left is None else path.write_bytes(left)
    with pytest.raises(StoreError, match="is missing or empty, but the -wal file beside it holds events"):
        open_store(path)
    assert wal.read_bytes() == content
    with open_store(path, replace=True):
        assert path.with_name("store.db.damaged-1-wal").read_bytes() == content


def test_two_damaged_stores_set_aside_are_both_kept(path: Path) -> None:
    for _ in range(2):
        whole = closed_store(path)
        path.write_bytes(whole[:5000])
        open_store(path, replace=True).close()
    assert {item.name for item in path.parent.iterdir()} == {"store.db", "store.db.damaged-1", "store.db.damaged-2"}


@pytest.mark.parametrize("how", ["moved", "removed", "replaced"])
def test_a_store_whose_file_was_replaced_refuses_to_work(path: Path, how: str) -> None:
    with open_store(path) as store:
        store.append([event()])
        for item in list(path.parent.iterdir()):
            item.rename(item.with_name(f"elsewhere-{item.name}")) if how == "moved" else item.unlink()
        if how == "replaced":
            open_store(path).close()
        for use in (lambda: store.append([event()]), store.ring, store.version, lambda: store.next_batch(BOOT)):
            with pytest.raises(ReplacedError):
                use()


def test_epochs_are_16_hex_digits_and_unique() -> None:
    assert len({new_id() for _ in range(1_000)}) == 1_000
    assert all(len(new_id()) == 16 and int(new_id(), 16) >= 0 for _ in range(10))
