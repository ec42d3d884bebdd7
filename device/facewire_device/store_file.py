"""The file that a store is in, seen from outside SQLite: whose it is, who runs on it, where it goes when damaged.

A store is known by the header of its first page (https://www.sqlite.org/fileformat.html section 1.3), big-endian:

    0  "SQLite format 3" NUL   ...   68  application id: "FWDV"   ...   100

SQLite is asked nothing before that: it would change another's database by closing it (its WAL is written back). A
store has this header from its first transaction on, as it is made before it goes to WAL mode.
"""

import fcntl
import os
import stat
from pathlib import Path
from typing import IO, Final

from facewire.errors import StoreError

APPLICATION_ID: Final = int.from_bytes(b"FWDV", "big")
_MAGIC: Final = b"SQLite format 3\0"
#: SQLite keeps what is not in the file yet beside it.
_SIDE_FILES: Final = ("-wal", "-shm", "-journal")


class DamagedError(Exception):
    """The file is a store of ours, and not whole."""


def has_store(path: Path) -> bool:
    """Whether there is a store in the file; False where one may be made.

    Raises:
        StoreError: something else is there, which is not to be touched.
        DamagedError: the file is gone or empty, but not its WAL. SQLite would delete that.
    """
    if not path.parent.is_dir():
        raise StoreError(f"{path}: there is no directory {path.parent}")
    wal_bytes = _size(path.with_name(path.name + "-wal"))
    try:
        if path.exists() and not stat.S_ISREG(path.stat().st_mode):
            raise StoreError(f"{path}: is not a regular file")
        header = _header(path)
    except OSError as exc:
        raise StoreError(f"{path}: {exc.strerror}") from exc
    if not header:
        if wal_bytes:
            raise DamagedError("is missing or empty, but has events in the -wal file beside it")
        return False
    if not header.startswith(_MAGIC):
        raise StoreError(f"{path}: is no SQLite database, so no device store; it is left as it is")
    if header[68:72] != APPLICATION_ID.to_bytes(4, "big"):
        raise StoreError(f"{path}: is another application's database, no device store; it is left as it is")
    return True


def _header(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(100)
    except FileNotFoundError:
        return b""


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def file_id(path: str) -> tuple[int, int] | None:
    """Which file is under this name now; None if none is. A store that was moved away would take events that nobody reads."""
    try:
        found = os.stat(path)  # noqa: PTH116  # at each commit: a Path costs three times as much
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino


def set_aside(path: Path) -> Path:
    """Move a damaged store out of the way, with what SQLite keeps beside it; returns where."""
    number = 1
    while (aside := path.with_name(f"{path.name}.damaged-{number}")).exists():
        number += 1
    # The file itself last: without it SQLite would delete the rest.
    for suffix in (*_SIDE_FILES, ""):
        beside = path.with_name(path.name + suffix)
        if beside.exists():
            beside.rename(aside.with_name(aside.name + suffix))
    return aside


def lock_for_agent(path: Path) -> IO[bytes]:
    """Be the one agent on a store, until the file that is returned is closed or the process ends, however it does.

    Raises:
        StoreError: another agent runs on it, and would take this one's acks for strangers'.
    """
    try:
        lock = path.with_name(path.name + "-agent").open("ab")
    except OSError as exc:
        raise StoreError(f"{path}: {exc.strerror}") from exc
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as exc:
        lock.close()
        raise StoreError(f"{path}: another agent runs on this store; it takes one, and any number of recorders") from exc
    return lock
