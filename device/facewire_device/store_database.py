"""The open database under a store: its transactions, and its errors as the store's."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import peewee

from facewire.errors import StoreError
from facewire_device.opening import close_database, store_errors
from facewire_device.store_file import DamagedError, file_id
from facewire_device.watch import Watch


class ReplacedError(StoreError):
    """The store's file was moved, removed or replaced: open it again."""


class StoreDatabase:
    """An open database. It belongs to the thread that opened it.

    Attributes:
        path: the file, without symbolic links.
    """

    def __init__(self, database: peewee.SqliteDatabase, path: Path) -> None:
        self._db = database
        self._file_id = file_id(database.database)
        self.path = path
        self._watch = Watch(path)

    def close(self) -> None:
        """Close the database. May be called twice."""
        close_database(self._db, self._file_id)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None) -> None:
        self.close()

    def version(self) -> int:
        """A number that changes when another connection commits (SQLite's data_version)."""
        self._check_file()
        version: int = self.query("PRAGMA data_version")[0][0]
        return version

    def query(self, sql: str, *values: Any) -> list[tuple[Any, ...]]:
        """The rows that a statement finds; for this package's modules."""
        with self._errors():
            rows: list[tuple[Any, ...]] = self._db.execute_sql(sql, values).fetchall()
        return rows

    def execute(self, sql: str, *values: Any) -> int:
        """Run a statement within a `transaction`, for this package's modules; rows it changed."""
        changed: int = self._db.execute_sql(sql, values).rowcount
        return changed

    @contextlib.contextmanager
    def transaction(self, lock: str = "IMMEDIATE") -> Iterator[None]:
        """All that is done inside is one commit; a transaction inside is part of it."""
        if self._db.in_transaction():
            yield
            return
        with self._errors(), self._watch.timed(), self._db.transaction(lock):
            try:
                yield
            finally:
                self._ended()
            self._check_file()

    def _ended(self) -> None:
        """What was read in this transaction may change from now on."""

    def _check_file(self) -> None:
        if file_id(self._db.database) != self._file_id:
            raise ReplacedError(f"{self.path}: the file was moved, removed or replaced")

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            with store_errors(self.path):
                yield
        except DamagedError:
            self._check_file()  # the damaged file may have been set aside
            raise
