"""Only their owner, at most also their group, can use files, whatever the umask is.

Nobody else can hold a lock.
"""

import fcntl
import os
import stat
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner
from device_events import event
from facewire_process import FACEWIRE
from platform_model import batch
from platform_store import store_batches

from facewire.errors import BrokerError, StoreError
from facewire.roles import Role
from facewire_broker import credentials
from facewire_broker.credentials import UsersFile
from facewire_cli.main import cli
from facewire_device.store import open_store as open_device_store
from facewire_device.store_file import lock_for_agent
from facewire_platform.store.backup import backup, restore
from facewire_platform.store.sqlite import worker_lock
from facewire_platform.store.writer import open_store


@pytest.fixture(params=[0o000, 0o022, 0o077])
def umask(request: pytest.FixtureRequest) -> Iterator[None]:
    before = os.umask(request.param)
    yield
    os.umask(before)


def modes(folder: Path) -> dict[str, int]:
    return {path.name: stat.S_IMODE(path.stat().st_mode) for path in folder.rglob("*") if path.is_file()}


@pytest.mark.usefixtures("umask")
def test_no_store_backup_export_or_credential_is_readable_by_others(tmp_path: Path) -> None:
    platform, device = tmp_path / "platform.db", tmp_path / "device.db"
    with open_store(platform) as store, open_device_store(device) as ring, lock_for_agent(device):
        ring.append([event(1)])
        store_batches(store, batch(0, 5, *range(1, 6)))
        backup(platform, tmp_path / "backup.db")
        url = f"sqlite:///{platform}"
        assert CliRunner().invoke(cli, ["export", "--database", url, "--to", str(tmp_path / "events.jsonl")]).exit_code == 0
        while_open = modes(tmp_path)
    restore(platform, tmp_path / "backup.db")
    with UsersFile(tmp_path / "users").editing() as users:
        credentials.add(users, "dev1", Role.DEVICE, "secret")
    made = while_open | modes(tmp_path)
    expected = {"platform.db", "platform.db-wal", "platform.db-worker", "device.db", "device.db-wal", "device.db-agent", "backup.db",
                "events.jsonl", "platform.db.replaced-1", "users", "users.roles", "users.lock"}  # fmt: skip
    assert expected <= made.keys()
    assert {name: oct(mode) for name, mode in made.items() if mode & 0o007} == {}
    assert {made[name] for name in ("users.lock", "device.db-agent", "platform.db-worker")} == {0o600}
    # The recognition process may record as another user of the group; nobody else's group writes.
    assert {name: oct(mode) for name, mode in made.items() if mode & 0o020 and not name.startswith("device.db")} == {}


def test_a_command_leaves_no_file_to_others_on_the_machine(tmp_path: Path) -> None:
    command = [*FACEWIRE, "broker", "users", "add", "dev1", "--role", "device", "--users", str(tmp_path / "users")]
    render = [*FACEWIRE, "broker", "render", "mosquitto", "--to", str(tmp_path / "m"), "--users", str(tmp_path / "users")]
    for arguments in (command, render):
        subprocess.run(arguments, check=True, capture_output=True, umask=0)
    assert {name: oct(mode) for name, mode in modes(tmp_path).items() if mode & 0o007} == {}


LOCKS: dict[str, tuple[str, Callable[[Path], object]]] = {
    "users": (".lock", lambda path: UsersFile(path).editing().__enter__()),
    "device": ("-agent", lock_for_agent),
    "platform": ("-worker", lambda path: worker_lock(path).__enter__()),
}


@pytest.mark.parametrize("kind", LOCKS)
def test_a_lock_follows_no_link_and_truncates_nothing(tmp_path: Path, kind: str) -> None:
    suffix, lock = LOCKS[kind]
    victim = tmp_path / "victim"
    victim.write_text("precious")
    (tmp_path / f"store{suffix}").symlink_to(victim)
    with pytest.raises((BrokerError, StoreError), match="store"):
        lock(tmp_path / "store")
    assert victim.read_text() == "precious"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_users_that_root_edits_stay_their_owners(tmp_path: Path) -> None:
    file = UsersFile(tmp_path / "users")
    with file.editing() as users:
        credentials.add(users, "dev1", Role.DEVICE, "secret")
    for path in (file.path, file.roles_path):
        os.chown(path, 1234, 1235)
    with file.editing() as users:
        credentials.set_secret(users, "dev1", "another")
    assert {(path.stat().st_uid, path.stat().st_gid) for path in (file.path, file.roles_path)} == {(1234, 1235)}


def test_a_lock_is_held_by_one_at_a_time(tmp_path: Path) -> None:
    with UsersFile(tmp_path / "users").editing(), (tmp_path / "users.lock").open() as lock, pytest.raises(BlockingIOError):
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
