import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg
import pytest
from platform_model import batch
from platform_processes import make_old_database
from platform_store import check_conserved, rows, run, store_batches

from facewire.errors import StoreError
from facewire_platform.filter import Filter
from facewire_platform.history.queries import History
from facewire_platform.store.migrate import migrate
from facewire_platform.store.rows import key
from facewire_platform.store.writer import Message, Unreadable, open_store

MIGRATIONS = ["0002_counts_and_keys", "0003_wide_ids", "0004_columns", "0005_successions", "0006_reasons"]


@pytest.fixture
def old(tmp_path: Path) -> Path:
    path = tmp_path / "old.db"
    make_old_database(path)
    return path


def schema(path: Path) -> list[tuple[Any, ...]]:
    """Tables and indexes. Columns are sorted, because a migration adds them at the end."""
    with closing(sqlite3.connect(path)) as db:
        tables = [name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name")]
        columns = [(table, *sorted(column[1:] for column in db.execute(f"PRAGMA table_info({table})"))) for table in tables]
        indexes = db.execute("SELECT tbl_name, name FROM sqlite_master WHERE type = 'index' ORDER BY tbl_name, name").fetchall()
        return [*columns, *indexes, db.execute("PRAGMA user_version").fetchone(), db.execute("PRAGMA application_id").fetchone()]


@pytest.mark.parametrize("opener", [open_store, History])
def test_a_database_of_an_older_facewire_is_refused_with_a_remedy(old: Path, opener: Any) -> None:
    with pytest.raises(StoreError, match="has schema 1, this facewire needs 6: run `facewire platform migrate`"):
        opener(old)


def test_a_migration_of_the_first_schema_keeps_everything_and_copies_first(old: Path) -> None:
    before = rows(old, "SELECT * FROM event")
    notices: list[str] = []
    assert migrate(old, notices.append) == MIGRATIONS
    copy = old.with_name("old.db.before-6-1")
    assert notices == [f"copied to {copy}"]
    assert rows(copy, "PRAGMA user_version") == [(1,)]
    assert [row[:10] for row in rows(old, "SELECT * FROM event")] == rows(copy, "SELECT * FROM event") == before
    assert set(rows(old, "SELECT id_key, name_key FROM event")) == {(key("p"), key("name"))}
    assert rows(old, "SELECT watermark, stored, gaps, quarantined FROM stream") == [(4, 3, 1, 1)]
    with open_store(old) as store:
        assert store_batches(store, batch(4, 6, 5, 6), device="lobby").cursor == 6
    check_conserved(old)
    with History(old) as history:
        assert [row["seq"] for row in history.events(Filter())] == [1, 4, 5, 6]


def test_a_migrated_database_equals_a_new_one(old: Path, tmp_path: Path) -> None:
    migrate(old)
    open_store(tmp_path / "new.db").close()
    assert schema(old) == schema(tmp_path / "new.db")


def test_migrating_twice_does_nothing(old: Path) -> None:
    migrate(old)
    assert migrate(old) == []
    assert not old.with_name("old.db.before-5-2").exists()


def test_a_migration_that_fails_changes_nothing(old: Path) -> None:
    index = "eventrow_timestamp_stream_seq_id_key_name_key"
    run(old, f"CREATE TABLE {index} (a)")  # its name is taken
    with pytest.raises(StoreError, match=index):
        migrate(old)
    assert rows(old, "PRAGMA user_version") == [(1,)]
    assert "stored" not in {row[1] for row in rows(old, "PRAGMA table_info(stream)")}
    run(old, f"DROP TABLE {index}")
    assert migrate(old)


def test_a_database_of_a_newer_facewire_is_not_called_up_to_date(old: Path) -> None:
    migrate(old)
    run(old, "PRAGMA user_version = 99")
    with pytest.raises(StoreError, match="schema 99, this facewire knows 6"):
        migrate(old)


def test_a_worker_keeps_the_migration_out(old: Path, tmp_path: Path) -> None:
    migrate(old)
    with open_store(old), pytest.raises(StoreError, match="another worker"):
        migrate(old)


def test_a_foreign_database_is_not_migrated(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="there is no database"):
        migrate(tmp_path / "none.db")
    with closing(sqlite3.connect(tmp_path / "theirs.db")) as db:
        db.execute("CREATE TABLE theirs (a)")
    with pytest.raises(StoreError, match="is not the database"):
        migrate(tmp_path / "theirs.db")
    assert [path.name for path in tmp_path.iterdir() if "before" in path.name] == []


@pytest.mark.postgresql
def test_postgresql_is_migrated_from_its_first_schema(postgresql: str) -> None:
    """Schema 1 never existed on PostgreSQL, but its migration would be the same."""
    open_store(postgresql).close()
    with psycopg.connect(postgresql, autocommit=True) as db:
        db.execute("ALTER TABLE stream DROP COLUMN stored")
        db.execute("ALTER TABLE event DROP COLUMN id_key, DROP COLUMN name_key")
        db.execute('CREATE INDEX "eventrow_timestamp_stream_seq" ON event (timestamp, stream, seq)')
        db.execute("DROP TABLE part_folder, part, copied, changed")
        for table, column in (("stream", "id"), ("event", "stream"), ("gap", "stream"), ("rejected", "stream"), ("quarantine", "id")):
            db.execute(f"ALTER TABLE {table} ALTER COLUMN {column} TYPE integer".encode())
        for table in ("stream", "quarantine"):
            db.execute(f"ALTER SEQUENCE {table}_id_seq AS integer".encode())
        db.execute("UPDATE schema_migration SET name = '0001_first' WHERE name LIKE '0002%'")
        db.execute("ALTER TABLE stream DROP COLUMN continued, DROP COLUMN head_boot, DROP COLUMN other_head")
        db.execute("ALTER TABLE stream DROP COLUMN leads, DROP COLUMN linked")
        db.execute("DROP TABLE continued, link")
        db.execute("ALTER TABLE gap DROP COLUMN reason")
        db.execute("DELETE FROM schema_migration WHERE name > '0003'")
        db.execute(
            "INSERT INTO stream (device, epoch, watermark, head, oldest, gaps, quarantined, boot, last_seen)"
            " VALUES ('d', %s, 2, 2, 1, 1, 0, '', 0)",
            ("0" * 16,),
        )
    with pytest.raises(StoreError, match="has schema 1, this facewire needs 6"):
        open_store(postgresql)
    assert migrate(postgresql) == MIGRATIONS
    assert rows(postgresql, "SELECT watermark, stored, gaps FROM stream") == [(2, 1, 1)]
    with open_store(postgresql) as store:
        assert store_batches(store, batch(0, 1, 1)).cursor == 1
    check_ids_pass_32_bits(postgresql)


@pytest.mark.postgresql
def test_a_new_postgresql_has_ids_of_64_bits(postgresql: str) -> None:
    open_store(postgresql).close()
    check_ids_pass_32_bits(postgresql)


def check_ids_pass_32_bits(postgresql: str) -> None:
    """Device, gap, quarantine and events of a stream whose id does not fit into 32 bits."""
    for table in ("stream", "quarantine"):
        run(postgresql, f"SELECT setval('{table}_id_seq', {2**31 - 1})")
    with open_store(postgresql) as store:
        assert store_batches(store, batch(0, 3, 1, 3), device="new").cursor == 3
        store.store([Message("new", Unreadable("t", "no map", b"x"), 1)])
        assert store_batches(store, batch(0, 3, 1, 2, 3), device="new").cursor == 3  # reads what it stored, fills the gap
    assert rows(postgresql, "SELECT id > 2147483647 FROM stream WHERE device = 'new'") == [(True,)]
    assert rows(postgresql, "SELECT id > 2147483647 FROM quarantine") == [(True,)]
    with History(postgresql) as history:
        assert [row["seq"] for row in history.events(Filter(device="new"))] == [1, 2, 3]
