"""A database whose making, or migration, was interrupted by a death of the process."""

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from faults import die_at_each_step
from platform_model import batch
from platform_processes import make_database, make_old_database, migrate_database
from platform_store import check_conserved, rows, store_batches

from facewire.errors import StoreError
from facewire_platform.history.queries import History
from facewire_platform.store.migrate import migrate
from facewire_platform.store.writer import open_store

pytestmark = pytest.mark.process


def test_a_death_at_any_step_of_the_making_leaves_a_database_that_the_next_worker_makes(tmp_path: Path) -> None:
    databases = die_at_each_step(tmp_path, make_database)
    assert len(databases) > 20
    for path in databases:
        said = read(path)
        assert said is None or "is not the database of a facewire platform" in said or "there is no database" in said
        with open_store(path) as store:
            assert store_batches(store, batch(0, 2, 1, 2)).cursor == 2
        assert rows(path, "SELECT watermark, stored, (SELECT count(*) FROM store) FROM stream") == [(2, 2, 1)]


def read(path: Path) -> str | None:
    try:
        with History(path) as history:
            assert list(history.devices()) == []
    except StoreError as exc:
        return str(exc)
    return None


def test_a_death_at_any_step_of_a_migration_leaves_the_old_database_or_the_new_one(tmp_path: Path) -> None:
    databases = die_at_each_step(tmp_path, migrate_database, make_old_database, halves=False)
    assert len(databases) > 20
    for path in databases:
        migrate(path)
        with open_store(path) as store:
            assert store_batches(store, batch(4, 6, 5, 6), device="lobby").cursor == 6
        check_conserved(path)
        copies = [tables_of(copy) for copy in path.parent.glob("store.db.before-*-?")]
        assert set(copies) <= {(), ("device", "event", "gap", "quarantine", "rejected", "store", "stream")}
        assert any(copies)


def tables_of(path: Path) -> tuple[str, ...]:
    """A copy whose making was interrupted has none."""
    with closing(sqlite3.connect(path)) as db:
        assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        return tuple(
            name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%' ORDER BY 1")
        )
