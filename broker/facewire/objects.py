"""Checks which objects a SQLite database contains: it is input, like a message. Pure.

A trigger, a view, an index or a column's clause can change or drop stored rows, and run functions
(https://www.sqlite.org/security.html). So a database must have our objects and no others.
"""

import re
from collections.abc import Callable, Iterable
from typing import Any, Final, NamedTuple, TypeAlias

#: Runs a statement; its rows.
Ask: TypeAlias = Callable[[str], Iterable[tuple[Any, ...]]]

#: Asks for the definitions of all objects: type, name, table, SQL.
DEFINITIONS: Final = "SELECT type, name, tbl_name, sql FROM sqlite_schema"
#: SQLite's own tables, which ANALYZE makes; they hold statistics.
_STATISTICS: Final = frozenset(("sqlite_stat1", "sqlite_stat4"))
#: Clauses that we never use. ON CONFLICT IGNORE would drop rows without an error.
_CLAUSES: Final = re.compile(r"\b(CHECK|CONFLICT|COLLATE|GENERATED|WITHOUT|STRICT|VIRTUAL|WHERE)\b", re.IGNORECASE)
#: https://www.sqlite.org/datatype3.html section 3.1.
_AFFINITIES: Final = (("INT", "integer"), ("CHAR", "text"), ("CLOB", "text"), ("TEXT", "text"), ("BLOB", "blob"))
_REALS: Final = ("REAL", "FLOA", "DOUB")


class Object(NamedTuple):
    """A table or an index, or what else a row of `sqlite_schema` is."""

    type: str
    name: str
    table: str
    sql: str
    #: Its columns, in any order for a table: (name, affinity, place in the key, hidden).
    columns: tuple[Any, ...]


def read_objects(ask: Ask) -> list[Object]:
    """The objects of a database. Nothing of its schema runs."""
    columns: dict[str, list[tuple[Any, ...]]] = {}
    for table, name, kind, key, hidden in ask(
        "SELECT m.name, c.name, c.type, c.pk, c.hidden FROM sqlite_schema AS m, pragma_table_xinfo(m.name) AS c WHERE m.type = 'table'"
    ):
        columns.setdefault(table, []).append((name, _affinity(kind), key, hidden))
    indexes: dict[str, list[tuple[Any, ...]]] = {}
    for index, unique, partial, place, name, collation in ask(
        'SELECT i.name, i."unique", i.partial, c.seqno, c.name, c.coll FROM sqlite_schema AS m, pragma_index_list(m.name) AS i, '
        "pragma_index_xinfo(i.name) AS c WHERE m.type = 'table'"
    ):
        indexes.setdefault(index, []).append((place, name, collation, unique, partial))
    return [
        Object(kind, name, table, sql or "", tuple(sorted(columns.get(name) or indexes.get(name) or (), key=repr)))
        for kind, name, table, sql in ask(DEFINITIONS)
    ]


def foreign_object(found: Iterable[Object], ours: Iterable[Object], optional: frozenset[str] = frozenset()) -> str | None:
    """Why a database is not one of ours; None if it is.

    Args:
        found: its objects.
        ours: the objects that one of ours has.
        optional: the tables among these that it may lack.
    """
    known = {one.name: one for one in ours}
    lacking = {one.name for one in known.values() if one.table not in optional}
    for one in found:
        if one.type == "table" and one.name in _STATISTICS:
            continue
        if one.name not in known:
            return f"has a {one.type[:20]} {one.name[:80]!a}, which facewire did not make"
        mine = known[one.name]
        if (one.type, one.table, one.columns) != (mine.type, mine.table, mine.columns) or _CLAUSES.search(one.sql):
            return f"has a {one.type[:20]} {one.name[:80]!a} that differs from the one that facewire makes"
        lacking.discard(one.name)
    return f"lacks {min(lacking)}" if lacking else None


def _affinity(kind: str) -> str:
    kind = kind.upper()
    found = next((affinity for part, affinity in _AFFINITIES if part in kind), None)
    return found or ("real" if any(part in kind for part in _REALS) else kind and "numeric")
