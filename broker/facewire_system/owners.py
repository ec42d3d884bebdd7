"""Who owns a file, and who may reach it: SQLite names neither the file nor the reason."""

import contextlib
import grp
import os
import pwd
import stat
from pathlib import Path
from typing import Final

#: Files that SQLite keeps beside a database.
SIDE_FILES: Final = ("-wal", "-journal", "-shm")


def database_files(path: Path) -> list[Path]:
    """A database's file, and those that SQLite keeps beside it, there or not."""
    return [path, *(path.with_name(path.name + suffix) for suffix in SIDE_FILES)]


def stat_of(path: Path) -> os.stat_result | None:
    """The file's status; None if it cannot be read."""
    try:
        return path.stat()
    except OSError:
        return None


def closed_folder(path: Path) -> Path | None:
    """The uppermost folder of a path that this user may not enter."""
    return next((folder for folder in reversed(path.absolute().parents) if not os.access(folder, os.X_OK, effective_ids=True)), None)


def leave_to_owner(fd: int, folder: Path) -> None:
    """Give a file that root has made to the owner of its folder, who could not open it."""
    if os.geteuid() == 0:
        found = folder.stat()
        with contextlib.suppress(OSError):  # a system call filter may forbid it
            os.fchown(fd, found.st_uid, found.st_gid)


def this_user() -> str:
    """This process's user, as an error names it."""
    return _user(os.geteuid())


def owner_of(found: os.stat_result) -> str:
    """The owner and the mode of a file, as an error names them."""
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
