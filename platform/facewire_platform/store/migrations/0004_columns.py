"""The tables that say which events are in column files."""

from typing import Any

from facewire_platform.store.schema import ChangedRow, CopiedRow, PartFolderRow, PartRow


def up(migrator: Any, db: Any) -> None:
    tables = (PartFolderRow, PartRow, CopiedRow, ChangedRow)
    with db.bind_ctx(tables):
        db.create_tables(tables)
