"""Ids of streams and of quarantine have 64 bits on PostgreSQL too; on SQLite they always had.

Each attempt to insert takes an id, even one that finds its row there already. A device that makes
up epochs, or repeats bad messages, could use up 2^31 of them; then nothing could be stored.

PostgreSQL writes the tables anew, `event` among them: plan with its size again, free on the disk.
"""

from typing import Any, Final

import peewee

_WIDENED: Final = {"stream": ("id",), "event": ("stream",), "gap": ("stream",), "rejected": ("stream",), "quarantine": ("id", "stream")}


def up(_migrator: Any, db: Any) -> None:
    if not isinstance(db, peewee.PostgresqlDatabase):
        return
    for table, columns in _WIDENED.items():
        db.execute_sql(f"ALTER TABLE {table} " + ", ".join(f"ALTER COLUMN {column} TYPE bigint" for column in columns))
        if "id" in columns:
            # A sequence keeps the type of the column that it was made for.
            db.execute_sql(f"ALTER SEQUENCE {table}_id_seq AS bigint")
