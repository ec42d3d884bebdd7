"""The tables of the platform's store.

    device ──< stream ──< event          one stream for each epoch of a device; a small integer stands for it
                     ├──< gap            ranges that are lost
                     ├──< rejected       seqs that broke the contract
                     └──< quarantine     what broke it, as long as there is room

Few indexes, for each one costs ingest. The primary key (stream, seq) is the identity of an event and serves acks and paging
by device. The one beside it serves time ranges, and persons in them, of whom it holds a key of four bytes: an index that
begins with the person would change a page of its own for each event, which is ten times the writing.

The events are not partitioned by month: a key that holds no time could then not be unique over all of them, and it is what
makes an event be there once.

A change of these is a migration (`migrate`), and a new number here.
"""

from collections.abc import Sequence
from typing import Any, Final

import peewee

from facewire.errors import StoreError

SCHEMA: Final = 2


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
    """One epoch of a device.

    At any time watermark = (stored - events above the watermark) + gaps + quarantined. Retention changes none of these: it
    deletes at and below the watermark only, and what it deleted is not counted again when it comes again.
    """

    id = peewee.AutoField()
    device = peewee.TextField()
    epoch = peewee.TextField()
    watermark = peewee.BigIntegerField(default=0)
    head = peewee.BigIntegerField(default=0)
    oldest = peewee.BigIntegerField(default=1)
    #: Events that were ever stored, above the watermark too.
    stored = peewee.BigIntegerField(default=0)
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
    #: `key` of identity_id and of identity_name.
    id_key = peewee.IntegerField()
    name_key = peewee.IntegerField()

    class Meta:  # noqa: D106  # peewee's
        table_name = "event"
        primary_key = peewee.CompositeKey("stream", "seq")
        indexes = ((("timestamp", "stream", "seq", "id_key", "name_key"), False),)


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

#: What the store reads of a stream and a device, in this order.
STREAM_COLUMNS: Final[tuple[Any, ...]] = StreamRow._meta.sorted_fields
DEVICE_COLUMNS: Final[tuple[Any, ...]] = DeviceRow._meta.sorted_fields
EVENT_COLUMNS: Final[tuple[Any, ...]] = EventRow._meta.sorted_fields
#: The same in the order of `rows`.
ROW_COLUMNS: Final = (*EVENT_COLUMNS[1:], EVENT_COLUMNS[0])
#: Of those, what is an event's own, in the order of `facewire.events.Event`.
EVENT_FIELDS: Final = tuple(column for column in EVENT_COLUMNS if column.name not in {"id_key", "name_key"})
#: A stream that was never seen: `STREAM_COLUMNS` after id, device and epoch.
NEW_STREAM: Final = (0, 0, 1, 0, 0, 0, "", 0)


def columns_of(columns: Sequence[Any], table: str) -> str:
    """Columns in SQL, of a table that has another name there."""
    return ", ".join(f'{table}."{column.column_name}"' for column in columns)


def check_schema(location: object, found: int, *, migrating: bool = False) -> None:
    """Refuse a database of another schema; one that is about to be migrated may be of an older one.

    Raises:
        StoreError: says whether the database or facewire is to be brought up to date.
    """
    if found > SCHEMA:
        raise StoreError(f"{location}: has schema {found}, this facewire knows {SCHEMA}: it needs a newer facewire")
    if found < SCHEMA and not migrating:
        raise StoreError(f"{location}: has schema {found}, this facewire needs {SCHEMA}: run `facewire platform migrate`")
