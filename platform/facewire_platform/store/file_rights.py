"""Whether this user may use the files of an SQLite database, before SQLite opens any of them.

SQLite names neither the file nor the reason. It opens a file that it may not write for reading, and
leaves -wal and -shm files that lock the database's own user out.
"""

import os
from pathlib import Path

from facewire.errors import StoreError
from facewire_system.folders import not_made
from facewire_system.owners import closed_folder, database_files, owner_of, stat_of, this_user


def check_rights(path: Path, *, write: bool) -> None:
    """Check that this user may read, or also write, the database at a path and the files beside it.

    Raises:
        StoreError: names the file or folder, and says what is wrong.
    """
    path = Path(os.path.realpath(path))
    needed = os.R_OK | os.W_OK if write else os.R_OK
    for file in database_files(path):
        _check(file, needed, "read and write" if write else "read")
    if write:
        _check(path.parent, os.W_OK | os.X_OK, "make files in")


def is_there(path: Path) -> bool:
    """Whether there is a file. Raises `StoreError` if this user may not enter its folder."""
    try:
        path.stat()
    except PermissionError as exc:
        raise denied(closed_folder(path) or path, exc) from exc
    except OSError:
        return False
    return True


def is_writable(path: Path) -> bool:
    """Whether this user may write a file."""
    return os.access(path, os.W_OK, effective_ids=True)


def no_database(path: Path | str) -> StoreError:
    """The error for a missing file; most often another command has named another."""
    return StoreError(f"{path}: there is no database; does --database name the worker's?")


def denied(path: Path, exc: OSError) -> StoreError:
    """The error for a file that cannot be opened; if it is a permission, it names the owner."""
    if isinstance(exc, PermissionError) and (found := stat_of(path)):
        return StoreError(f"{path}: {this_user()} may not open it; it belongs to {owner_of(found)}")
    return StoreError(not_made(path, exc))


def _check(path: Path, needed: int, deed: str) -> None:
    found = stat_of(path)
    if found is not None and not os.access(path, needed, effective_ids=True):
        raise StoreError(f"{path}: {this_user()} may not {deed} it; it belongs to {owner_of(found)}")
