"""The tables of the platform's store, and how its database is opened.

    device ──< stream ──< event          one stream for each epoch of a device; a small integer stands for it
                     ├──< gap            ranges that are lost
                     ├──< rejected       seqs that broke the contract
                     └──< quarantine     what broke it, as long as there is room

Few indexes: each one costs a third of the speed of ingest. The primary key (stream, seq) is the identity of an event and
serves acks and paging by device; the one index beside it serves time ranges.
"""

import contextlib
import logging
import re
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Final, TypeAlias

import peewee

from facewire.errors import StoreError

# At DEBUG, peewee logs each statement with its values, names of people among them.
logging.getLogger("peewee").setLevel(logging.INFO)

SCHEMA: Final = 1
_APPLICATION_ID: Final = 0x46575046  # "FWPF"
#: Another process may be migrating, or deleting, s. A worker that waits cannot be told to stop.
BUSY_TIMEOUT: Final = 5.0
#: Primary result codes after which the same may work later: busy, locked, no memory, read-only, interrupted, I/O error,
#: full, cannot open, locking protocol (https://www.sqlite.org/rescode.html).
_OUTAGES: Final = frozenset((5, 6, 7, 8, 9, 10, 13, 14, 15))


class StoreRow(peewee.Model):
    """Identity of this store, given with each ack. One row."""

    identity = peewee.TextField()

    class Meta:  # noqa: D106  # peewee's
        table_name = "store"


class DeviceRow(peewee.Model):
    """What a device says of itself."""

    device = peewee.TextField(primary_key=True)
    #: Boots seen, oldest first, separated by spaces (see presence.py).
    boots = peewee.TextField()
    #: Newest epoch seen.
    epoch = peewee.TextField(null=True)
    online = peewee.BooleanField(default=False)
    #: Platform clock, ms since 1970 UTC.
    last_seen = peewee.BigIntegerField()
    #: Last status while online, packed.
    status = peewee.BlobField(null=True)

    class Meta:  # noqa: D106  # peewee's
        table_name = "device"


class StreamRow(peewee.Model):
    """One epoch of a device. At any time watermark = events stored at or below it (or deleted since) + gaps + quarantined."""

    id = peewee.AutoField()
    device = peewee.TextField()
    epoch = peewee.TextField()
    watermark = peewee.BigIntegerField(default=0)
    head = peewee.BigIntegerField(default=0)
    oldest = peewee.BigIntegerField(default=1)
    #: Events in gaps.
    gaps = peewee.BigIntegerField(default=0)
    #: Events at or below the watermark that broke the contract.
    quarantined = peewee.BigIntegerField(default=0)
    boot = peewee.TextField(default="")
    #: Platform clock, ms since 1970 UTC.
    last_seen = peewee.BigIntegerField(default=0)

    class Meta:  # noqa: D106  # peewee's
        table_name = "stream"
        indexes = ((("device", "epoch"), True),)


class EventRow(peewee.Model):
    """One event; the columns are those of `facewire.events.Event`."""

    stream = peewee.IntegerField()
    seq = peewee.BigIntegerField()
    timestamp = peewee.BigIntegerField()
    score = peewee.DoubleField()
    identity_id = peewee.TextField()
    identity_name = peewee.TextField()
    person_type = peewee.BigIntegerField()
    group_name = peewee.TextField(null=True)
    ep_id = peewee.TextField(null=True)
    #: Every other field, packed; null for none.
    extra = peewee.BlobField(null=True)

    class Meta:  # noqa: D106  # peewee's
        table_name = "event"
        primary_key = peewee.CompositeKey("stream", "seq")
        indexes = ((("timestamp", "stream", "seq"), False),)


class GapRow(peewee.Model):
    """Seqs `first` to `last` of a stream, which are lost."""

    stream = peewee.IntegerField()
    first = peewee.BigIntegerField()
    last = peewee.BigIntegerField()
    #: Platform clock, ms since 1970 UTC.
    declared_at = peewee.BigIntegerField()

    class Meta:  # noqa: D106  # peewee's
        table_name = "gap"
        primary_key = peewee.CompositeKey("stream", "first")


class RejectedRow(peewee.Model):
    """A seq at or below the watermark whose event broke the contract; the quarantine may have no room for it any more."""

    stream = peewee.IntegerField()
    seq = peewee.BigIntegerField()

    class Meta:  # noqa: D106  # peewee's
        table_name = "rejected"
        primary_key = peewee.CompositeKey("stream", "seq")


