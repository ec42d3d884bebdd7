"""Backup of an SQLite database while a worker writes, and restore. PostgreSQL has pg_dump.

    platform.db ── one snapshot ──▶ .backup.db.new ── checked ──▶ backup.db
    backup.db ── while no worker runs ──▶ .platform.db.new ──▶ platform.db
                                          the old platform.db ──▶ platform.db.replaced-1

After a restore the devices notice that watermarks went back, and send again the events they still
have. See docs/operating.md.
"""

import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from facewire.errors import StoreError
from facewire_platform.store.drivers import failure, store_errors
from facewire_platform.store.file_rights import no_database
from facewire_platform.store.objects import check_objects
from facewire_platform.store.schema import check_schema
from facewire_platform.store.sqlite import APPLICATION_ID, create_private, first_free, worker_lock
from facewire_system.folders import missing_folder

#: Ctrl-C is noticed after so many pages.
_PAGES: Final = 1_000
#: The database and the files that SQLite keeps beside it while it is open, or after a crash.
_BESIDE: Final = ("", "-wal", "-shm")


def backup(database: Path, to: Path) -> int:
    """Copy a database as it is now. Others may read and write it meanwhile.

    Args:
        database: the file.
        to: the copy. It appears only when it is complete.

    Returns:
        The size of the copy, bytes.

    Raises:
        StoreError: the database is missing or not ours, `to` exists, or it cannot be written.
    """
    if to.exists():
        raise StoreError(f"{to}: already exists; a backup replaces nothing")
    with _copied(database, to, "quick_check") as copy:
        copy.rename(to)
    return to.stat().st_size


def restore(database: Path, copy: Path) -> Path | None:
    """Replace a database by a copy, while no worker runs.

    Args:
        database: the file; it need not exist.
        copy: a result of `backup`; it stays.

    Returns:
        The new path of the old database, with its -wal beside it; None if there was no database.

    Raises:
        StoreError: a worker has the database, the copy is not ours, has objects that are not ours
            (`check_objects`) or is damaged, or it cannot be written.
    """
    # Unlike the quick check, this one compares the indexes with their tables.
    with worker_lock(database), _copied(copy, database, "integrity_check") as fresh:
        # SQLite would apply an old -wal to the new file, and ruin it.
        before = _set_aside(database)
        fresh.rename(database)
    return before


@contextlib.contextmanager
def _copied(database: Path, to: Path, check: str) -> Iterator[Path]:
    """A copy next to `to`, for the caller to rename. It is removed otherwise."""
    if not database.exists():
        raise no_database(database)
    if problem := missing_folder(to):
        raise StoreError(f"{to}: {problem}")
    partial = to.with_name(f".{to.name}.new")
    try:
        _remove(partial)
        with store_errors(to):
            create_private(partial)
            _copy_snapshot(database, partial, check)
        yield partial
    except OSError as exc:
        raise StoreError(f"{to}: {exc.strerror}") from exc
    finally:
        _remove(partial)


def _copy_snapshot(database: Path, to: Path, check: str) -> None:
    with _snapshot(database) as source, contextlib.closing(sqlite3.connect(to)) as target, _damage_of(database):
        source.backup(target, pages=_PAGES, progress=lambda *_: None)
        # Make it a single file, which any medium can hold.
        target.execute("PRAGMA journal_mode = delete")
        target.execute("PRAGMA trusted_schema = 0")
        (verdict,) = target.execute(f"PRAGMA {check}(1)").fetchone()
    if verdict != "ok":
        raise StoreError(f"{database}: is damaged: {verdict}")


@contextlib.contextmanager
def _snapshot(database: Path) -> Iterator[sqlite3.Connection]:
    """A connection that reads one moment of a platform's database."""
    # Without a -wal, SQLite creates one even for reading, and only a connection that may write
    # removes it.
    mode = "ro" if database.with_name(database.name + "-wal").exists() else "rw"
    with contextlib.ExitStack() as stack:
        with store_errors(database):
            source = sqlite3.connect(f"{database.absolute().as_uri()}?mode={mode}", uri=True, isolation_level=None)
            stack.callback(source.close)
            source.execute("PRAGMA trusted_schema = 0")
            if source.execute("PRAGMA application_id").fetchone()[0] != APPLICATION_ID:
                raise StoreError(f"{database}: is not the database of a facewire platform")
            # A transaction keeps the snapshot. Without one, each write of the worker restarts the
            # copy.
            source.execute("BEGIN")
            (schema,) = source.execute("PRAGMA user_version").fetchone()
            check_schema(database, schema, migrating=True)
            check_objects(database, source.execute, schema)
        yield source


@contextlib.contextmanager
def _damage_of(database: Path) -> Iterator[None]:
    """Blame the source for damage: a fresh copy has none of its own."""
    try:
        yield
    except sqlite3.DatabaseError as exc:
        if exc.sqlite_errorcode & 0xFF in {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}:
            raise StoreError(failure(database, exc)) from exc
        raise


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
