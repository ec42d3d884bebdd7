"""The file of a store, outside SQLite: recognise it, rename it when damaged, lock it for an agent.

The header of the first page shows whether a file is a store
(https://www.sqlite.org/fileformat.html section 1.3, big-endian):

    0  "SQLite format 3" NUL   ...   68  application id: "FWDV"   ...   100

We read it before we let SQLite open the file, because SQLite would change a foreign database when
it closes it: it writes the WAL back. A store has this header from its first transaction on, because
it is made before it is switched to WAL mode. If a death interrupts that transaction, the file is
nothing, zeros, or a store beside a journal that takes it back to nothing
(section 3 there: a journal holds the file's first size at offset 16).
"""

import fcntl
import os
import stat
from pathlib import Path
from typing import IO, Final

from facewire.errors import StoreError
from facewire_device.store_rights import rights_problem
from facewire_system.folders import missing_folder, not_made
from facewire_system.owners import SIDE_FILES, closed_folder, leave_to_owner

APPLICATION_ID: Final = int.from_bytes(b"FWDV", "big")
FOREIGN: Final = "is another application's database, not a device store; it was left as it is"
_MAGIC: Final = b"SQLite format 3\0"
_JOURNAL_MAGIC: Final = bytes.fromhex("d9d505f920a163d7")
_FILES: Final = ("", *SIDE_FILES)


class DamagedError(StoreError):
    """The file is a store, but damaged."""


def has_store(path: Path) -> bool:
    """Whether the file holds a store; False if one may be made there.

    Raises:
        StoreError: the file holds something else, and must not be touched.
        DamagedError: the file is gone or empty, but its WAL is not; SQLite would delete the WAL.
    """
    wal_bytes = _size(path.with_name(path.name + "-wal"))
    try:
        header = _header(path)
        half_made = not header.strip(b"\0") and _begins_at_nothing(path.with_name(path.name + "-journal"))
    except OSError as exc:
        raise StoreError(f"{path}: {exc.strerror}") from exc
    if not header or half_made:
        if wal_bytes:
            raise DamagedError(f"{path}: is missing or empty, but the -wal file beside it holds events")
        return False
    if not header.startswith(_MAGIC):
        raise StoreError(f"{path}: is not an SQLite database, so not a device store; it was left as it is")
    if header[68:72] != APPLICATION_ID.to_bytes(4, "big"):
        raise StoreError(f"{path}: {FOREIGN}")
    return True


def real_path(path: Path) -> Path:
    """The path without symbolic links. SQLite follows them when it names its other files."""
    return Path(os.path.realpath(path))


def check_file(path: Path) -> None:
    """Check that SQLite may open a path at all.

    Raises:
        StoreError: there is no folder, the path is no regular file, or the file has another name:
            by each name SQLite would keep a WAL of its own, so events would be lost.
    """
    try:
        if problem := missing_folder(path):
            raise StoreError(f"{path}: {problem}")
        found = path.stat()
    except FileNotFoundError:
        return
    except OSError as exc:
        raise StoreError(f"{closed_folder(path) or path}: {exc.strerror}") from exc
    if not stat.S_ISREG(found.st_mode):
        raise StoreError(f"{path}: is not a regular file")
    if found.st_nlink > 1:
        raise StoreError(
            f"{path}: has {found.st_nlink} names (hard links), and events recorded under one are lost under the other: leave one"
        )


def _begins_at_nothing(journal: Path) -> bool:
    """Whether a journal belongs to the first transaction of a file."""
    header = _header(journal)
    return header.startswith(_JOURNAL_MAGIC) and header[16:20] == bytes(4)


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
    """Identity of the file that has this name now (device and inode); None if there is none.

    Without this check, a store that was moved away would record events that nobody reads.
    """
    try:
        found = os.stat(path)  # noqa: PTH116  # at each commit: a Path costs three times as much
    except OSError:
        return None
    return found.st_dev, found.st_ino


def set_aside(path: Path) -> Path:
    """Rename a damaged store and the files beside it; returns the new name."""
    number = 1
    while any((aside := path.with_name(f"{path.name}.damaged-{number}")).with_name(aside.name + suffix).exists() for suffix in _FILES):
        number += 1
    # The file itself first. Left alone without its WAL, it would pass for an older, whole store; a
    # WAL without its file is found (`has_store`).
    for suffix in _FILES:
        beside = path.with_name(path.name + suffix)
        if beside.exists():
            beside.rename(aside.with_name(aside.name + suffix))
    return aside


def lock_for_agent(path: Path) -> IO[bytes]:
    """Lock the store for one agent, until the returned file is closed or the process ends.

    Raises:
        StoreError: another agent runs on it, or it cannot be locked. Two agents would each ignore
            the acks of the other's batches.
    """
    path = real_path(path)
    check_file(path)
    beside = path.with_name(path.name + "-agent")
    try:
        # Others on the machine cannot open it, so they cannot hold the lock. No link is followed.
        fd = os.open(beside, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except OSError as exc:
        problem = rights_problem(beside)
        raise StoreError(f"{beside}: {problem}" if problem else not_made(beside, exc)) from exc
    lock = os.fdopen(fd, "rb+")
    try:
        leave_to_owner(fd, path.parent)
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as exc:
        lock.close()
        raise StoreError(f"{path}: another agent runs on this store; one agent may, beside any number of recorders") from exc
    except OSError as exc:
        lock.close()
        raise StoreError(f"{beside}: cannot be locked: {exc.strerror}. A store needs a disk with file locks (flock)") from exc
    return lock
