"""Whether this user may use the files of an SQLite database, before SQLite opens any of them.

SQLite names neither the file nor the reason. It opens a file that it may not write for reading, and
leaves -wal and -shm files that lock the database's own user out.
"""

import contextlib
import grp
import os
import pwd
import stat
from pathlib import Path
from typing import Final

from facewire.errors import StoreError

_SIDE_FILES: Final = ("-wal", "-journal", "-shm")


def check_rights(path: Path, *, write: bool) -> None:
    """Check that this user may read, or also write, the database at a path and the files beside it.

    Raises:
        StoreError: names the file or folder, and says what is wrong.
    """
    path = Path(os.path.realpath(path))
    needed = os.R_OK | os.W_OK if write else os.R_OK
    for file in (path, *(path.with_name(path.name + suffix) for suffix in _SIDE_FILES)):
        _check(file, needed, "read and write" if write else "read")
    if write:
        _check(path.parent, os.W_OK | os.X_OK, "make files in")


def is_there(path: Path) -> bool:
    """Whether there is a file. Raises `StoreError` if this user may not enter its folder."""
    try:
        path.stat()
    except PermissionError as exc:
        closed = next((folder for folder in reversed(path.absolute().parents) if not os.access(folder, os.X_OK, effective_ids=True)), path)
        raise denied(closed, exc) from exc
    except OSError:
        return False
    return True


def is_writable(path: Path) -> bool:
    """Whether this user may write a file."""
    return os.access(path, os.W_OK, effective_ids=True)


def denied(path: Path, exc: OSError) -> StoreError:
    """The error for a file that cannot be opened; if it is a permission, it names the owner."""
    if isinstance(exc, PermissionError) and (found := _stat(path)):
        return StoreError(f"{path}: {_user(os.geteuid())} may not open it; it belongs to {_owner(found)}")
    return StoreError(f"{path}: {exc.strerror}")


def leave_to_owner(fd: int, folder: Path) -> None:
    """Give a file that root has made to the owner of its folder, who could not open it."""
    if os.geteuid() == 0:
        found = folder.stat()
        with contextlib.suppress(OSError):  # a system call filter may forbid it
            os.fchown(fd, found.st_uid, found.st_gid)


def _check(path: Path, needed: int, deed: str) -> None:
    found = _stat(path)
    if found is not None and not os.access(path, needed, effective_ids=True):
        raise StoreError(f"{path}: {_user(os.geteuid())} may not {deed} it; it belongs to {_owner(found)}")


def _stat(path: Path) -> os.stat_result | None:
    try:
        return path.stat()
    except OSError:
        return None


def _owner(found: os.stat_result) -> str:
    return f"{_user(found.st_uid)}:{_group(found.st_gid)}, {stat.filemode(found.st_mode)}"


def _user(uid: int) -> str:
    try:
        return f"user {pwd.getpwuid(uid).pw_name}"
    except KeyError:
        return f"user {uid}"


def _group(gid: int) -> str:
    try:
        return f"group {grp.getgrgid(gid).gr_name}"
    except KeyError:
        return f"group {gid}"
