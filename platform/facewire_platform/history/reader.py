"""Opens the platform's database for reading, while a worker goes on writing (SQLite's WAL)."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final, Self, TypeAlias, TypeVar

from facewire_platform.columns.answers import Columns, FilesMissing, columns
from facewire_platform.filter import Filter
from facewire_platform.store.database import dialect_of
from facewire_platform.store.drivers import Location, store_errors
from facewire_platform.store.stopping import check_stop, stoppable

Row: TypeAlias = dict[str, Any]
T = TypeVar("T")

#: Rows in one read of `paged`.
PAGE: Final = 250
#: How often a question to the column files is asked, if some are replaced meanwhile.
TRIES: Final = 5


class Reader:
    """A database open for reading, on the thread that opened it. Each read is a transaction.

    Raises:
        StoreError: there is no database, or it is not a platform's.
    """

    def __init__(self, location: Location) -> None:
        self._location = location
        self.dialect = dialect_of(location)
        self._db = self.dialect.open("read")
        self._resources = contextlib.ExitStack()
        self.to_stored, self.from_stored = self.dialect.to_stored, self.dialect.from_stored
        self.ordered = self.dialect.ordered

    def close(self) -> None:
        self._db.close()

    def __enter__(self) -> Self:
        self._resources.callback(self.close)
        self._resources.enter_context(stoppable(self.dialect.interrupt(self._db)))
        return self

    def __exit__(self, *error: Any) -> None:
        self._resources.__exit__(*error)

    def rows(self, query: Any) -> list[Any]:
        """All rows of a query, with texts as the database keeps them (see `from_stored`)."""
        check_stop()
        with store_errors(self._location):
            return list(query.bind(self._db))

    def plain_rows(self, query: Any) -> list[tuple[Any, ...]]:
        """Rows as the driver gives them: peewee's conversion would take a quarter of the time."""
        check_stop()
        with store_errors(self._location):
            rows: list[tuple[Any, ...]] = self._executed(query).fetchall()
            return rows

    def plain_dicts(self, query: Any) -> Iterator[Row]:
        """The same with the names of the columns."""
        with store_errors(self._location):
            cursor = self._executed(query)
            names = [column[0] for column in cursor.description]
            rows = cursor.fetchall()
        return (dict(zip(names, row, strict=True)) for row in rows)

    def run(self, sql: str, values: Sequence[Any]) -> list[tuple[Any, ...]]:
        """All rows of a statement (see `Dialect.run`)."""
        with store_errors(self._location):
            return list(self.dialect.run(self._db, sql, values).fetchall())

    def paged(self, query: Any, key: Any, *, newest_first: bool = False) -> Iterator[Row]:
        """All rows of a query, page by page, in the order of a column that they contain."""
        query = query.order_by(key.desc() if newest_first else key).limit(PAGE)
        page = self.rows(query)
        while page:
            yield from page
            last = page[-1][key.name]
            page = self.rows(query.where(key < last if newest_first else key > last))

    def ask(self, wanted: Filter, question: Callable[[Columns], Iterator[T]], otherwise: Callable[[], Iterator[T]]) -> Iterator[T]:
        """Answers from the column files, or from the event table if the files are of no use.

        Args:
            wanted: the events that the question is about.
            question: asks the column files.
            otherwise: asks the event table.
        """
        for _ in range(TRIES):
            try:
                with columns(self.dialect, self._db, wanted) as found:
                    if found is None:
                        break
                    yield from question(found)
                    return
            except FilesMissing:
                continue  # a file was replaced in this moment
        yield from otherwise()

    def _executed(self, query: Any) -> Any:
        return self._db.execute_sql(*query.bind(self._db).sql())
