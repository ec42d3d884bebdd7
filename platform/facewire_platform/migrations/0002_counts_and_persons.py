"""A stream counts what it ever stored, so that retention may delete and the sum can still be checked; an index for persons."""

from typing import Any

import peewee


def up(migrator: Any, db: Any) -> None:
    migrator.migrate(migrator.add_column("stream", "stored", peewee.BigIntegerField(default=0)))
    db.execute_sql(
        "UPDATE stream SET stored = watermark - gaps - quarantined"
        " + (SELECT count(*) FROM event WHERE event.stream = stream.id AND event.seq > stream.watermark)"
    )
    db.execute_sql("CREATE INDEX event_person ON event ((timestamp / 3600000), (substr(identity_id, 1, 64)), timestamp)")
