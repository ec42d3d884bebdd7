"""The worker's SQLite database, and commands that other users of the machine give."""

import errno
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from facewire_process import FACEWIRE
from faults import faulty
from users import AGENT as WORKER
from users import RECORDER as OTHER
from users import User, new_users, shared_folder

from facewire_platform.store.sqlite import worker_lock

READS = (["status"], ["events"], ["quarantine", "list"], ["export"])
WRITES = (["quarantine", "drop", "1"], ["platform", "purge", "--person", "p1"])

pytestmark = pytest.mark.process


@pytest.fixture
def user() -> Iterator[Callable[..., User]]:
    with new_users() as new:
        yield new


@pytest.mark.parametrize("mode", [0o700, 0o750, 0o770, 0o2770], ids=oct)
def test_a_command_of_another_user_never_locks_the_worker_out(user: Callable[..., User], mode: int) -> None:
    with shared_folder(mode) as folder:
        path = folder / "p.db"
        url = ["--database", f"sqlite:///{path}"]
        worker, other = user(WORKER, umask=0o007), user(OTHER, (WORKER,))

        def ask_all(*, can_read: bool) -> None:
            assert [other.command(*command, *url) for command in READS] == [0 if can_read else 1] * len(READS)
            assert [other.command(*command, *url) for command in WRITES] == [1] * len(WRITES)

        ask_all(can_read=False)
        worker.open_platform(path)
        worker.store_batch(1)
        ask_all(can_read=mode != 0o700)
        worker.store_batch(2)
        worker.close()
        ask_all(can_read=False)
        worker.open_platform(path)
        worker.store_batch(3)
        worker.kill()
        ask_all(can_read=mode != 0o700)
        worker = user(WORKER)
        worker.open_platform(path)
        worker.store_batch(4)
        worker.close()
        assert {file.name: file.stat().st_uid for file in folder.iterdir()} == {"p.db": WORKER, "p.db-worker": WORKER}


def test_root_locks_nobody_out(user: Callable[..., User]) -> None:
    with shared_folder(0o700) as folder:
        path, worker = folder / "p.db", user(WORKER)
        worker.open_platform(path)
        worker.store_batch(1)
        worker.close()
        os.chown(path.with_name("p.db-worker"), 0, 0)
        with worker_lock(path):
            pass
        assert path.with_name("p.db-worker").stat().st_uid == WORKER
        worker.open_platform(path)
        worker.store_batch(2)


@pytest.mark.network
def test_a_lock_that_fails_is_not_called_another_worker(tmp_path: Path) -> None:
    (tmp_path / "faults").write_text(f"flock {errno.ENOLCK}")
    run = [*FACEWIRE, "platform", "run", "-p", "1", "--database", "sqlite:///p.db"]
    done = subprocess.run(run, cwd=tmp_path, env=faulty(tmp_path, tmp_path / "faults"), capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert f"/p.db-worker: cannot be locked: {os.strerror(errno.ENOLCK)}" in done.stderr
