"""Backup of a SQLite database beside a worker that writes, and its way back. PostgreSQL has pg_dump (docs/operating.md).

    platform.db  ── one snapshot, however long it takes ──▶  .backup.db.new ── checked ──▶ backup.db
    backup.db    ── while no worker runs ──▶  .platform.db.new ──▶ platform.db       (what was there: platform.db.replaced-1)

After a restore the devices find out by themselves that watermarks went back, and send again what they still hold.
"""

import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from facewire.errors import StoreError
from facewire_platform.store.drivers import store_errors
from facewire_platform.store.sqlite import APPLICATION_ID, first_free, held

#: Copied between two looks whether Ctrl-C was pressed.
_PAGES: Final = 1_000
#: What SQLite keeps beside a database that is open, or was when its process died.
_BESIDE: Final = ("", "-wal", "-shm")


def backup(database: Path, to: Path) -> int:
    """Copy a database as it is at this moment; whoever reads or writes it goes on.

    Args:
        database: the file.
        to: the copy: one file, whole or not there.

    Returns:
        The size of the copy, bytes.

    Raises:
        StoreError: there is no database of ours, something is at `to` already, or it cannot be written.
    """
    if to.exists():
        raise StoreError(f"{to}: is there already; a backup replaces nothing")
    with _copied(database, to) as copy:
        copy.rename(to)
    return to.stat().st_size


def restore(database: Path, copy: Path) -> Path | None:
    """Put a copy in the place of a database that no worker has open.

    Args:
        database: the file; need not be there.
        copy: what `backup` made; it stays.

    Returns:
        Where the database is that was there before, with its -wal, for whoever wants to look into it. None if there was none.

    Raises:
        StoreError: a worker has the database, the copy is none of ours, or it cannot be written.
    """
    with held(database), _copied(copy, database) as fresh:
        # A -wal that stays behind would be taken for the new file's own, and ruin it.
        before = _set_aside(database)
        fresh.rename(database)
    return before


@contextlib.contextmanager
def _copied(database: Path, to: Path) -> Iterator[Path]:
    """A copy beside where it is to go, for the caller to rename; otherwise it is gone in the end."""
    if not database.exists():
        raise StoreError(f"{database}: there is no database")
    partial = to.with_name(f".{to.name}.new")
    _remove(partial)
    try:
        with store_errors(to):
            _copy_snapshot(database, partial)
        yield partial
    except OSError as exc:
        raise StoreError(f"{to}: {exc.strerror}") from exc
    finally:
        _remove(partial)


def _copy_snapshot(database: Path, to: Path) -> None:
    # Without a -wal, SQLite makes one even for reading, and only a connection that may write removes it.
    mode = "ro" if database.with_name(database.name + "-wal").exists() else "rw"
    with (
        contextlib.closing(sqlite3.connect(f"{database.absolute().as_uri()}?mode={mode}", uri=True, isolation_level=None)) as source,
        contextlib.closing(sqlite3.connect(to)) as target,
    ):
        if source.execute("PRAGMA application_id").fetchone()[0] != APPLICATION_ID:
            raise StoreError(f"{database}: is not the database of a facewire platform")
        # Within a transaction what it reads stays as it is; without, each write of the worker's would begin the copy anew.
        source.execute("BEGIN")
        source.execute("SELECT identity FROM store").fetchone()
        source.backup(target, pages=_PAGES, progress=lambda *_: None)
        # One file, which lies well on any medium.
        target.execute("PRAGMA journal_mode = delete")
        (verdict,) = target.execute("PRAGMA quick_check(1)").fetchone()
    if verdict != "ok":
        raise StoreError(f"{database}: is damaged: {verdict}")


def _remove(partial: Path) -> None:
    for suffix in ("", "-journal"):
        partial.with_name(partial.name + suffix).unlink(missing_ok=True)


def _set_aside(database: Path) -> Path | None:
    if not database.exists():
        return None
    aside = first_free(database, "replaced")
    for suffix in _BESIDE:
        beside = database.with_name(database.name + suffix)
        if beside.exists():
            beside.rename(aside.with_name(aside.name + suffix))
    return aside
