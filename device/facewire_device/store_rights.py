"""Checks who may use a store's files: the agent's user, and recorders of other users in its group.

SQLite makes -wal and -shm with the database's mode, and with the group of the process that opens it
first. If it cannot write a file, it opens it for reading, and leaves files that lock the others
out. So we check the rights before SQLite opens anything. If the group may write the folder, the
store is shared:

    drwxrws---  agent  group   folder      `s`: files in it get its group
    -rw-rw----  either group   store.db    and so -wal, -shm, whatever the umask of either
    -rw-------  agent  group   store.db-agent
"""

import contextlib
import os
import stat
from pathlib import Path
from typing import Final

from facewire.errors import StoreError
from facewire_system.owners import database_files, owner_of, stat_of, this_user

_SHARED: Final = 0o660


def create_file(path: Path) -> None:
    """Create a store's file, for its owner alone and, in a shared folder, for its group."""
    with contextlib.suppress(FileExistsError):
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, _SHARED)
        os.close(fd)
        _share(path, path.parent)


def check_rights(path: Path) -> None:
    """Check that this user may use the store at `path`, and that its other users may after it.

    Files of our own that shut out the group of a shared folder are mended.

    Raises:
        StoreError: names the file or folder, and says what is wrong.
    """
    folder = path.parent
    files = database_files(path)
    for file in files:
        _share(file, folder)
    for file in (*files, folder):
        if problem := rights_problem(file):
            raise StoreError(f"{file}: {problem}")
    if _locks_others_out(folder.stat()):
        raise StoreError(f"{folder}: what {this_user()} makes in it would not belong to its group, and lock others out: chmod g+s {folder}")


def rights_problem(path: Path) -> str | None:
    """Why this user cannot read and write a file, or make files in a folder.

    None if it can, or if there is no such file.
    """
    try:
        found = path.lstat()
    except OSError:
        return None
    if os.access(path, os.R_OK | os.W_OK, effective_ids=True):
        return None
    if os.statvfs(path).f_flag & os.ST_RDONLY:
        return "is on a file system that is mounted read-only"
    return f"{this_user()} may not read and write it; it belongs to {owner_of(found)}"


def _share(file: Path, folder: Path) -> None:
    found = stat_of(file)
    shared = folder.stat()
    if found is None or not _is_shared(shared) or os.geteuid() not in {0, found.st_uid}:
        return
    with contextlib.suppress(OSError):  # then `rights_problem` says it to those whom it concerns
        if found.st_gid != shared.st_gid:
            os.chown(file, -1, shared.st_gid, follow_symlinks=False)
        if found.st_mode & _SHARED != _SHARED:
            file.chmod(stat.S_IMODE(found.st_mode) | _SHARED)


def _is_shared(folder: os.stat_result) -> bool:
    """Whether the group may write; where everybody may, as in /tmp, nothing is meant by it."""
    return bool(folder.st_mode & stat.S_IWGRP) and not folder.st_mode & stat.S_IWOTH


def _locks_others_out(folder: os.stat_result) -> bool:
    is_guest = os.geteuid() not in {0, folder.st_uid} and os.getegid() != folder.st_gid
    return is_guest and _is_shared(folder) and not folder.st_mode & stat.S_ISGID
