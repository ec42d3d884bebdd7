"""Which database a URL names, and how it is opened."""

import re
from pathlib import Path
from typing import Any

from facewire_platform.store.dialect import Dialect
from facewire_platform.store.drivers import Location, Mode, shown
from facewire_platform.store.postgresql import PostgresqlDialect
from facewire_platform.store.sqlite import SqliteDialect


def locate(url: str) -> Location:
    """The location that a URL names: `sqlite:///FILE` or `postgresql://…`.

    An absolute path has four slashes.

    Raises:
        ValueError: it names no database, or libpq would take a part of its password for the host.
    """
    if match := re.fullmatch(r"sqlite:///(.+)", url):
        return Path(match[1])
    if found := re.match(r"postgres(?:ql)?://([^/]*)(.*)", url, re.DOTALL):
        # libpq would take what stands behind the first of both for the host, and show it.
        if found[1].count("@") > 1 or "@" in re.sub("=[^&]*", "", found[2]):
            raise ValueError(f"database {shown(url)!r} has a bare / or @ in its user, password or name: write %2F or %40")
        return url
    raise ValueError(f"database {shown(url)!r} is neither sqlite:///FILE nor postgresql://USER@HOST/NAME")


def dialect_of(location: Location) -> Dialect:
    """The dialect of a database; nothing is opened."""
    return SqliteDialect(location) if isinstance(location, Path) else PostgresqlDialect(location)


def open_database(location: Location, mode: Mode) -> Any:
    """Open the database on the calling thread. No other thread may use it.

    Returns:
        `peewee.SqliteDatabase` or `peewee.PostgresqlDatabase`.

    Raises:
        StoreError: it is missing, not ours, or has another schema.
    """
    return dialect_of(location).open(mode)
