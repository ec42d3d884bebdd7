"""An epoch that a device left is ended, and its events may continue in another one."""

from typing import Any

import peewee


def up(migrator: Any, db: Any) -> None:
    migrator.migrate(
        migrator.add_column("stream", "continued", peewee.BigIntegerField(default=0)),
        migrator.add_column("stream", "head_boot", peewee.TextField(default="")),
        migrator.add_column("stream", "other_head", peewee.BigIntegerField(default=0)),
        migrator.add_column("stream", "leads", peewee.BooleanField(default=False)),
        migrator.add_column("stream", "linked", peewee.BooleanField(default=False)),
    )
    db.execute_sql("UPDATE stream SET head_boot = boot")
    on_sqlite = isinstance(db, peewee.SqliteDatabase)
    number, flag, true = ("INTEGER", "INTEGER", "1") if on_sqlite else ("BIGINT", "BOOLEAN", "true")
    db.execute_sql(
        f"CREATE TABLE continued (stream {number} NOT NULL, first {number} NOT NULL, last {number} NOT NULL, PRIMARY KEY (stream, first))"
    )
    db.execute_sql(
        f"CREATE TABLE link (older {number} NOT NULL, newer {number} NOT NULL, first {number} NOT NULL, last {number} NOT NULL,"
        f" diverged {flag} NOT NULL, PRIMARY KEY (older, newer))"
    )
    db.execute_sql(
        f"UPDATE stream SET leads = {true} WHERE EXISTS"
        " (SELECT 1 FROM device WHERE device.device = stream.device AND device.epoch = stream.epoch)"
    )
