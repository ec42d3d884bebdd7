"""Column files: how they are built, what they hold, and that they forget as the platform does."""

import itertools
import json
import os
import random
import sqlite3
import subprocess
import threading
import time
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import duckdb
import pytest
from click.testing import CliRunner, Result
from facewire_process import FACEWIRE
from platform_model import BOOT, EPOCH, batch
from platform_store import event_at, rows, store_batches
from waiting import wait_until

import facewire_platform.columns.builder
import facewire_platform.columns.copier
import facewire_platform.columns.files
from facewire.errors import StoreError
from facewire.messages import Match
from facewire_cli.main import cli
from facewire_platform.columns import engine
from facewire_platform.columns.arrow import ArrowTable
from facewire_platform.columns.builder import Builder
from facewire_platform.columns.copier import Copier
from facewire_platform.filter import Filter
from facewire_platform.history.queries import History
from facewire_platform.history.retention import Retention
from facewire_platform.store.drivers import Location
from facewire_platform.store.writer import Message, open_store

DAY = 86_400_000
MONDAY = 1_764_028_800_000  # 2025-11-25 UTC


@pytest.fixture(autouse=True)
def data_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    return tmp_path / "data"


def fill(location: Location, count: int = 9, *, after: int = 0) -> None:
    """Store events of people 0 to 2, four to a day."""
    with open_store(location) as store:
        for first in range(after, after + count, 1_000):
            last = min(first + 1_000, after + count)
            events = (event_at(seq, MONDAY + (seq - 1) * DAY // 4, identity_id=f"person-{seq % 3}") for seq in range(first + 1, last + 1))
            store_batches(store, batch(first, last, *events))


def build(location: Location) -> list[Path]:
    with Builder(location) as builder:
        list(builder.build())
        folder = builder.folder()
        assert folder is not None
        return [folder / part.name for part in builder.parts()]


def read(sql: str) -> list[Any]:
    with closing(duckdb.connect(":memory:")) as db:
        db.execute(sql)
        return db.fetchall()


def run(*arguments: str) -> Result:
    return CliRunner().invoke(cli, arguments, catch_exceptions=False)


def url(location: Location) -> str:
    return location if isinstance(location, str) else f"sqlite:///{location}"


def seqs(location: Location, wanted: Filter) -> list[int]:
    with History(location) as history:
        return [row["seq"] for row in history.events(wanted)]


def test_the_files_are_a_dataset_by_day_that_others_read(location: Location) -> None:
    fill(location)
    files = build(location)
    assert [file.parent.name for file in files] == ["day=2025-11-25", "day=2025-11-26", "day=2025-11-27"]
    dataset = files[0].parents[1]
    found = read(f"SELECT day::VARCHAR, device, epoch, seq, identity_id FROM read_parquet('{dataset}/*/*.parquet') ORDER BY seq")
    assert [row[3] for row in found] == list(range(1, 10))
    assert found[4] == ("2025-11-26", "d", "00000000000000e1", 5, "person-2")


def test_the_commands_build_list_and_drop(location: Location) -> None:
    fill(location)
    assert run("platform", "columns", "build", "--database", url(location)).stderr == "column files are up to date: 9 events\n"
    listed = [
        json.loads(line) for line in run("platform", "columns", "list", "--database", url(location), "-o", "json").stdout.splitlines()
    ]
    assert [(row["day"], row["events"]) for row in listed] == [("2025-11-25", 4), ("2025-11-26", 4), ("2025-11-27", 1)]
    assert [row["bytes"] for row in listed] == [Path(row["file"]).stat().st_size for row in listed]
    assert run("platform", "columns", "drop", "--database", url(location)).exit_code == 0
    assert not Path(listed[0]["file"]).exists()
    assert run("platform", "columns", "list", "--database", url(location), "-o", "json").stdout == ""
    assert seqs(location, Filter(person="person-1")) == [1, 4, 7]


def test_a_deleted_person_is_in_no_byte_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "COMPRESSION", "uncompressed")
    path = tmp_path / "x.db"
    fill(path)
    build(path)
    assert holders(tmp_path, b"person-1")
    assert run("platform", "purge", "--database", url(path), "--person", "person-1").exit_code == 0
    assert holders(tmp_path, b"person-1") == []
    assert holders(tmp_path, b"person-2")


def holders(folder: Path, text: bytes) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file() and text in path.read_bytes()]


