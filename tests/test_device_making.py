"""A store whose making, or setting aside, was interrupted."""

import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest
from device_events import event, events
from device_processes import damage_store, make_store, set_store_aside
from faults import die_at_each_step

from facewire.errors import StoreError
from facewire_device.store import open_store

HALF_MADE: dict[str, Callable[[bytes], bytes]] = {
    "as it was": lambda whole: whole,
    "only zeros": lambda whole: bytes(len(whole)),
    "half": lambda whole: whole[: len(whole) // 2],
}


@pytest.mark.process
def test_a_death_at_any_step_of_the_making_leaves_a_store_or_none(tmp_path: Path) -> None:
    stores = die_at_each_step(tmp_path, make_store)
    assert len(stores) > 20
    for path in stores:
        with open_store(path, capacity=50, machine="m") as store:
            assert store.append(events(1, 3)).first == 1
            assert store.capacity == 50
        with open_store(path) as store:
            assert store.ring().head == 3


@pytest.mark.process
def test_a_death_at_any_step_of_setting_aside_never_lets_half_of_the_store_pass_for_it(tmp_path: Path) -> None:
    for path in die_at_each_step(tmp_path, set_store_aside, damage_store):
        with pytest.raises(StoreError, match="--set-aside-damaged"):
            open_store(path)
        with open_store(path, replace=True) as store:
            assert store.append([event()]).first == 1
        aside = [item for item in path.parent.iterdir() if ".damaged-" in item.name]
        assert any(b"p301" in item.read_bytes() for item in aside), "the event that only the WAL held is there"


def half_made(path: Path, change: str) -> None:
    """A store as a death in its first transaction leaves it: some pages, and the journal."""
    with open_store(path.with_name("whole")):
        pass
    whole = sqlite3.connect(path.with_name("whole"))
    whole.execute("PRAGMA journal_mode = delete")
    whole.close()
    database = sqlite3.connect(path.with_name("making"), isolation_level=None)
    database.execute("PRAGMA cache_size = 1")
    database.execute("BEGIN IMMEDIATE")
    database.execute("CREATE TABLE event (packed)")
    for _ in range(50):  # more than the cache holds: SQLite writes pages before the commit
        database.execute("INSERT INTO event VALUES (zeroblob(4000))")
    shutil.copy(path.with_name("making-journal"), path.with_name(path.name + "-journal"))
    database.close()
    path.write_bytes(HALF_MADE[change](path.with_name("whole").read_bytes()))


@pytest.mark.parametrize("change", HALF_MADE)
def test_a_file_beside_the_journal_of_its_first_transaction_is_a_store_not_made_yet(tmp_path: Path, change: str) -> None:
    path = tmp_path / "s.db"
    half_made(path, change)
    with pytest.raises(StoreError, match="there is no store"):
        open_store(path, create=False)
    half_made(path, change)
    with open_store(path) as store:
        assert store.append([event()]).first == 1
    with open_store(path) as store:
        assert store.ring().head == 1


def test_zeros_beside_the_journal_of_a_later_transaction_are_not_touched(tmp_path: Path) -> None:
    path = tmp_path / "s.db"
    half_made(path, "only zeros")
    journal = tmp_path / "s.db-journal"
    later = journal.read_bytes()
    journal.write_bytes(later[:16] + (3).to_bytes(4, "big") + later[20:])
    before = path.read_bytes()
    with pytest.raises(StoreError, match="is not an SQLite database"):
        open_store(path)
    assert path.read_bytes() == before


def test_another_applications_database_in_the_making_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "s.db"
    other = sqlite3.connect(path)
    other.execute("CREATE TABLE mine (a)")
    other.close()
    with pytest.raises(StoreError, match="is another application's"):
        open_store(path)
