"""Writes column files in steps. If a step is killed, the next one removes the files that it left.

    extend    copy newly stored events, into one file for each of their days
    mend      write files anew without deleted events, and copy those that were stored late
    clear     remove the events before the floor
    merge     join the files of a day, once there are many

Each step reads the tables at one moment, writes new files, and then names them in one transaction.
Workers go on meanwhile: the events that they store are above `copied`, or named by rows of
`changed` that the step has not seen.
"""

import contextlib
import logging
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final

from facewire.errors import StoreError
from facewire_platform.columns import engine
from facewire_platform.columns.files import Files
from facewire_platform.columns.folder import EVENTS, NEW, is_elsewhere, make_folder, read_folder
from facewire_platform.columns.parts import Part, Tables
from facewire_platform.store.database import dialect_of
from facewire_platform.store.drivers import Location, store_errors
from facewire_platform.store.schema import ChangedRow, CopiedRow, PartFolderRow, PartRow

log = logging.getLogger(__name__)

#: Events that one step copies.
CHUNK: Final = 100_000
#: So many files of one day are merged.
MANY: Final = 6
#: The pause between two steps, so that a purge gets its turn, s.
REST: Final = 0.02


class Builder:
    """Changes the column files of a database, on the thread that made it, beside any worker.

    Args:
        location: the database.

    Raises:
        StoreError: there is no database, or it is not a platform's.
    """

    def __init__(self, location: Location) -> None:
        self._location = location
        self._dialect = dialect_of(location)
        self._db = self._dialect.open("write")
        self._tables = Tables(self._dialect, self._db)

    def close(self) -> None:
        self._db.close()

    def __enter__(self) -> "Builder":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def folder(self) -> Path | None:
        """The folder of the files; None if there are none on this machine."""
        found = read_folder(self._dialect, self._db)
        return found and found[0]

    def parts(self) -> list[Part]:
        """The files, by day."""
        with store_errors(self._location):
            return sorted(self._tables.parts(), key=lambda part: (part.day is None, part.day, part.id))

    def build(self, least: int = 1) -> Iterator[int]:
        """Bring the files up to date. Before each step, yields how many events wait.

        Args:
            least: do nothing if fewer than this wait.

        Raises:
            StoreError: the database cannot be written, or the files are on another machine.
        """
        going = False
        while True:
            with store_errors(self._location), self._dialect.columns_lock(self._db, wait=least <= 1) as mine:
                waiting = self._tables.waiting() if mine else 0
                if not mine or (waiting < least and not going):
                    return
                self._folder()
                yield waiting
                going = self._step()
            if not going:
                return
            time.sleep(REST)

    @contextlib.contextmanager
    def deleting(self) -> Iterator[None]:
        """Delete events within it: nobody builds meanwhile, and at its end no column file has them.

        Raises:
            StoreError: the files are on another machine.
        """
        with store_errors(self._location), self._dialect.columns_lock(self._db, wait=True):
            found = read_folder(self._dialect, self._db)
            if is_elsewhere(self._dialect, self._db):
                raise StoreError(f"{self._dialect.url}: its column files are on another machine: purge there")
            yield
            if found is not None:
                self._follow(found[0])

    def _follow(self, folder: Path) -> None:
        self._check(folder)
        if not engine.is_installed():
            self._drop()
            return
        while self._any(folder, self._mend, self._clear):
            pass

    def drop(self) -> None:
        """Remove all column files; answers come from the event table until they are built again."""
        with store_errors(self._location), self._dialect.columns_lock(self._db, wait=True):
            self._drop()

    def _drop(self) -> None:
        found = read_folder(self._dialect, self._db)
        with self._dialect.transaction(self._db):
            for table in (PartRow, CopiedRow, ChangedRow, PartFolderRow):
                table.delete().bind(self._db).execute()
        if found is not None:
            for name in (EVENTS, NEW):
                shutil.rmtree(found[0] / name, ignore_errors=True)
            (found[0] / "identity").unlink(missing_ok=True)

    def _step(self) -> bool:
        """Take one step; returns whether there was anything to do."""
        return self._any(self._folder(), self._extend, self._mend, self._clear, self._merge)

    def _any(self, folder: Path, *steps: Callable[[Files], bool]) -> bool:
        try:
            with engine.opened() as duck:
                files = Files(folder, duck)
                return any(step(files) for step in steps)
        except Exception as exc:
            if not engine.is_unreadable(exc):
                raise
            self._forget(folder, str(exc))
            self._check(folder)
            return True

    def _folder(self) -> Path:
        with self._dialect.transaction(self._db):
            folder = make_folder(self._dialect, self._db)
        self._check(folder)
        return folder

    def _check(self, folder: Path) -> None:
        """Forget all files if one is missing, and remove those that the database does not name."""
        if missing := [part.name for part in self._tables.parts() if not (folder / part.name).exists()]:
            self._forget(folder, f"{missing[0]} is missing")
        named = {part.name for part in self._tables.parts()}
        for path in [*folder.glob(f"{EVENTS}/*/*"), *folder.glob(f"{NEW}/*")]:
            if str(path.relative_to(folder)) not in named:
                path.unlink(missing_ok=True)

    def _forget(self, folder: Path, reason: str) -> None:
        log.warning("column files are built anew folder=%s reason=%s", folder, reason)
        with self._dialect.transaction(self._db):
            for table in (PartRow, CopiedRow, ChangedRow):
                table.delete().bind(self._db).execute()

    def _extend(self, files: Files) -> bool:
        with self._dialect.snapshot(self._db):
            spans = self._tables.behind(CHUNK)
            if not spans:
                return False
            floor, names, rows = self._tables.floor(), self._tables.names(), self._tables.between(spans)
            of = {stream: (after, last) for stream, after, last in spans}
            seen = [
                number
                for number, stream, seq in self._tables.rows("SELECT x.id, x.stream, x.seq FROM changed AS x")
                if stream in of and of[stream][0] < seq <= of[stream][1]
            ]
        fresh = files.write([row for row in rows if row[0] >= floor], names)
        self._commit(fresh, (), seen, spans)
        return True

    def _mend(self, files: Files) -> bool:
        with self._dialect.snapshot(self._db):
            changes = self._tables.changed()[:CHUNK]
            if not changes:
                return False
            floor, names, parts = self._tables.floor(), self._tables.names(), self._tables.parts()
            keys = sorted({(stream, seq) for _, stream, seq, _ in changes})
            rows = self._tables.between([(stream, seq - 1, seq) for stream, seq in keys])
        gone = "gone USING (stream, seq)"
        engine.put_keys(files.duck, "gone", keys)
        moments = [at for *_, at in changes]
        near = [part for part in parts if any(part.first_at <= at <= part.last_at for at in moments)]
        having = [part for part in near if files.has(part, gone)]
        fresh = files.without(having, gone) + files.write([row for row in rows if row[0] >= floor], names)
        self._commit(fresh, having, [number for number, *_ in changes], ())
        files.remove(having)
        return True

    def _clear(self, files: Files) -> bool:
        floor = self._tables.floor()
        for part in self._tables.parts(last=floor - 1):
            self._replace(files, [part], f"WHERE timestamp >= {floor}")
            return True
        return False

    def _merge(self, files: Files) -> bool:
        by_day: dict[int | None, list[Part]] = {}
        for part in self._tables.parts():
            by_day.setdefault(part.day, []).append(part)
        for some in by_day.values():
            if len(some) >= MANY:
                self._replace(files, _small(some))
                return True
        return False

    def _replace(self, files: Files, parts: Sequence[Part], rest: str = "") -> None:
        self._commit(files.rewrite(parts, rest), parts, (), ())
        files.remove(parts)

    def _commit(self, fresh: Sequence[Part], old: Sequence[Part], seen: Sequence[int], spans: Iterable[tuple[int, int, int]]) -> None:
        with self._dialect.transaction(self._db):
            for part in fresh:
                PartRow.insert({name: value for name, value in part._asdict().items() if name != "id"}).bind(self._db).execute()
            for chunk in _chunks([part.id for part in old]):
                PartRow.delete().where(PartRow.id.in_(chunk)).bind(self._db).execute()
            for chunk in _chunks(seen):
                ChangedRow.delete().where(ChangedRow.id.in_(chunk)).bind(self._db).execute()
            for stream, _, last in spans:
                upsert = CopiedRow.insert(stream=stream, seq=last).on_conflict(conflict_target=[CopiedRow.stream], update={"seq": last})
                upsert.bind(self._db).execute()


@contextlib.contextmanager
def columns_follow(location: Location) -> Iterator[None]:
    """Delete events only within this: column files follow (see `Builder.deleting`)."""
    with Builder(location) as builder, builder.deleting():
        yield


def _small(parts: Sequence[Part]) -> list[Part]:
    """The parts to merge: the two smallest, and each next one up to twice the sum of all before."""
    by_size = sorted(parts, key=lambda part: part.events)
    few, total = by_size[:2], sum(part.events for part in by_size[:2])
    for part in by_size[2:]:
        if part.events > 2 * total:
            break
        few.append(part)
        total += part.events
    return few


def _chunks(values: Sequence[int]) -> Iterator[Sequence[int]]:
    return (values[start : start + 500] for start in range(0, len(values), 500))