def test_old_events_leave_the_files_with_the_table(location: Location, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(location)
    files = build(location)
    monkeypatch.setattr("facewire_platform_cli.purge.now_ms", lambda: MONDAY + 2 * DAY + DAY // 2)
    assert run("platform", "purge", "--database", url(location), "--older-than", "1d").exit_code == 0
    assert not files[0].exists()
    assert read(f"SELECT count(*) FROM read_parquet('{files[0].parents[1]}/*/*.parquet')") == [(3,)]
    assert seqs(location, Filter(person_type=1)) == [7, 8, 9]


def test_files_on_another_machine_are_not_missed_by_a_purge(postgresql: str, data_home: Path) -> None:
    fill(postgresql)
    build(postgresql)
    data_home.rename(data_home.with_name("elsewhere"))
    assert seqs(postgresql, Filter(person="person-1")) == [1, 4, 7]
    with pytest.raises(StoreError, match="its column files are on another machine: purge there"):
        run("platform", "purge", "--database", postgresql, "--person", "person-1")
    fill(postgresql, after=9)
    with pytest.raises(StoreError, match="columns drop"):
        build(postgresql)
    assert run("platform", "columns", "drop", "--database", postgresql).exit_code == 0
    build(postgresql)


def test_a_restored_database_and_its_files_agree(tmp_path: Path) -> None:
    path, copy = tmp_path / "x.db", tmp_path / "copy.db"
    fill(path)
    build(path)
    assert run("platform", "backup", "--database", url(path), "--to", str(copy)).exit_code == 0
    fill(path, 9, after=9)
    build(path)
    assert run("platform", "restore", "--database", url(path), "--from", str(copy)).exit_code == 0
    assert seqs(path, Filter(person_type=1)) == list(range(1, 10))
    build(path)
    assert seqs(path, Filter(person_type=1)) == list(range(1, 10))


@pytest.mark.process
def test_a_killed_build_is_started_again(tmp_path: Path) -> None:
    path = tmp_path / "x.db"
    fill(path, 20_000)
    for patience in (0.3, 0.6, 0.9, 1.2):
        process = subprocess.Popen([*FACEWIRE, "platform", "columns", "build", "--database", url(path)], stderr=subprocess.DEVNULL)
        time.sleep(patience)
        process.kill()
        process.wait()
        assert len(seqs(path, Filter(person="person-1"))) == 6_667
    build(path)
    assert len(seqs(path, Filter(person="person-1"))) == 6_667


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.mark.process
def test_a_worker_has_its_files_built_when_it_is_not_busy(tmp_path: Path) -> None:
    path, clock = tmp_path / "x.db", Clock()
    fill(path, facewire_platform.columns.copier.WORTH)
    busy = round(facewire_platform.columns.copier.BUSY * 6)
    with Copier(path, clock) as copier:
        for stored in (busy, 2 * busy):
            clock.now += 5
            copier.turn(stored)
            assert not copier.runs
        clock.now += 5
        copier.turn(2 * busy)
        assert copier.runs
        wait_until(lambda: not copier.runs)
        clock.now += 5
        copier.turn(2 * busy)
        assert not copier.runs
    with Builder(path) as builder:
        assert sum(part.events for part in builder.parts()) == facewire_platform.columns.copier.WORTH


def test_fewer_events_than_are_worth_it_wait(tmp_path: Path) -> None:
    path = tmp_path / "x.db"
    fill(path)
    with Builder(path) as builder:
        assert list(builder.build(10)) == []
        assert builder.folder() is None


def test_a_path_may_have_any_character(tmp_path: Path) -> None:
    path = tmp_path / "a [b] *c? 'd'" / "x.db"
    path.parent.mkdir()
    fill(path)
    build(path)
    assert seqs(path, Filter(person="person-1")) == [1, 4, 7]
    with History(path) as history:
        assert list(history.counts(Filter(), [(0, 2**62)])) == [{"events": 9, "strangers": 0, "people": 3}]


def test_no_row_that_is_in_a_file_is_read_from_the_table(tmp_path: Path) -> None:
    """It would be exact, too, and slow: so the table is emptied behind the platform's back."""
    path = tmp_path / "x.db"
    fill(path)
    build(path)
    with sqlite3.connect(path) as db:
        db.execute("DELETE FROM event")
    with History(path) as history:
        assert list(history.counts(Filter(), [(0, 2**62)])) == [{"events": 9, "strangers": 0, "people": 3}]


def test_without_duckdb_all_is_read_from_the_table(location: Location, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(location)
    build(location)
    monkeypatch.setattr(engine, "is_installed", lambda: False)
    assert seqs(location, Filter(person="person-1")) == [1, 4, 7]
    assert "pip install" in run("platform", "columns", "build", "--database", url(location)).stderr
    assert run("platform", "purge", "--database", url(location), "--person", "person-1").exit_code == 0
    assert seqs(location, Filter(person_type=1)) == [2, 3, 5, 6, 8, 9]


COLUMN_VALUES: tuple[tuple[str, list[Any]], ...] = (
    ("q", [1, -(2**63), 2**63 - 1]),
    ("i", [1, -(2**31), 0]),
    ("d", [0.5, -0.0, 1e300]),
    ("u", ["", "小明", "nul\x00"]),
    ("u", [None, "x" * 1_000, None]),
    ("u", [None, None, None]),
)


@pytest.mark.parametrize(("code", "values"), [*COLUMN_VALUES, *((code, []) for code in "qidu")])
def test_duckdb_reads_back_what_it_is_handed(code: str, values: list[Any]) -> None:
    given = ArrowTable({"a": code, "b": "q"}, [values, list(range(len(values)))])  # noqa: F841  # DuckDB finds it by its name
    with duckdb.connect(":memory:") as db:
        for _ in range(2):
            assert db.execute("SELECT a FROM given ORDER BY b").fetchall() == [(value,) for value in values]


def test_days_without_end_do_not_make_files_without_end(location: Location, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(facewire_platform.columns.files, "MOST_DAYS", 2)
    with open_store(location) as store:
        moments = [*(MONDAY,) * 3, *(MONDAY + DAY,) * 3, *(day * 40 * DAY for day in range(20)), 2**62, -(2**62)]
        store_batches(store, batch(0, len(moments), *(event_at(seq, at) for seq, at in enumerate(moments, 1))))
    files = build(location)
    assert [file.parent.name for file in files] == ["day=2025-11-25", "day=2025-11-26", "day=__HIVE_DEFAULT_PARTITION__"]
    assert sorted(seqs(location, Filter(person="p"))) == list(range(1, len(moments) + 1))
    assert rows(location, "SELECT sum(events) FROM part") == [(len(moments),)]


def test_an_export_to_parquet_has_every_field(location: Location, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("facewire_platform.columns.single._BYTES", 200)
    with open_store(location) as store:
        made_with = [
            event_at(seq, MONDAY + 10 - seq, identity_id="nul\x00", extra={"n": seq, "photo": b"\xff" * 50} if seq % 2 else {})
            for seq in range(1, 9)
        ]
        store_batches(store, batch(0, 8, *made_with))
    file = tmp_path / "all.parquet"
    assert run("export", "--database", url(location), "-o", "parquet", "--to", str(file), "--since", str(MONDAY + 3)).exit_code == 0
    found = read(f"SELECT seq, timestamp, identity_id, extra FROM read_parquet('{file}')")
    assert [row[0] for row in found] == [7, 6, 5, 4, 3, 2, 1]
    assert found[0][1:3] == (MONDAY + 3, "nul\x00")
    assert [row[3] and json.loads(row[3])["n"] for row in found] == [7, None, 5, None, 3, None, 1]
    assert file.stat().st_mode & 0o777 == 0o640
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_an_export_to_parquet_of_nothing_is_a_file_without_rows(tmp_path: Path) -> None:
    open_store(tmp_path / "x.db").close()
    file = tmp_path / "none.parquet"
    assert run("export", "--database", url(tmp_path / "x.db"), "-o", "parquet", "--to", str(file)).exit_code == 0
    assert read(f"SELECT device, extra FROM read_parquet('{file}')") == []
    assert run("export", "--database", url(tmp_path / "x.db"), "-o", "parquet").exit_code == 2


@pytest.mark.parametrize("size", [0, 100])
def test_a_damaged_file_spoils_no_answer_and_is_built_anew(location: Location, size: int) -> None:
    fill(location)
    damaged = build(location)[1]
    os.truncate(damaged, size)
    assert seqs(location, Filter(person="person-1")) == [1, 4, 7]
    with History(location) as history:
        assert list(history.counts(Filter(), [(0, 2**62)])) == [{"events": 9, "strangers": 0, "people": 3}]
    run("platform", "purge", "--database", url(location), "--person", "person-2")
    fill(location, 4, after=9)
    assert damaged not in build(location)
    assert rows(location, "SELECT sum(events) FROM part") == [(10,)]
    assert seqs(location, Filter(person="person-1")) == [1, 4, 7, 10, 13]


@pytest.mark.timeout(120)
def test_answers_are_exact_while_workers_and_a_builder_go_on(location: Location, monkeypatch: pytest.MonkeyPatch) -> None:
    """Events are only added here, so a count must lie between the table's before and after it."""
    monkeypatch.setattr(facewire_platform.columns.builder, "CHUNK", 300)
    ended, failures = threading.Event(), list[BaseException]()
    with open_store(location):
        pass

    def guarded(work: Callable[[], None]) -> threading.Thread:
        def call() -> None:
            try:
                work()
            except BaseException as exc:
                failures.append(exc)
                raise

        return threading.Thread(target=call)

    def again_if_locked(work: Callable[[], object]) -> None:
        """SQLite's lock is not fair, and a worker that does not get it tries again."""
        while not ended.is_set():
            with suppress(StoreError):
                work()
                return

    def store_events(number: int) -> None:
        """A device leaves out each tenth event, and sends it when it is far below the watermark."""
        chance, unsent = random.Random(number), list[int]()
        with open_store(location, alone=False) as store:
            after = 0
            while not ended.is_set():
                seqs = [seq for seq in range(after + 1, after + 41) if seq % 10]
                unsent += [seq for seq in range(after + 1, after + 41) if not seq % 10]
                sent = batch(after, after + 40, *(event_at(seq, MONDAY + seq * 60_000, identity_id=f"p{seq % 9}") for seq in seqs))
                again_if_locked(lambda: store.store([Message(f"d{number}", sent, 1)]))  # noqa: B023  # called within this turn
                after += 40
                while unsent and chance.random() < 0.7:
                    late = unsent.pop(chance.randrange(len(unsent)))
                    match = Match(EPOCH, BOOT, 1, event_at(late, MONDAY + late * 60_000, identity_id="late"))
                    again_if_locked(lambda: store.store([Message(f"d{number}", match, 1)]))  # noqa: B023

    def build_files() -> None:
        with Builder(location) as builder:
            while not ended.is_set():
                again_if_locked(lambda: list(itertools.takewhile(lambda _: not ended.is_set(), builder.build())))

    threads = [guarded(lambda number=number: store_events(number)) for number in range(3)]  # type: ignore[misc]
    threads.append(guarded(build_files))
    for thread in threads:
        thread.start()
    try:
        until = time.monotonic() + 5
        while time.monotonic() < until:
            for wanted, condition in ((Filter(), "1 = 1"), (Filter(person="late"), "identity_id = 'late'"), (Filter(device="d1"), D1)):
                before = table_count(location, condition)
                with History(location) as history:
                    [counts] = history.counts(wanted, [(0, 2**62)])
                assert before <= counts["events"] <= table_count(location, condition)
    finally:
        ended.set()
        for thread in threads:
            thread.join()
    assert failures == []
    with History(location) as history:
        assert next(history.counts(Filter(), [(0, 2**62)]))["events"] == table_count(location, "1 = 1") > 0


D1 = "stream IN (SELECT id FROM stream WHERE device = 'd1')"


def table_count(location: Location, condition: str) -> int:
    found: int = rows(location, f"SELECT count(*) FROM event WHERE {condition}")[0][0]
    return found


@pytest.mark.parametrize("which", ["old", "person"])
def test_answers_are_exact_in_the_middle_of_a_purge(location: Location, which: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("facewire_platform.history.retention.CHUNK", 2)
    fill(location, 20)
    build(location)
    with Retention(location, rest=lambda _: None) as retention:
        for _ in retention.older_than(MONDAY + 3 * DAY) if which == "old" else retention.person("person-1"):
            assert seqs(location, Filter(person_type=1)) == [seq for (seq,) in rows(location, "SELECT seq FROM event ORDER BY seq")]
    assert len(seqs(location, Filter(person_type=1))) == (20 - 12 if which == "old" else 20 - 7)


def test_a_late_event_that_no_file_could_have_is_counted_once(location: Location) -> None:
    fill(location)
    build(location)
    with open_store(location) as store:
        store_batches(store, batch(9, 12, event_at(10, MONDAY), event_at(12, MONDAY)))
        store.store([Message("d", Match(EPOCH, BOOT, 1, event_at(11, MONDAY, identity_id="late")), 1)])
    for _ in range(2):
        assert sorted(seqs(location, Filter(person_type=1))) == list(range(1, 13))
        build(location)


def test_a_moment_is_asked_of_the_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Opening DuckDB takes longer, and some reports ask about thousands of moments."""
    path = tmp_path / "x.db"
    fill(path)
    build(path)
    monkeypatch.delattr(engine, "opened")
    assert seqs(path, Filter(since=MONDAY, until=MONDAY + 1, person="person-1")) == [1]
    with pytest.raises(AttributeError):
        seqs(path, Filter(person="person-1"))
