"""The tables of the platform's store.

    device ──< stream ──< event          a stream is one epoch of a device, named by an integer
                     ├──< gap            ranges of lost events
                     ├──< continued      ranges of seqs that belong to another stream now
                     ├──< link           to the stream that continues it
                     ├──< rejected       seqs of events that broke the contract
                     ├──< quarantine     these events, as long as there is room
                     ├─── copied         up to which seq its events are in column files
                     └──< changed        older events that differ from those in column files
    part_folder ──< part                 the column files (`facewire_platform.columns`)

There are few indexes, because each one slows ingest. The primary key (stream, seq) is the identity
of an event; acks and paging by device use it. The other index serves time ranges, and persons in
them, for whom it has keys of four bytes. An index that began with the person would change a
different page for each event, which is ten times the writing.

The events are not partitioned by month. A key without the time could then not be unique over all
partitions, and this key is what keeps an event from being stored twice.

A change of the tables needs a migration (`migrate`) and a new number here.
"""

from collections.abc import Sequence
from typing import Any, Final

import peewee

from facewire.errors import StoreError

SCHEMA: Final = 6


class StoreRow(peewee.Model):
    """The identity of this store, which each ack carries. One row."""

    identity = peewee.TextField()

    class Meta:  # noqa: D106  # peewee's
        table_name = "store"


class DeviceRow(peewee.Model):
    """The last known state of a device."""

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
    """One epoch of a device.

    At any time watermark = (stored - events above the watermark) + gaps + quarantined + continued.
    Retention changes none of these: it deletes only at and below the watermark, and a deleted event
    that arrives again is not counted again.
    """

    id = peewee.BigAutoField()
    device = peewee.TextField()
    epoch = peewee.TextField()
    watermark = peewee.BigIntegerField(default=0)
    head = peewee.BigIntegerField(default=0)
    oldest = peewee.BigIntegerField(default=1)
    #: Events ever stored, above the watermark too.
    stored = peewee.BigIntegerField(default=0)
    #: Events in gaps.
    gaps = peewee.BigIntegerField(default=0)
    #: Events at or below the watermark that broke the contract.
    quarantined = peewee.BigIntegerField(default=0)
    boot = peewee.TextField(default="")
    #: Platform clock, ms since 1970 UTC.
    last_seen = peewee.BigIntegerField(default=0)
    #: Seqs at or below the watermark that belong to another stream now.
    continued = peewee.BigIntegerField(default=0)
    #: The boot that reported `head`, and the highest seq that any other boot reported.
    head_boot = peewee.TextField(default="")
    other_head = peewee.BigIntegerField(default=0)
    #: The device is in this epoch, as its batches say.
    leads = peewee.BooleanField(default=False)
    #: There are links from or to it.
    linked = peewee.BooleanField(default=False)

    class Meta:  # noqa: D106  # peewee's
        table_name = "stream"
        indexes = ((("device", "epoch"), True),)


class EventRow(peewee.Model):
    """One event; the columns are those of `facewire.events.Event`."""

    stream = peewee.BigIntegerField()
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
    #: `key` of identity_id and of identity_name.
    id_key = peewee.IntegerField()
    name_key = peewee.IntegerField()

    class Meta:  # noqa: D106  # peewee's
        table_name = "event"
        primary_key = peewee.CompositeKey("stream", "seq")
        indexes = ((("timestamp", "stream", "seq", "id_key", "name_key"), False),)


class GapRow(peewee.Model):
    """Seqs `first` to `last` of a stream, which are lost."""

    stream = peewee.BigIntegerField()
    first = peewee.BigIntegerField()
    last = peewee.BigIntegerField()
    #: Platform clock, ms since 1970 UTC.
    declared_at = peewee.BigIntegerField()
    #: `ingest.Loss`; null in a gap from before schema 6.
    reason = peewee.TextField(null=True)

    class Meta:  # noqa: D106  # peewee's
        table_name = "gap"
        primary_key = peewee.CompositeKey("stream", "first")


class ContinuedRow(peewee.Model):
    """Seqs `first` to `last` of a stream, which belong to another stream now (see LinkRow)."""

    stream = peewee.BigIntegerField()
    first = peewee.BigIntegerField()
    last = peewee.BigIntegerField()

    class Meta:  # noqa: D106  # peewee's
        table_name = "continued"
        primary_key = peewee.CompositeKey("stream", "first")


class LinkRow(peewee.Model):
    """A `facewire_platform.succession.Link`, in the order of its fields."""

    older = peewee.BigIntegerField()
    newer = peewee.BigIntegerField()
    first = peewee.BigIntegerField()
    last = peewee.BigIntegerField()
    diverged = peewee.BooleanField()

    class Meta:  # noqa: D106  # peewee's
        table_name = "link"
        primary_key = peewee.CompositeKey("older", "newer")


class RejectedRow(peewee.Model):
    """A seq at or below the watermark whose event broke the contract.

    The quarantine may no longer have room for the event itself.
    """

    stream = peewee.BigIntegerField()
    seq = peewee.BigIntegerField()

    class Meta:  # noqa: D106  # peewee's
        table_name = "rejected"
        primary_key = peewee.CompositeKey("stream", "seq")


