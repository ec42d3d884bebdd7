"""The differences between SQLite and PostgreSQL. All else runs on both.

Dialect
├── SqliteDialect      a file; one worker at a time
└── PostgresqlDialect  a server; any number of workers
"""

import abc
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from facewire_platform.store.drivers import Location, Mode
from facewire_platform.store.rows import Rows


class Statements(abc.ABC):
    """The statements that run for every group of messages, within a transaction."""

    @abc.abstractmethod
    def streams(self, keys: Sequence[tuple[str, str]]) -> Iterator[tuple[Any, ...]]:
        """The streams of (device, epoch), as `STREAM_COLUMNS`. A missing one is created."""

    @abc.abstractmethod
    def devices(self, names: Sequence[str]) -> Iterator[tuple[Any, ...]]:
        """The devices, as `DEVICE_COLUMNS`. A missing one may be created or left out."""

    @abc.abstractmethod
    def contents(self, ranges: Sequence[tuple[int, int, int]]) -> Iterator[tuple[int, int, int, str, float]]:
        """The stored events in ranges (stream, first, last).

        Yields:
            stream, seq, timestamp, identity_id, score.
        """

    @abc.abstractmethod
    def insert_events(self, group: Sequence[Any]) -> None:
        """Insert what `Rows.add_to` collected. None of these events may be stored already."""

    @abc.abstractmethod
    def update_streams(self, rows: Sequence[tuple[Any, ...]]) -> None:
        """Write streams that `streams` returned, as `STREAM_COLUMNS`."""

    @abc.abstractmethod
    def write_devices(self, rows: Sequence[tuple[Any, ...]]) -> None:
        """Write devices, new ones too, as `DEVICE_COLUMNS`."""


class Dialect(abc.ABC):
    """One kind of database, at one location."""

    location: Location
    #: The form in which events are inserted.
    rows: type[Rows]

    @property
    @abc.abstractmethod
    def url(self) -> str:
        """Its URL, without a password."""

    @property
    def exists(self) -> bool:
        """False if it is certainly missing. Of a server, only a connection can tell."""
        return True

    @property
    def folder(self) -> Path | None:
        """Its folder, if it is on a disk of this machine."""
        return None

    def file_id(self) -> tuple[int, int] | None:
        """Identifies its file on this machine; None if there is none."""
        return None

    @abc.abstractmethod
    def open(self, mode: Mode) -> Any:
        """Connect. See `open_database`."""

    @abc.abstractmethod
    def interrupt(self, database: Any) -> Callable[[], None]:
        """Ends the statement that runs, if another thread calls it."""

    def worker_lock(self) -> AbstractContextManager[None]:
        """Keep every other worker out, if the database takes only one.

        Raises:
            StoreError: another worker has it.
        """
        return nullcontext()

    @abc.abstractmethod
    def statements(self, database: Any) -> Statements:
        """The statements, for an open database."""

    def transaction(self, database: Any) -> AbstractContextManager[Any]:
        """A transaction that is going to write."""
        begun: AbstractContextManager[Any] = database.transaction()
        return begun

    @abc.abstractmethod
    def snapshot(self, database: Any) -> AbstractContextManager[Any]:
        """A transaction that only reads, all of it at one moment."""

    @abc.abstractmethod
    def run(self, database: Any, sql: str, values: Sequence[Any] = ()) -> Any:
        """A cursor on the rows of a statement that both kinds of database understand.

        `?` stands for a value. `CROSS JOIN … ON` joins tables in the order in which you write them.
        """

    #: A table in SQL of the ranges (stream, after, last) in a JSON list, which is its only value.
    spans: str

    @abc.abstractmethod
    def column_folder(self, database: Any) -> Path:
        """The path for a new folder of column files."""

    @abc.abstractmethod
    def columns_lock(self, database: Any, *, wait: bool) -> AbstractContextManager[bool]:
        """Lock the column files for this process; False if another has them, unless we wait."""

    @abc.abstractmethod
    def schema_transaction(self, database: Any) -> AbstractContextManager[None]:
        """A transaction that creates or changes tables. No other process can do so meanwhile."""

    def mark_schema(self, database: Any) -> None:  # noqa: B027  # nothing to do on a server
        """Note in the file which program it belongs to, and its schema."""

    def copy_aside(self) -> Path | None:
        """Copy the file beside itself before a migration; None if there is no file."""
        return None

    def wait_for_locks(self, database: Any, seconds: float) -> None:  # noqa: B027  # nothing to do on a server
        """Wait this long for a lock, if the usual time is too short."""

    def start_erasing(self, database: Any) -> None:  # noqa: B027  # nothing to do on a server
        """From now on, overwrite the bytes of deleted rows."""

    def finish_erasing(self, database: Any) -> None:  # noqa: B027  # nothing to do on a server
        """Overwrite the deleted rows that are left in the log."""

    def ordered(self, text: Any) -> Any:
        """A column of texts, to be compared by code point."""
        return text

    def to_stored(self, value: Any) -> Any:
        """A value of an event in the form in which the database stores it."""
        return value

    def from_stored(self, value: Any) -> Any:
        """The value that `to_stored` was given."""
        return value

    def rows_from_stored(self, rows: list[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
        """Rows of values that `to_stored` was given."""
        return rows
