import csv
import io
import json
import os
import pty
import subprocess
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from facewire_process import FACEWIRE
from platform_model import batch, event
from platform_store import store_batches

from facewire.errors import StoreError
from facewire_cli.main import cli
from facewire_platform.history.queries import History
from facewire_platform.store.writer import open_store


@pytest.fixture
def path(tmp_path: Path) -> Path:
    with open_store(tmp_path / "x.db") as store:
        for after in range(0, 1_000, 100):
            store_batches(store, batch(after, after + 100, *(event(seq, seq, card_id="A7") for seq in range(after + 1, after + 101))))
    return tmp_path / "x.db"


def run(path: Path, *arguments: str) -> Result:
    return CliRunner().invoke(cli, ["export", "--database", f"sqlite:///{path}", *arguments])


def left(folder: Path) -> list[str]:
    return sorted(found.name for found in folder.iterdir() if not found.name.startswith("x.db"))


def test_all_events_go_to_a_pipe_or_a_file_and_the_filters_hold(path: Path, tmp_path: Path) -> None:
    rows = [json.loads(line) for line in run(path).stdout.splitlines()]
    assert [row["seq"] for row in rows] == list(range(1, 1_001))
    assert rows[0]["card_id"] == "A7"
    assert run(path, "--to", str(tmp_path / "out.jsonl")).exit_code == 0
    assert [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()] == rows
    since = str(event(1, 999).timestamp)
    some = list(csv.DictReader(io.StringIO(run(path, "-o", "csv", "--since", since).stdout)))
    assert [row["seq"] for row in some] == ["999", "1000"]
    assert left(tmp_path) == ["out.jsonl"]


@pytest.mark.parametrize("end", [StoreError("the disk is gone"), KeyboardInterrupt()])
def test_an_interrupted_export_leaves_the_old_file_unchanged(
    path: Path, tmp_path: Path, end: BaseException, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "out.jsonl").write_text("before")

    def fails(*_: object, **__: object) -> Any:
        yield {"seq": 1, "timestamp": 1}
        assert len(left(tmp_path)) == 2
        raise end

    monkeypatch.setattr(History, "events", fails)
    assert run(path, "--to", str(tmp_path / "out.jsonl")).exit_code == 1
    assert (tmp_path / "out.jsonl").read_text() == "before"
    assert left(tmp_path) == ["out.jsonl"]


def test_an_absent_folder_is_an_error(path: Path, tmp_path: Path) -> None:
    done = run(path, "--to", str(tmp_path / "nowhere" / "out.csv"))
    assert done.exit_code == 1
    assert "No such file or directory" in done.stderr


def test_a_link_stays_and_a_pipe_is_written_as_it_is(path: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "out.jsonl")
    assert run(path, "--to", str(tmp_path / "link")).exit_code == 0
    assert (tmp_path / "link").is_symlink()
    os.mkfifo(tmp_path / "pipe")
    with (tmp_path / "read").open("wb") as out, subprocess.Popen(["cat", tmp_path / "pipe"], stdout=out):
        assert run(path, "--to", str(tmp_path / "pipe")).exit_code == 0
    assert (tmp_path / "read").read_bytes() == (tmp_path / "out.jsonl").read_bytes()
    assert left(tmp_path) == ["link", "out.jsonl", "pipe", "read"]
    refused = run(path, "-o", "parquet", "--to", str(tmp_path / "pipe"))
    assert (refused.exit_code, "needs a regular file" in refused.stderr) == (2, True)


@pytest.mark.process
@pytest.mark.parametrize("form", ["jsonl", "csv"])
def test_rows_go_to_a_file_while_a_terminal_shows_the_bar(path: Path, tmp_path: Path, form: str) -> None:
    watching, terminal = pty.openpty()
    with (tmp_path / "out").open("wb") as out:
        command = [*FACEWIRE, "export", "--database", f"sqlite:///{path}", "-o", form]
        done = subprocess.run(command, stdout=out, stderr=terminal, env={**os.environ, "TERM": "xterm"}, timeout=60, check=False)
    os.close(terminal)
    os.close(watching)
    assert done.returncode == 0
    assert len((tmp_path / "out").read_text().splitlines()) == 1_000 + (form == "csv")


@pytest.mark.process
def test_a_terminal_shows_a_progress_bar(path: Path, tmp_path: Path) -> None:
    watching, terminal = pty.openpty()
    command = [*FACEWIRE, "export", "--database", f"sqlite:///{path}", "--to", str(tmp_path / "out.jsonl")]
    process = subprocess.Popen(command, stderr=terminal, stdout=terminal, env={**os.environ, "TERM": "xterm", "COLUMNS": "80"})
    os.close(terminal)
    shown = b""
    while True:
        try:
            some = os.read(watching, 4096)
        except OSError:  # Linux says so where the other end is closed
            break
        shown += some
    os.close(watching)
    assert process.wait(20) == 0
    assert b"1,000 events" in shown
    assert b"100%" in shown
    assert len((tmp_path / "out.jsonl").read_text().splitlines()) == 1_000
