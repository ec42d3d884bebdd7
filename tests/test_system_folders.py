"""An error about a file of ours names the folder that the user gave, and what is wrong there."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from facewire.errors import FacewireError
from facewire_broker.credentials import UsersFile
from facewire_broker.mosquitto import write_files
from facewire_broker.render import Rendered
from facewire_device.store_file import lock_for_agent
from facewire_platform.store.sqlite import worker_lock
from facewire_system.folders import make_folder, missing_folder

#: A file's own name, after which the name of a lock beside it is too long for the file system.
LONG = "x" * 252


@pytest.mark.parametrize("lock", [lock_for_agent, worker_lock, lambda path: UsersFile(path).editing()], ids=["agent", "worker", "users"])
def test_a_lock_file_that_cannot_be_made_is_a_problem_of_its_folder(
    tmp_path: Path, lock: Callable[[Path], AbstractContextManager[Any]]
) -> None:
    with pytest.raises(FacewireError, match=rf"^{tmp_path}: cannot make {LONG}\S+ in it: File name too long$"), lock(tmp_path / LONG):
        pass


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(FacewireError, match=f"^{tmp_path}/file/x: this folder cannot be made: Not a directory$"):
        make_folder(tmp_path / "file" / "x")
    make_folder(tmp_path / "a" / "b", 0o700)
    make_folder(tmp_path / "a" / "b")
    assert missing_folder(tmp_path / "a" / "b" / "c") == ""
    assert missing_folder(tmp_path / "file" / "c") == f"there is no folder {tmp_path}/file"


def test_rendered_files_that_cannot_be_written_are_an_error_of_one_line(tmp_path: Path) -> None:
    (tmp_path / "acl").mkdir()
    with pytest.raises(FacewireError, match=f"^{tmp_path}/acl: Is a directory$"):
        write_files(Rendered({"acl": "text"}), tmp_path)
