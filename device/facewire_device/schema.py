"""The tables of a device's store.

event   seq | score | packed | crc     `packed` is the event in wire form (msgpack, with its seq)
state   one row: epoch, head, oldest, cursor, dropped, capacity, device, machine
"""

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
    capacity = peewee.BigIntegerField()
    #: The owner; empty while there is none.
    device = peewee.TextField()
    machine = peewee.TextField()

    class Meta:  # noqa: D106  # peewee's
        table_name = "state"
