"""Streams count the events they ever stored; an index finds persons.

The count lets `doctor` check the sum after retention has deleted events.

Support for PostgreSQL began with this schema, so it has no events of an earlier one.
"""

from typing import Any

import peewee

from facewire_platform.store.rows import key


def up(migrator: Any, db: Any) -> None:
    migrator.migrate(
        migrator.add_column("stream", "stored", peewee.BigIntegerField(default=0)),
        migrator.add_column("event", "id_key", peewee.IntegerField(default=0)),
        migrator.add_column("event", "name_key", peewee.IntegerField(default=0)),
        migrator.drop_index("event", "eventrow_timestamp_stream_seq"),
    )
    db.execute_sql(
        "UPDATE stream SET stored = watermark - gaps - quarantined"
        " + (SELECT count(*) FROM event WHERE event.stream = stream.id AND event.seq > stream.watermark)"
    )
    if isinstance(db, peewee.SqliteDatabase):
        db.connection().create_function("facewire_key", 1, key, deterministic=True)
        db.execute_sql("UPDATE event SET id_key = facewire_key(identity_id), name_key = facewire_key(identity_name)")
    db.execute_sql("CREATE INDEX eventrow_timestamp_stream_seq_id_key_name_key ON event (timestamp, stream, seq, id_key, name_key)")
