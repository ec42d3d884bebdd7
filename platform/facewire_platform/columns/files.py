"""Writes column files: new rows into a file for each day, or the rest of some files into a new one.

new/4f….parquet ──▶ events/day=2026-11-21/4f….parquet ──▶ named in the database
whole, synced       its folder synced                     counts (`builder`)
"""

import secrets
from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import date, timedelta
from pathlib import Path
from typing import Any, Final

from facewire_platform.columns import engine
from facewire_platform.columns.folder import EVENTS, NEW, NO_DAY, sync
from facewire_platform.columns.parts import DAY, TYPES, Part

#: Days for which one step writes files of their own. If there are more, some clocks are wrong.
MOST_DAYS: Final = 40
_EPOCH: Final = date(1970, 1, 1)
_DAYS: Final = range((date.min - _EPOCH).days, (date.max - _EPOCH).days + 1)


class Files:
    """The files of one folder. Hold `Dialect.columns_lock` while you change them.

    Args:
        folder: where they are.
        duck: a connection of `engine.opened`, with any table that a join below names.
    """

    def __init__(self, folder: Path, duck: Any) -> None:
        self.folder, self.duck = folder, duck

    def write(self, rows: Sequence[tuple[Any, ...]], names: Sequence[tuple[Any, ...]]) -> list[Part]:
        """Write rows (see `TYPES`) into files, one for each day.

        Args:
            rows: of any number of days.
            names: each stream with its device and epoch.
        """
        days = _days(rows)
        engine.put(self.duck, "fresh", [[(*row, day) for row, day in zip(rows, days, strict=True)]], {**TYPES, "day": "q"})
        engine.put(self.duck, "names", [names], {"stream": "q", "device": "u", "epoch": "u"})
        made = []
        for day in sorted(set(days)):
            source = f"SELECT {engine.WRITTEN} FROM fresh AS e JOIN names AS n USING (stream) WHERE e.day = {day}"
            made += self._write_file(source, day if day in _DAYS else None)
        return made

    def rewrite(self, parts: Sequence[Part], rest: str = "") -> list[Part]:
        """Write the events of one day's parts that remain into a new file; none if none remain.

        Args:
            parts: one or more, of the same day.
            rest: SQL behind the FROM clause that picks what remains; all by default.
        """
        names = [part.name for part in parts]
        return self._write_file(f"SELECT * FROM {engine.files(self.folder, names)} {rest}", parts[0].day)

    def without(self, parts: Iterable[Part], those: str) -> list[Part]:
        """Write each part anew without the events that a join names."""
        return [new for part in parts for new in self.rewrite([part], f"ANTI JOIN {those}")]

    def has(self, part: Part, those: str) -> bool:
        """Whether a part has any of the events that a join names."""
        found = self.duck.execute(f"SELECT 1 FROM {engine.files(self.folder, [part.name])} SEMI JOIN {those} LIMIT 1")
        return found.fetchone() is not None

    def remove(self, parts: Iterable[Part]) -> None:
        """Remove files that the database does not name any more."""
        for part in parts:
            (self.folder / part.name).unlink(missing_ok=True)

    def _write_file(self, source: str, day: int | None) -> list[Part]:
        self.duck.execute(f"CREATE OR REPLACE TEMP VIEW chosen AS {source}")
        events, first_at, last_at = self.duck.execute("SELECT count(*), min(timestamp), max(timestamp) FROM chosen").fetchone()
        if not events:
            return []
        within = f"day={NO_DAY if day is None else (_EPOCH + timedelta(day)).isoformat()}"
        name = f"{EVENTS}/{within}/{secrets.token_hex(8)}.parquet"
        new, path = self.folder / NEW / Path(name).name, self.folder / name
        for made in (new.parent, path.parent):
            made.mkdir(parents=True, exist_ok=True)
        engine.write(self.duck, "SELECT * FROM chosen", new)
        sync(new)
        new.rename(path)
        sync(path.parent)
        return [Part(0, name, day, events, first_at, last_at)]


def _days(rows: Sequence[tuple[Any, ...]]) -> list[int]:
    """The day of each row; `_DAYS.stop` for rare days beyond `MOST_DAYS`, or off the calendar."""
    days = [row[0] // DAY for row in rows]
    usual = {day for day, _ in Counter(days).most_common(MOST_DAYS) if day in _DAYS}
    return days if usual.issuperset(days) else [day if day in usual else _DAYS.stop for day in days]
