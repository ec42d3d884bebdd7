"""The tables of a device's store.

event   seq | score | packed | crc     `packed` is the event in wire form (msgpack, with its seq)
state   one row (`state`): epoch, head, oldest, cursor, dropped, origins, capacity, device, machine,
        crc

A store whose events come from elsewhere has the tables of its ledger too (`ledger`).
"""

from typing import Final

import peewee


class RingEvent(peewee.Model):
    """One event of the ring."""

    seq = peewee.BigIntegerField(primary_key=True)
    score = peewee.FloatField()
    packed = peewee.BlobField()
    crc = peewee.BigIntegerField()

    class Meta:  # noqa: D106  # peewee's
        table_name = "event"


class RingState(peewee.Model):
    """The ring's numbers and its owner. One row."""

    epoch = peewee.TextField()
    head = peewee.BigIntegerField()
    oldest = peewee.BigIntegerField()
    cursor = peewee.BigIntegerField()
    dropped = peewee.BigIntegerField()
    #: The epochs that this one continues, as JSON; empty for none. Since schema 2.
    origins = peewee.TextField(default="", constraints=[peewee.SQL("DEFAULT ''")])
    capacity = peewee.BigIntegerField()
    #: The owner; empty while there is none.
    device = peewee.TextField()
    machine = peewee.TextField()
    #: Since schema 2.
    crc = peewee.BigIntegerField(default=0, constraints=[peewee.SQL("DEFAULT 0")])

    class Meta:  # noqa: D106  # peewee's
        table_name = "state"


def make_tables(database: peewee.SqliteDatabase) -> None:
    """Create the tables in a database that has none.

    Models are not bound to it, as `create_tables` requires: threads share them, and another
    store's thread would bind them elsewhere in the middle.
    """
    for table in (RingEvent, RingState):
        peewee.SchemaManager(table, database).create_all(safe=False)


LEDGER_TABLES: Final = (
    "CREATE TABLE IF NOT EXISTS ledger (place INTEGER PRIMARY KEY, form TEXT NOT NULL, key TEXT NOT NULL, mark TEXT NOT NULL,"
    " epoch TEXT NOT NULL, seq INTEGER NOT NULL, at INTEGER NOT NULL, UNIQUE (form, key))",
    "CREATE TABLE IF NOT EXISTS shared (shared TEXT NOT NULL, form TEXT NOT NULL, place INTEGER NOT NULL)",
    "CREATE INDEX IF NOT EXISTS shared_shared ON shared (shared)",
    "CREATE INDEX IF NOT EXISTS shared_place ON shared (place)",
    "CREATE TABLE IF NOT EXISTS note (name TEXT PRIMARY KEY, value TEXT NOT NULL)",
)
