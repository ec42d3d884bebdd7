import functools
import itertools
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from platform_model import batch
from platform_store import check_conserved, rows, store_batches

import facewire_platform.store.backup
from facewire.errors import StoreError
from facewire_cli.main import cli
from facewire_platform.store.backup import backup, restore
from facewire_platform.store.writer import Store, open_store


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "platform.db"


@pytest.fixture
def store(file: Path) -> Iterator[Store]:
    with open_store(file) as opened:
        store_batches(opened, batch(0, 50, *range(1, 51)))
        yield opened


def watermark(file: Path) -> int:
    found: int = rows(file, "SELECT watermark FROM stream")[0][0]
    return found


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_a_copy_shows_the_moment_it_began_whatever_is_written_meanwhile(file: Path, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    written = itertools.count(51)

    class Beside(sqlite3.Connection):
        """Commits after every copied page."""

        def backup(self, target: sqlite3.Connection, *, pages: int = -1, progress: Any = None, **more: Any) -> None:
            def step(*state: int) -> None:
                seq = next(written)
                if seq < 200:
                    store_batches(store, batch(seq - 1, seq, seq))
                progress(*state)

            super().backup(target, pages=1, progress=step, **more)

    for number in range(5):  # enough pages to copy
        store_batches(store, batch(0, 100, *range(1, 101)), device=f"d{number}")
    monkeypatch.setattr(sqlite3, "connect", functools.partial(sqlite3.connect, factory=Beside))
    copy = file.with_name("copy.db")
    backup(file, copy)
    monkeypatch.undo()
    assert next(written) > 60, "little was written meanwhile"
    assert rows(copy, "SELECT watermark FROM stream WHERE device = 'd'") == [(50,)]
    assert rows(copy, "SELECT watermark - (SELECT count(*) FROM event WHERE stream = id) FROM stream") == [(0,)] * 6
    assert rows(copy, "PRAGMA integrity_check") == [("ok",)]


def test_a_copy_is_one_file_and_leaves_nothing_beside_it(file: Path, store: Store) -> None:
    folder = file.with_name("backups")
    folder.mkdir()
    assert backup(file, folder / "copy.db") == (folder / "copy.db").stat().st_size
    assert watermark(folder / "copy.db") == 50
    assert names(folder) == {"copy.db"}


def test_an_interrupted_copy_leaves_no_file(file: Path, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(_: Path, to: Path, check: str) -> None:
        to.write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(facewire_platform.store.backup, "_copy_snapshot", interrupted)
    before = names(file.parent)
    with pytest.raises(KeyboardInterrupt):
        backup(file, file.with_name("copy.db"))
    assert names(file.parent) == before


def test_a_backup_replaces_nothing(file: Path, store: Store) -> None:
    for there in (file, file.with_name("platform.db-wal")):
        with pytest.raises(StoreError, match="already exists"):
            backup(file, there)
    assert watermark(file) == 50


def test_a_foreign_database_is_neither_copied_nor_restored(tmp_path: Path, file: Path) -> None:
    other, text = tmp_path / "other.db", tmp_path / "text"
    with closing(sqlite3.connect(other)) as opened:
        opened.execute("CREATE TABLE t (x)")
    text.write_text("no database, " * 1000)
    for path, said in ((other, "is not the database"), (text, "not a database"), (tmp_path / "none", "there is no database")):
        with pytest.raises(StoreError, match=f"^{path}: .*{said}"):
            backup(path, tmp_path / "copy.db")
        with pytest.raises(StoreError, match=f"^{path}: .*{said}"):
            restore(file, path)
    assert names(tmp_path) == {"other.db", "text", "platform.db-worker"}


def test_a_damaged_database_gives_no_copy(file: Path) -> None:
    with open_store(file) as store:
        store_batches(store, batch(0, 100, *range(1, 101)))
    content = bytearray(file.read_bytes())
    page = content.rindex(b"\x0d", 0, -16_384) // 16_384 * 16_384
    content[page : page + 200] = b"\xff" * 200
    file.write_bytes(content)
    with pytest.raises(StoreError, match=f"^{file}: .*(damaged|malformed)"):
        backup(file, file.with_name("copy.db"))
    assert not file.with_name("copy.db").exists()


def test_a_missing_folder_is_named(file: Path, store: Store) -> None:
    for folder in (file.parent / "nowhere", file):
        with pytest.raises(StoreError, match=f"^{folder}/copy.db: there is no folder {folder}$"):
            backup(file, folder / "copy.db")


def test_the_old_database_is_set_aside_with_its_wal_and_cannot_harm_the_new_one(file: Path) -> None:
    store = open_store(file)
    store_batches(store, batch(0, 50, *range(1, 51)))
    copy = file.with_name("copy.db")
    backup(file, copy)
    store_batches(store, batch(50, 90, *range(51, 91)))
    # As after a SIGKILL, only the -wal has the newest events.
    for suffix in ("", "-wal", "-shm"):
        (file.parent / f"killed.db{suffix}").write_bytes((file.parent / f"{file.name}{suffix}").read_bytes())
    store.close()
    killed = file.parent / "killed.db"
    aside = restore(killed, copy)
    assert aside == file.parent / "killed.db.replaced-1"
    assert (watermark(killed), watermark(aside)) == (50, 90)
    assert restore(killed, copy) == file.parent / "killed.db.replaced-2"
    with open_store(killed) as again:
        assert store_batches(again, batch(50, 60, *range(51, 61))).cursor == 60
    check_conserved(killed)


def test_nothing_is_restored_while_a_worker_runs(file: Path, store: Store) -> None:
    copy = file.with_name("copy.db")
    backup(file, copy)
    with pytest.raises(StoreError, match="another worker has this database"):
        restore(file, copy)


def test_the_commands_say_what_they_did(file: Path, store: Store) -> None:
    copy, url = str(file.with_name("copy.db")), f"sqlite:///{file}"
    done = CliRunner().invoke(cli, ["platform", "backup", "--database", url, "--to", copy])
    assert (done.exit_code, "MB in" in done.stderr) == (0, True)
    store.close()
    done = CliRunner().invoke(cli, ["platform", "restore", "--database", url, "--from", copy])
    assert (done.exit_code, "restored; the old database is now" in done.stderr) == (0, True)


def test_for_postgresql_the_commands_name_its_own_tools() -> None:
    done = CliRunner().invoke(cli, ["platform", "backup", "--database", "postgresql://x@/y", "--to", "z"])
    assert done.exit_code == 2
    assert "pg_dump" in done.stderr
