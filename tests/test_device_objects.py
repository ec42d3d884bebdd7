"""A store's file as input: what facewire did not make in it is set aside, and never runs."""

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from device_events import events

from facewire.errors import StoreError
from facewire.messages import decode_batch
from facewire_device.ledger import Ledger
from facewire_device.store import open_store

HOSTILE = {
    "trigger": "CREATE TRIGGER gone AFTER INSERT ON event BEGIN DELETE FROM event WHERE seq = new.seq; END",
    "trigger of the state": "CREATE TRIGGER x BEFORE UPDATE ON state BEGIN SELECT raise(IGNORE); END",
    "view": "CREATE VIEW v AS SELECT load_extension('x')",
    "table": "CREATE TABLE t (a)",
    "index": "CREATE INDEX i ON event (abs(score))",
    "column": "ALTER TABLE event ADD COLUMN more AS (abs(seq))",
    "lack": "DROP TABLE event",
}


def change(path: Path, *statements: str) -> None:
    with closing(sqlite3.connect(path)) as db:
        for statement in statements:
            db.execute(statement)
        db.commit()


@pytest.mark.parametrize("statement", HOSTILE.values(), ids=HOSTILE)
def test_a_store_with_foreign_objects_is_set_aside_and_a_new_one_records(tmp_path: Path, statement: str) -> None:
    path = tmp_path / "box.db"
    with open_store(path) as store:
        store.append(events(1, 3))
    change(path, statement)
    with pytest.raises(StoreError, match=r"is damaged: it (has a|lacks)"):
        open_store(path, create=False)
    with open_store(path, replace=True) as store:
        store.append(events(1, 2))
        assert [event.seq for event in decode_batch(store.next_batch("b" * 16, 100).payload).events] == [1, 2]
    assert (tmp_path / "box.db.damaged-1").exists()


def test_a_view_in_the_place_of_the_state_does_not_run(tmp_path: Path) -> None:
    path = tmp_path / "box.db"
    open_store(path).close()
    change(path, "DROP TABLE state", "CREATE VIEW state AS SELECT load_extension('x') AS epoch")
    with pytest.raises(StoreError, match=r"has a view 'state'|differs"):
        open_store(path, create=False)


def test_a_store_with_a_ledger_is_ours(tmp_path: Path) -> None:
    path = tmp_path / "box.db"
    with open_store(path) as store:
        Ledger(store)
    with closing(sqlite3.connect(path)) as db:
        assert ("ledger",) in db.execute("SELECT name FROM sqlite_schema").fetchall()
    open_store(path, create=False).close()
