"""One store and several users, names and processes."""

import errno
import itertools
import os
import re
import stat
import subprocess
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final

import pytest
from device_events import event
from facewire_process import FACEWIRE
from faults import faulty
from users import AGENT, RECORDER, User, new_users, shared_folder

from facewire.errors import StoreError
from facewire_device.store import open_store
from facewire_device.store_file import lock_for_agent

UNIT: Final = Path(__file__).parent.parent / "docs/deploy/systemd/facewire-device.service"


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder as docs/deploy/systemd makes it."""
    (mode,) = re.findall(r"^StateDirectoryMode=(\d+)$", UNIT.read_text(), re.MULTILINE)
    with shared_folder(int(mode, 8)) as folder:
        yield folder


@pytest.fixture
def user() -> Iterator[Callable[..., User]]:
    with new_users() as new:
        yield new


def interleavings(first: Sequence[str], second: Sequence[str]) -> Iterator[list[tuple[int, str]]]:
    """All orders of the steps of two, each in its own order: (which, step)."""
    for places in itertools.combinations(range(len(first) + len(second)), len(first)):
        steps = {0: iter(first), 1: iter(second)}
        yield [(which, next(steps[which])) for place in range(len(first) + len(second)) for which in [0 if place in places else 1]]


# Two users


@pytest.mark.process
@pytest.mark.parametrize("ends", list(itertools.product(("close", "kill"), repeat=2)), ids="-".join)
def test_agent_and_recorder_of_two_users_share_a_store_in_every_order(
    folder: Path, user: Callable[..., User], ends: tuple[str, str]
) -> None:
    def new(which: int) -> User:
        return user(AGENT, umask=0o007) if which == 0 else user(RECORDER, (AGENT,))

    users = [new(0), new(1)]
    for number, order in enumerate(interleavings(("open", "append", ends[0]), ("open", "append", ends[1]))):
        path, appended = folder / f"{number}.db", 0
        for which, step in order:
            if step == "open":
                users[which].open(path)
            elif step == "append":
                appended += 1
                assert users[which].append(appended) == appended
            elif step == "close":
                users[which].close()
            else:
                users[which].kill()
                users[which] = new(which)
        for one in users:
            one.open(path)
        assert [users[0].append(3), users[1].append(4)] == [3, 4]
        assert modes(folder, path.name) == {"-rw-rw----"}, order
        for one in users:
            one.close()


def modes(folder: Path, name: str) -> set[str]:
    return {stat.filemode(file.stat().st_mode) for file in folder.iterdir() if file.name.startswith(name)}


@pytest.mark.process
def test_a_store_that_its_group_may_not_write_is_named_and_its_owner_opens_it_to_the_group(folder: Path, user: Callable[..., User]) -> None:
    agent, recorder, path = user(AGENT, umask=0o007), user(RECORDER, (AGENT,)), folder / "s.db"
    agent.open(path)
    agent.close()
    path.chmod(0o640)  # as SQLite makes it
    with pytest.raises(StoreError, match=r"/s\.db: user 61002 may not read and write it; it belongs to user 61001:group 61001, -rw-r-----"):
        recorder.open(path)
    assert recorder.command("device", "status", "--store", str(path)) == 1, "2 would be final for systemd"
    path.chmod(0o600)
    assert recorder.command("device", "status", "--store", str(path)) == 1
    assert {file.name for file in folder.iterdir()} == {"s.db"}, "nothing is left that would lock the agent out"
    agent.open(path)
    recorder.open(path)
    assert [agent.append(1), recorder.append(2)] == [1, 2]


@pytest.mark.process
@pytest.mark.parametrize("suffix", ["-wal", "-shm", "-journal", "-agent"])
def test_a_file_that_locks_somebody_out_is_named(folder: Path, user: Callable[..., User], suffix: str) -> None:
    agent, path = user(AGENT, umask=0o007), folder / "s.db"
    agent.open(path)
    agent.close()
    beside = folder / f"s.db{suffix}"
    beside.touch()
    os.chown(beside, RECORDER, RECORDER)
    beside.chmod(0o640)
    use = agent.lock if suffix == "-agent" else agent.open
    with pytest.raises(StoreError, match=rf"/s\.db{suffix}: user 61001 may not read and write it; it belongs to user 61002"):
        use(path)


@pytest.mark.process
@pytest.mark.parametrize(("mode", "message"), [
    (0o770, r"/state: what user 61002 makes in it would not belong to its group, and lock others out: chmod g\+s /"),
    (0o2750, r"/state: user 61002 may not read and write it; it belongs to user 61001:group 61001, drwxr-s---"),
    (0o700, r"/state: Permission denied"),
])  # fmt: skip
def test_a_recorder_is_told_what_is_wrong_with_the_folder_and_leaves_nothing_in_it(
    user: Callable[..., User], mode: int, message: str
) -> None:
    with shared_folder(mode) as folder:
        agent, recorder = user(AGENT, umask=0o007), user(RECORDER, (AGENT,))
        for _ in range(2):
            with pytest.raises(StoreError, match=message):
                recorder.open(folder / "s.db")
            agent.open(folder / "s.db")
            assert agent.append(1)
            agent.close()
        assert {file.name for file in folder.iterdir()} == {"s.db"}


@pytest.mark.process
def test_root_locks_nobody_out(folder: Path, user: Callable[..., User]) -> None:
    path = folder / "s.db"
    with lock_for_agent(path), open_store(path) as store:
        store.append([event(1)])
    agent = user(AGENT, umask=0o007)
    agent.lock(path)
    agent.open(path)
    assert agent.append(2) == 2


# Several names


def test_by_a_symbolic_link_it_is_the_same_store(tmp_path: Path) -> None:
    path, link = tmp_path / "real" / "s.db", tmp_path / "link.db"
    path.parent.mkdir()
    link.symlink_to(path)
    with lock_for_agent(path), pytest.raises(StoreError, match="another agent runs on this store"):
        lock_for_agent(link)
    with open_store(link) as store, open_store(path) as other:
        assert [store.append([event(1)]).last, other.append([event(2)]).last] == [1, 2]
    assert {item.name for item in tmp_path.iterdir()} == {"real", "link.db"}
    path.write_bytes(path.read_bytes()[:5000])
    with open_store(link, replace=True) as store:
        assert store.append([event(1)]).last == 1
    assert {item.name for item in path.parent.iterdir()} >= {"s.db", "s.db.damaged-1"}


def test_a_store_with_a_second_name_is_refused(tmp_path: Path) -> None:
    path, link = tmp_path / "s.db", tmp_path / "link.db"
    with open_store(path) as store:
        store.append([event(1)])
        link.hardlink_to(path)
        for name in (path, link):
            with pytest.raises(StoreError, match=r"has 2 names \(hard links\)"):
                open_store(name)
        link.unlink()
        open_store(path).close()


# Locks


@pytest.mark.process
@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP, errno.EIO])
def test_a_lock_that_fails_is_not_called_another_agent(tmp_path: Path, number: int) -> None:
    (tmp_path / "faults").write_text(f"flock {number}")
    run = [*FACEWIRE, "device", "run", "--id", "d", "--store", "s.db"]
    done = subprocess.run(run, cwd=tmp_path, env=faulty(tmp_path, tmp_path / "faults"), capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert f"/s.db-agent: cannot be locked: {os.strerror(number)}" in done.stderr
