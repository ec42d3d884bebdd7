"""One Parquet file of any events, with every field, in bounded memory."""

import itertools
import json
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from facewire.plain import plain
from facewire_platform.columns import engine

#: The columns of `facewire events`, with their types (see `arrow`). `extra` has all other fields as
#: JSON.
TYPES: Final = {
    "device": "u",
    "epoch": "u",
    "seq": "q",
    "timestamp": "q",
    "score": "d",
    "identity_id": "u",
    "identity_name": "u",
    "person_type": "q",
    "group_name": "u",
    "ep_id": "u",
    "extra": "u",
}
#: Events, and bytes of their other fields, that are written at once: photographs are large.
_EVENTS: Final = 20_000
_BYTES: Final = 32 * 1024 * 1024


def write_parquet(events: Iterable[Mapping[str, Any]], path: Path) -> None:
    """Write events in the order in which they come.

    Args:
        events: as `History.events` gives them.
        path: a file; what is there is replaced.
    """
    rows = map(_row, events)
    with tempfile.TemporaryDirectory(prefix=".facewire-", dir=path.parent) as folder, engine.opened() as duck:
        chunks: list[str] = []
        most = 0
        while (chunk := list(_chunk(rows))) or not chunks:
            engine.put(duck, "chunk", [chunk], TYPES)
            chunks.append(f"{len(chunks)}.parquet")
            engine.copy(duck, "SELECT * FROM chunk", Path(folder) / chunks[-1], group=engine.GROUP)
            most = max(most, sum(len(row[-1] or "") for row in chunk) // max(1, len(chunk)))
        duck.execute("SET preserve_insertion_order = true")
        group = max(2_048, min(engine.GROUP, _BYTES // max(1, most)))
        engine.copy(duck, f"SELECT * FROM {engine.files(Path(folder), chunks)}", path, group=group)


def _row(event: Mapping[str, Any]) -> tuple[Any, ...]:
    extra = {name: value for name, value in event.items() if name not in TYPES or name == "extra"}
    return (*(event.get(name) for name in TYPES if name != "extra"), json.dumps(plain(extra), ensure_ascii=False) if extra else None)


def _chunk(rows: Iterator[tuple[Any, ...]]) -> Iterator[tuple[Any, ...]]:
    size = 0
    for row in itertools.islice(rows, _EVENTS):
        yield row
        size += len(row[-1] or "")
        if size > _BYTES:
            return
