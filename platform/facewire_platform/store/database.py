"""Which database a URL names, and how it is opened.

What SQLite and PostgreSQL do differently is in `sqlite` and `postgresql`; all else runs on both.
"""

import re
from pathlib import Path
from typing import Any

from facewire_platform.store.drivers import Location, Mode, shown
from facewire_platform.store.postgresql import open_postgresql
from facewire_platform.store.sqlite import open_sqlite


def locate(url: str) -> Location:
    """What `sqlite:///FILE` (four slashes for an absolute path) or `postgresql://…` names.

    Raises:
        ValueError: it names no database.
    """
    if found := re.fullmatch(r"sqlite:///(.+)", url):
        return Path(found[1])
    if re.match(r"postgres(ql)?://", url):
        return url
    raise ValueError(f"database {shown(url)!r} is neither sqlite:///FILE nor postgresql://USER@HOST/NAME")


def open_database(location: Location, mode: Mode) -> Any:
    """Open the database on the calling thread, which alone may use it.

    Returns:
        `peewee.SqliteDatabase` or `peewee.PostgresqlDatabase`.

    Raises:
        StoreError: missing, not ours, or of another schema.
    """
    if isinstance(location, Path):
        return open_sqlite(location, mode)
    return open_postgresql(location, mode)
