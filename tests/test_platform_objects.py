"""Databases as input: triggers, views and clauses in them are refused, and never run."""

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from platform_model import batch
from platform_store import rows, run, store_batches

from facewire.errors import StoreError
from facewire_platform.health.doctor import check_database
from facewire_platform.history.queries import History
from facewire_platform.store.backup import backup, restore
from facewire_platform.store.migrate import migrate
from facewire_platform.store.writer import open_store

EVENT = "SELECT sql FROM sqlite_schema WHERE name = 'event'"
#: What a hostile copy has, and what the refusal names.
HOSTILE = {
    "trigger": ("CREATE TRIGGER gone AFTER INSERT ON event BEGIN DELETE FROM event WHERE seq = new.seq; END", "trigger 'gone'"),
    "trigger of a status": ("CREATE TRIGGER x BEFORE UPDATE ON stream BEGIN SELECT raise(IGNORE); END", "trigger 'x'"),
    "view": ("CREATE VIEW v AS SELECT * FROM event", "view 'v'"),
    "table": ("CREATE TABLE t (a)", "table 't'"),
    "index": ("CREATE UNIQUE INDEX i ON event (seq, timestamp)", "index 'i'"),
    "index of an expression": ("CREATE INDEX i ON event (abs(seq))", "index 'i'"),
    "virtual table": ("CREATE VIRTUAL TABLE v USING fts5(a)", "table 'v'"),
    "column": ("ALTER TABLE event ADD COLUMN more GENERATED ALWAYS AS (abs(seq))", "table 'event'"),
    "plain column": ("ALTER TABLE event ADD COLUMN more", "table 'event'"),
    "lack": ("DROP TABLE gap", "lacks gap"),
    "lacking index": ("DROP INDEX streamrow_device_epoch", "lacks streamrow_device_epoch"),
}
#: Changes of the text of the table of events.
CLAUSES = {
    "conflict": ('PRIMARY KEY ("stream", "seq")', 'PRIMARY KEY ("stream", "seq") ON CONFLICT IGNORE'),
    "check": ('"seq" INTEGER NOT NULL', '"seq" INTEGER NOT NULL CHECK (seq < 100)'),
    "collation": ('"identity_id" TEXT NOT NULL', '"identity_id" TEXT COLLATE NOCASE NOT NULL'),
    "key": (', PRIMARY KEY ("stream", "seq")', ""),
    "hidden key": ('"extra" BLOB, ', '"extra" "BLOB, '),
}


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A backup of five events."""
    with open_store(tmp_path / "platform.db") as store:
        store_batches(store, batch(0, 5, 1, 2, 3, 4, 5))
    backup(tmp_path / "platform.db", tmp_path / "copy.db")
    return tmp_path / "copy.db"


def rewrite_event(path: Path, before: str, after: str) -> None:
    """Another definition of the table, an empty one."""
    with closing(sqlite3.connect(path)) as db:
        ((sql,),) = db.execute(EVENT)
        assert before in sql
        changed = sql.replace(before, after)
        if after.endswith('"BLOB, '):
            changed = changed[:-1] + '")'
        indexes = [text for (text,) in db.execute("SELECT sql FROM sqlite_schema WHERE tbl_name = 'event' AND type = 'index' AND sql > ''")]
        db.execute("DROP TABLE event")
        db.execute(changed)
        for index in indexes:
            db.execute(index)
        db.commit()


def check_refused(copy: Path, named: str) -> None:
    """Neither restored nor backed up nor opened, by whomever; nothing is left behind."""
    before = {path.name for path in copy.parent.iterdir()}
    database = copy.with_name("platform.db")
    content = database.read_bytes()
    for opened in (lambda: restore(database, copy), lambda: backup(copy, copy.with_name("new.db")), lambda: migrate(copy)):
        with pytest.raises(StoreError, match=named):
            opened()
    assert database.read_bytes() == content
    opener: Any
    for opener in (open_store, History):
        with pytest.raises(StoreError, match=named):
            opener(copy)
    assert next(iter(check_database(copy))).verdict == "FAIL"
    assert {path.name for path in copy.parent.iterdir()} - {"copy.db-worker"} == before


@pytest.mark.parametrize(("statement", "named"), HOSTILE.values(), ids=HOSTILE)
def test_a_database_with_other_objects_is_refused(copy: Path, statement: str, named: str) -> None:
    run(copy, statement)
    check_refused(copy, named)


@pytest.mark.parametrize(("before", "after"), CLAUSES.values(), ids=CLAUSES)
def test_a_table_with_other_clauses_is_refused(copy: Path, before: str, after: str) -> None:
    rewrite_event(copy, before, after)
    check_refused(copy, "'event' that differs|lacks sqlite_autoindex_event_1")


def test_a_view_in_the_place_of_a_table_does_not_run(copy: Path) -> None:
    run(copy, "DROP TABLE store")
    run(copy, "CREATE VIEW store AS SELECT load_extension('x') AS identity")
    check_refused(copy, "view 'store'")


def test_a_schema_that_sqlite_cannot_read_is_refused(copy: Path) -> None:
    with closing(sqlite3.connect(copy)) as db:
        db.execute("PRAGMA writable_schema = 1")
        db.execute("UPDATE sqlite_schema SET sql = 'CREATE TABLE event (' WHERE name = 'event'")
        db.commit()
    check_refused(copy, "copy.db")


def test_an_index_that_lacks_rows_is_found_by_restore(copy: Path) -> None:
    """The quick check of a backup does not compare indexes with their tables."""
    with closing(sqlite3.connect(copy)) as db:
        name = "eventrow_timestamp_stream_seq_id_key_name_key"
        ((index,),) = db.execute("SELECT sql FROM sqlite_schema WHERE name = ?", (name,))
        db.execute("PRAGMA writable_schema = 1")
        db.execute("DELETE FROM sqlite_schema WHERE name = ?", (name,))
        db.commit()
    with closing(sqlite3.connect(copy)) as db:
        db.execute("DELETE FROM event WHERE seq = 3")  # while the index is not there
        db.execute("PRAGMA writable_schema = 1")
        db.execute("INSERT INTO sqlite_schema VALUES ('index', ?, 'event', ?, ?)", (name, orphan(copy, db), index))
        db.commit()
    with pytest.raises(StoreError, match="is damaged"):
        restore(copy.with_name("platform.db"), copy)
    assert rows(copy.with_name("platform.db"), "SELECT count(*) FROM event") == [(5,)]


def orphan(path: Path, db: sqlite3.Connection) -> int:
    """The page of an index (its first byte is 10) that no object has."""
    size = 16_384
    content = path.read_bytes()
    known = {page for (page,) in db.execute("SELECT rootpage FROM sqlite_schema")}
    pages = [page for page in range(2, len(content) // size + 1) if content[(page - 1) * size] == 10 and page not in known]
    return next(page for page in pages if content[(page - 1) * size + 3 : (page - 1) * size + 5] == b"\x00\x05")


def test_a_database_of_an_older_facewire_is_restored_and_then_migrated(tmp_path: Path) -> None:
    old = tmp_path / "old.db"
    with closing(sqlite3.connect(old)) as db:
        db.executescript((Path(__file__).parent / "data" / "schema-1.sql").read_text())
    restore(tmp_path / "platform.db", old)
    assert migrate(tmp_path / "platform.db")
    open_store(tmp_path / "platform.db").close()
    run(old, "CREATE TRIGGER gone AFTER INSERT ON event BEGIN SELECT 1; END")
    with pytest.raises(StoreError, match="trigger 'gone'"):
        restore(tmp_path / "platform.db", old)


def test_statistics_of_sqlite_are_no_foreign_object(copy: Path) -> None:
    run(copy, "ANALYZE")
    with open_store(copy) as store:
        assert store_batches(store, batch(5, 6, 6)).cursor == 6