class QuarantineRow(peewee.Model):
    """A message, or one event of it, that broke the contract. Kept once, however often it comes."""

    id = peewee.AutoField()
    digest = peewee.BlobField(unique=True)
    topic = peewee.TextField()
    reason = peewee.TextField()
    #: The first bytes of it; `size_bytes` says how many there were.
    payload = peewee.BlobField()
    size_bytes = peewee.BigIntegerField()
    #: Platform clock, ms since 1970 UTC.
    first_at = peewee.BigIntegerField()
    last_at = peewee.BigIntegerField()
    times = peewee.BigIntegerField(default=1)
    #: Of one bad event of a batch.
    stream = peewee.IntegerField(null=True)
    seq = peewee.BigIntegerField(null=True)

    class Meta:  # noqa: D106  # peewee's
        table_name = "quarantine"
        indexes = ((("stream", "seq"), False),)


TABLES: Final = (StoreRow, DeviceRow, StreamRow, EventRow, GapRow, RejectedRow, QuarantineRow)


#: Where a database is: the file of SQLite, or the postgresql:// URL.
Where: TypeAlias = Path | str


def locate(url: str) -> Where:
    """What `sqlite:///FILE` (four slashes for an absolute path) or `postgresql://…` names.

    Raises:
        ValueError: it names no database.
    """
    if found := re.fullmatch(r"sqlite:///(.+)", url):
        return Path(found[1])
    if re.match(r"postgres(ql)?://", url):
        return url
    raise ValueError(f"database {url!r} is neither sqlite:///FILE nor postgresql://USER@HOST/NAME")


def open_database(path: Where, *, create: bool) -> peewee.SqliteDatabase:
    """Open the database on the calling thread, which alone may use it.

    Args:
        path: the file; SQLite keeps two more beside it (-wal, -shm).
        create: for writing, and made if missing; without it nothing is written, not even to recover it after a crash.

    Raises:
        StoreError: missing, not ours, or of another schema.
    """
    if isinstance(path, str):
        raise StoreError("PostgreSQL is not supported yet")
    if path.is_dir():
        raise StoreError(f"{path}: is a directory")
    if not create and not path.exists():
        raise StoreError(f"{path}: there is no database")
    # Without a WAL, SQLite makes one even for reading, and only a connection that may write removes it.
    mode = "rwc" if create else "ro" if path.with_name(path.name + "-wal").exists() else "rw"
    database = peewee.SqliteDatabase(f"{path.absolute().as_uri()}?mode={mode}", uri=True, timeout=BUSY_TIMEOUT, autoconnect=False)
    try:
        with store_errors(path):
            database.connect()
            _prepare(database, path, create=create)
    except BaseException:
        database.close()
        raise
    return database


@contextlib.contextmanager
def store_errors(path: Where) -> Iterator[None]:
    """What the database raises becomes a `StoreError`."""
    try:
        yield
    except (peewee.PeeweeException, sqlite3.Error) as exc:
        raise StoreError(f"{path}: {exc}") from exc


def is_outage(exc: BaseException | None) -> bool:
    """Whether what the database raised is about its state, and not about what was asked of it."""
    if exc is None:
        return False
    code = getattr(getattr(exc, "orig", exc), "sqlite_errorcode", 0)  # orig: peewee's
    # A rollback fails where SQLite itself has rolled back, as when the disk is full: look at what it came after.
    return code & 0xFF in _OUTAGES or is_outage(exc.__context__)


def _prepare(database: peewee.SqliteDatabase, path: Path, *, create: bool) -> None:
    application, schema = database.pragma("application_id"), database.pragma("user_version")
    if create and not database.get_tables() and not application:
        database.pragma("page_size", 16_384)  # before the first page is written
    elif application != _APPLICATION_ID:
        raise StoreError(f"{path}: is not the database of a facewire platform")
    elif schema != SCHEMA:
        raise StoreError(f"{path}: has schema {schema}, this facewire knows {SCHEMA}")
    settings = (("journal_mode", "wal"), ("synchronous", "full"), ("cache_size", -65_536)) if create else (("query_only", 1),)
    for name, value in settings:
        database.pragma(name, value)


def create_tables(database: peewee.SqliteDatabase, identity: str) -> None:
    """Make the tables of a new database, all or none."""
    with database.transaction("IMMEDIATE"), database.bind_ctx(TABLES):
        if not database.get_tables():
            database.create_tables(TABLES)
            StoreRow.create(identity=identity)
            database.pragma("application_id", _APPLICATION_ID)
            database.pragma("user_version", SCHEMA)