class QuarantineRow(peewee.Model):
    """A message, or an event in one, that broke the contract. One row, however often it arrives."""

    id = peewee.BigAutoField()
    digest = peewee.BlobField(unique=True)
    topic = peewee.TextField()
    reason = peewee.TextField()
    #: Its first bytes; `size_bytes` is the size of the whole.
    payload = peewee.BlobField()
    size_bytes = peewee.BigIntegerField()
    #: Platform clock, ms since 1970 UTC.
    first_at = peewee.BigIntegerField()
    last_at = peewee.BigIntegerField()
    times = peewee.BigIntegerField(default=1)
    #: Only for a bad event of a batch.
    stream = peewee.BigIntegerField(null=True)
    seq = peewee.BigIntegerField(null=True)

    class Meta:  # noqa: D106  # peewee's
        table_name = "quarantine"
        indexes = ((("stream", "seq"), False),)


class PartFolderRow(peewee.Model):
    """The folder of the column files. One row, or none if there is no folder yet."""

    #: The folder has it in a file too: another machine may have a folder of the same name.
    identity = peewee.TextField()
    folder = peewee.TextField()
    #: Column files do not count for events before this, because a purge deleted those (device
    #: clock, ms since 1970 UTC).
    floor = peewee.BigIntegerField()

    class Meta:  # noqa: D106  # peewee's
        table_name = "part_folder"


class PartRow(peewee.Model):
    """A column file. It never changes: another one takes its place."""

    id = peewee.BigAutoField()
    #: Its path in the folder.
    name = peewee.TextField()
    #: Its day, as a number of days since 1970 UTC; null for a file of several days.
    day = peewee.BigIntegerField(null=True)
    events = peewee.BigIntegerField()
    #: Device clock, ms since 1970 UTC.
    first_at = peewee.BigIntegerField()
    last_at = peewee.BigIntegerField()

    class Meta:  # noqa: D106  # peewee's
        table_name = "part"


class CopiedRow(peewee.Model):
    """The events of a stream up to `seq` are in column files, except those that `changed` names."""

    stream = peewee.BigIntegerField(primary_key=True)
    seq = peewee.BigIntegerField()

    class Meta:  # noqa: D106  # peewee's
        table_name = "copied"


class ChangedRow(peewee.Model):
    """An event at or below the watermark that was stored late, or deleted.

    Only the event table is right about it: column files do not know of the change.

    One event may have several rows. A step that copies the event deletes only the rows that it has
    seen, never a newer one.
    """

    id = peewee.BigAutoField()
    stream = peewee.BigIntegerField()
    seq = peewee.BigIntegerField()
    #: Device clock, ms since 1970 UTC.
    timestamp = peewee.BigIntegerField()

    class Meta:  # noqa: D106  # peewee's
        table_name = "changed"


TABLES: Final = (
    StoreRow,
    DeviceRow,
    StreamRow,
    EventRow,
    GapRow,
    ContinuedRow,
    LinkRow,
    RejectedRow,
    QuarantineRow,
    PartFolderRow,
    PartRow,
    CopiedRow,
    ChangedRow,
)

#: The columns of a stream and a device, in the order in which the store reads them.
STREAM_COLUMNS: Final[tuple[Any, ...]] = StreamRow._meta.sorted_fields
DEVICE_COLUMNS: Final[tuple[Any, ...]] = DeviceRow._meta.sorted_fields
EVENT_COLUMNS: Final[tuple[Any, ...]] = EventRow._meta.sorted_fields
#: The columns of an event in the order of `rows`.
ROW_COLUMNS: Final = (*EVENT_COLUMNS[1:], EVENT_COLUMNS[0])
#: Without the keys, in the order of `facewire.events.Event`.
EVENT_FIELDS: Final = tuple(column for column in EVENT_COLUMNS if column.name not in {"id_key", "name_key"})
#: A new stream: `STREAM_COLUMNS` after id, device and epoch.
NEW_STREAM: Final = (0, 0, 1, 0, 0, 0, "", 0, 0, "", 0, False, False)


def make_tables(database: Any) -> None:
    """Create all tables and indexes in a database that has none.

    Models are not bound to it, as `create_tables` requires: threads share them, and another
    database's thread would bind them elsewhere in the middle.
    """
    for table in TABLES:
        peewee.SchemaManager(table, database).create_all(safe=False)


def columns_of(columns: Sequence[Any], table: str) -> str:
    """Columns in SQL, for a table with an alias."""
    return ", ".join(f'{table}."{column.column_name}"' for column in columns)


def check_schema(location: object, schema: int, *, migrating: bool = False) -> None:
    """Refuse a database of another schema; if it is being migrated, an older schema is fine.

    Raises:
        StoreError: the message says what to upgrade, the database or facewire.
    """
    if schema > SCHEMA:
        raise StoreError(f"{location}: has schema {schema}, this facewire knows {SCHEMA}: it needs a newer facewire")
    if schema < SCHEMA and not migrating:
        raise StoreError(f"{location}: has schema {schema}, this facewire needs {SCHEMA}: run `facewire platform migrate`")
