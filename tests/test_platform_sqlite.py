import itertools
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from platform_model import batch, event
from platform_store import counts, limit_pages, sqlite_connections, store_batches

import facewire_platform.store.sqlite
from facewire.errors import StoreError
from facewire_platform.filter import Filter
from facewire_platform.history.queries import History
from facewire_platform.store.database import open_database
from facewire_platform.store.schema import SCHEMA
from facewire_platform.store.writer import Store, open_store


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "platform.db"


@pytest.fixture
def store(path: Path) -> Iterator[Store]:
    with open_store(path) as opened:
        yield opened


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
    left = {file.name for file in path.parent.iterdir()} - {path.name}
    assert not left or "PRAGMA application_id = 7" not in statements, "nothing is left beside it"


@pytest.mark.parametrize("opener", [open_store, History])
def test_a_newer_schema_is_refused_with_both_numbers(path: Path, opener: Any) -> None:
    open_store(path).close()
    with closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA user_version = 99")
    with pytest.raises(StoreError, match=f"schema 99, this facewire knows {SCHEMA}"):
        opener(path)


@pytest.mark.parametrize("opener", [open_store, History])
def test_a_file_that_is_no_database_is_refused_in_one_line(path: Path, opener: Any) -> None:
    path.write_bytes(b"no database, for sure" * 1000)
    with pytest.raises(StoreError, match="not a database"):
        opener(path)
    assert [file.name for file in path.parent.iterdir()] == [path.name], "nothing is left beside it"
    path.unlink()
    path.mkdir()
    with pytest.raises(StoreError, match="is a directory"):
        opener(path)
    with pytest.raises(StoreError, match=r"there is no folder|there is no database; does --database name the worker's\?"):
        opener(path / "missing" / "x.db")


def test_a_path_with_uri_characters_is_a_plain_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in (":memory:", "a b?mode=ro#%41", "file:x"):
        with open_store(Path(name)) as store:
            store_batches(store, batch(0, 1, 1))
        with History(Path(name)) as history:
            assert len(list(history.events(Filter()))) == 1
        assert (tmp_path / name).exists()


def test_a_query_writes_nothing_and_creates_no_files(path: Path) -> None:
    with pytest.raises(StoreError, match="there is no database"):
        History(path)
    assert list(path.parent.iterdir()) == []
    path.touch()
    with pytest.raises(StoreError, match="is not the database"):
        History(path)
    assert [(file.name, file.stat().st_size) for file in path.parent.iterdir()] == [(path.name, 0)]
    path.unlink()
    with open_store(path) as store:
        store_batches(store, batch(0, 1, 1))
    before = {file.name: file.read_bytes() for file in path.parent.iterdir()}
    with History(path) as history:
        assert len(list(history.events(Filter()))) == 1
        with pytest.raises(Exception, match="readonly"):
            history.run("DELETE FROM event", ())
    assert {file.name: file.read_bytes() for file in path.parent.iterdir()} == before


def test_after_a_kill_a_query_reads_the_commits_and_leaves_recovery_to_the_worker(path: Path) -> None:
    script = (
        "import os, sys\n"
        "sys.path.insert(0, sys.argv[2])\n"
        "from pathlib import Path\n"
        "from platform_model import batch\n"
        "from facewire_platform.store.writer import Message, open_store\n"
        "store = open_store(Path(sys.argv[1]))\n"
        "store.store([Message('d', batch(0, 1, 1), 1)])\n"
        "os._exit(9)\n"
    )
    subprocess.run([sys.executable, "-c", script, str(path), str(Path(__file__).parent / "support")], check=False, timeout=30)
    before = path.read_bytes()
    with History(path) as history:
        assert len(list(history.events(Filter()))) == 1
    assert path.read_bytes() == before
    with open_store(path) as store:
        assert store_batches(store, batch(1, 1)).cursor == 1


def test_a_lock_of_another_process_is_an_outage(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(facewire_platform.store.sqlite, "BUSY_TIMEOUT", 0.001)
    with open_store(path) as store, closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreError, match="locked"):
            store_batches(store, batch(0, 1, 1))
        other.execute("ROLLBACK")
        assert store_batches(store, batch(0, 1, 1)).cursor == 1


def test_a_full_disk_is_an_outage_and_nothing_is_half_written(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    connections = sqlite_connections(monkeypatch)
    with open_store(path) as store:
        store_batches(store, batch(0, 1, 1))
        disk = connections[-1]
        limit_pages(disk, 0)
        with pytest.raises(StoreError, match="full"):
            store_batches(store, batch(1, 5, *(event(seq, photo=bytes(100_000)) for seq in range(2, 6))))
        assert counts(path) == (1, 1, 0, 0)
        limit_pages(disk, 1_000)
        assert store_batches(store, batch(1, 3, 2, 3)).cursor == 3


def test_a_damaged_page_is_an_error_that_says_so(path: Path) -> None:
    with open_store(path) as store:
        store_batches(store, batch(0, 100, *(event(seq, photo=bytes(1_000)) for seq in range(1, 101))))
    content = bytearray(path.read_bytes())
    content[3 * 16_384 :] = b"\xff" * (len(content) - 3 * 16_384)
    path.write_bytes(content)
    with pytest.raises(StoreError, match=r"malformed|not a database"), History(path) as history:
        list(itertools.chain(history.events(Filter()), history.devices(), history.gaps(), history.quarantine()))


def test_a_commit_is_on_the_disk_before_the_transaction_ends(path: Path) -> None:
    open_store(path).close()
    with closing(open_database(path, "write")) as database:
        assert database.pragma("synchronous") == 2  # FULL
        assert database.pragma("journal_mode") == "wal"


def test_the_usual_batch_takes_few_statements(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    connections, statements = sqlite_connections(monkeypatch), list[str]()
    with open_store(path) as store:
        store_batches(store, batch(0, 100, *range(1, 101)))
        connections[-1].set_trace_callback(statements.append)
        store_batches(store, batch(100, 200, *range(101, 201)))
        connections[-1].set_trace_callback(None)
    assert len(statements) == 6, statements  # begin, stream, stored, insert, update, commit
