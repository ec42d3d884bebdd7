"""The folder of the column files, and the process that may change them.

platform.db-columns/
    identity                      the database has it too
    lock                          held by the process that changes files
    events/day=2026-11-21/….parquet
    new/                          files that are not whole yet
"""

import os
import secrets
from pathlib import Path
from typing import Any, Final

from facewire.errors import StoreError
from facewire.events import MAX_INT
from facewire_platform.store.dialect import Dialect
from facewire_platform.store.schema import CopiedRow, PartFolderRow, PartRow

#: Hive's name for the day of rows whose day is not known.
NO_DAY: Final = "__HIVE_DEFAULT_PARTITION__"
EVENTS: Final = "events"
NEW: Final = "new"


def read_folder(dialect: Dialect, database: Any) -> tuple[Path, int] | None:
    """The folder of the database's parts, and the floor; None if this machine does not have it."""
    row = _row(database)
    if row is None:
        return None
    # The file of SQLite may have moved, and its folder with it.
    folder = Path(row.folder) if dialect.folder is None else dialect.column_folder(database)
    return (folder, row.floor) if _identity(folder) == row.identity else None


def is_elsewhere(dialect: Dialect, database: Any) -> bool:
    """Whether the files are on another machine."""
    return dialect.folder is None and _row(database) is not None and read_folder(dialect, database) is None


def make_folder(dialect: Dialect, database: Any) -> Path:
    """The folder, made and written down if there is none. Within a transaction.

    Raises:
        StoreError: the folder is on another machine.
    """
    found = read_folder(dialect, database)
    if found is not None:
        return found[0]
    if is_elsewhere(dialect, database):
        raise StoreError(f"{dialect.url}: its column files are on another machine; if that is gone: facewire platform columns drop")
    folder = dialect.column_folder(database)
    identity = secrets.token_hex(8)
    (folder / EVENTS).mkdir(parents=True, exist_ok=True, mode=0o750)
    (folder / "identity").write_text(identity)
    for table in (PartFolderRow, PartRow, CopiedRow):
        table.delete().bind(database).execute()
    PartFolderRow.insert(identity=identity, folder=str(folder), floor=-MAX_INT).bind(database).execute()
    return folder


def _row(database: Any) -> PartFolderRow | None:
    return next(iter(PartFolderRow.select().bind(database)), None)


def _identity(folder: Path) -> str | None:
    try:
        return (folder / "identity").read_text()
    except OSError:
        return None


def sync(path: Path) -> None:
    """Write a file or a folder through to the disk."""
    opened = os.open(path, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)
