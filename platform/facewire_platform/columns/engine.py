"""DuckDB, which writes column files and answers from them. The only door to it."""

import contextlib
import importlib.util
import os
import re
import tempfile
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from facewire_platform.columns.arrow import ArrowTable
from facewire_platform.columns.parts import TYPES
from facewire_platform.store.stopping import stoppable

#: More rows than fit go to a temporary file.
MEMORY: Final = "160MB"
#: So many questions of one process are answered at a time. Others wait, so that memory is bounded.
_TURNS: Final = threading.BoundedSemaphore(2)
THREADS: Final = 2
COMPRESSION: Final = "zstd"
#: Rows in a group. DuckDB skips a group by the least and greatest values of its columns. Rows lie
#: by person, so few groups have one person's rows.
GROUP: Final = 30_000
ORDER: Final = "person_type, identity_id, timestamp, stream, seq"
_SQL: Final = {"q": "BIGINT", "i": "INTEGER", "d": "DOUBLE", "u": "VARCHAR"}
#: The columns that questions are about.
NAMES: Final = ", ".join(TYPES)
#: What a file has: the columns of `facewire events`, and the number of the stream.
WRITTEN: Final = (
    "n.device, n.epoch, e.seq, e.timestamp, e.score, e.identity_id, e.identity_name, e.person_type, e.group_name, e.ep_id, e.stream"
)


@contextlib.contextmanager
def opened() -> Iterator[Any]:
    """A database of DuckDB's that is in memory, for one thread. Never open one within another."""
    import duckdb

    with _TURNS, tempfile.TemporaryDirectory(prefix="facewire-") as folder:
        settings: dict[str, Any] = {
            "threads": min(THREADS, os.cpu_count() or 1),
            "memory_limit": MEMORY,
            "temp_directory": folder,
            "preserve_insertion_order": False,
            "autoinstall_known_extensions": False,
            "autoload_known_extensions": False,
        }
        with contextlib.closing(duckdb.connect(":memory:", config=settings)) as connection, stoppable(connection.interrupt):
            yield connection


def is_installed() -> bool:
    """Whether DuckDB is there; without it all is answered from the event table."""
    return importlib.util.find_spec("duckdb") is not None


def is_unreadable(exc: Exception) -> bool:
    """Whether DuckDB raised it because a file is missing or damaged."""
    import duckdb

    return isinstance(exc, duckdb.IOException | duckdb.InvalidInputException)


def put(connection: Any, table: str, rows: Iterable[Sequence[tuple[Any, ...]]], types: Mapping[str, str] = TYPES) -> int:
    """Make a table of rows, which come some at a time; how many there were."""
    columns = ", ".join(f"{name} {_SQL[code]}" for name, code in types.items())
    connection.execute(f"CREATE OR REPLACE TEMP TABLE {table} ({columns})")
    count = 0
    for some in rows:
        if some:
            given = ArrowTable(types, list(zip(*some, strict=True)))
            connection.execute(f"INSERT INTO {table} SELECT * FROM given")
            del given
        count += len(some)
    return count


def put_keys(connection: Any, table: str, keys: Sequence[tuple[int, int]]) -> None:
    """Make a table of (stream, seq)."""
    put(connection, table, [keys], {"stream": "q", "seq": "q"})


def files(folder: Path, names: Sequence[str]) -> str:
    """Column files as a table, in SQL."""
    paths = ", ".join(_text(re.sub(r"[*?\[]", r"[\g<0>]", str(folder / name))) for name in names)
    return f"read_parquet([{paths}], hive_partitioning = false)"


def write(connection: Any, source: str, path: Path) -> None:
    """Write a column file of a SELECT that gives `WRITTEN`."""
    copy(connection, f"SELECT * FROM ({source}) ORDER BY {ORDER}", path)


def copy(connection: Any, source: str, path: Path, group: int = GROUP) -> None:
    """Write the rows of a SELECT into a Parquet file that only its owner and group can read."""
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o640))
    options = f"FORMAT parquet, COMPRESSION {COMPRESSION}, ROW_GROUP_SIZE {group}, USE_TMP_FILE false"
    connection.execute(f"COPY ({source}) TO {_text(str(path))} ({options})")


def _text(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"
