"""Questions to the stored history. Reads go on while the worker writes (SQLite's WAL)."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeAlias

import peewee

from facewire import codec
from facewire.errors import StoreError
from facewire_platform.schema import DeviceRow, EventRow, GapRow, QuarantineRow, StreamRow, open_database

Row: TypeAlias = dict[str, Any]

#: Events read at a time; between two pages the database is free.
PAGE: Final = 1_000


@dataclass(frozen=True, slots=True)
class Filter:
    """Which events; each field that is given narrows it.

    Attributes:
        since, until: device clock, ms since 1970 UTC; `since` included, `until` not.
        device, group: exactly.
        person: exactly, an identity id or an identity name.
        min_score: included.
    """

    since: int | None = None
    until: int | None = None
    device: str | None = None
    person: str | None = None
    person_type: int | None = None
    group: str | None = None
    min_score: float | None = None


class History:
    """A database open for reading, on the thread that opened it.

    Raises:
        StoreError: there is none, or it is not a platform's.
    """

    def __init__(self, path: Path) -> None:
        self._db = open_database(path, create=False)

    def close(self) -> None:
        self._db.close()

    def __enter__(self) -> "History":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def events(self, wanted: Filter, *, limit: int | None = None, newest_first: bool = False) -> Iterator[Row]:
        """Events by device time, then device and seq; read page by page, so any number of them.

        Each is a map of device, epoch, seq, then the event's fields as they came. A field of the vendor's that has one of
        the first two names is given as `event.device` or `event.epoch`.
        """
        streams = {row.id: (row.device, row.epoch) for row in self._run(StreamRow.select(StreamRow.id, StreamRow.device, StreamRow.epoch))}
        after = None
        left = limit
        while left is None or left > 0:
            page = PAGE if left is None else min(PAGE, left)
            rows = list(self._run(self._page(wanted, after, newest_first=newest_first).limit(page).tuples()))
            for row in rows:
                if row[0] not in streams:  # a stream that appeared since
                    return
                yield _event(streams[row[0]], row)
            if len(rows) < page:
                return
            after = (rows[-1][2], rows[-1][0], rows[-1][1])
            left = None if left is None else left - page

    def devices(self, *, all_epochs: bool = False) -> Iterator[Row]:
        """How far each device is stored: one row for its newest epoch, or for each epoch."""
        told: dict[str, Row] = {row["device"]: row for row in self._run(DeviceRow.select().order_by(DeviceRow.device).dicts())}
        streams = {(row["device"], row["epoch"]): row for row in self._run(StreamRow.select().order_by(StreamRow.id).dicts())}
        newest = dict(streams.keys()) | {device: row["epoch"] for device, row in told.items() if row["epoch"]}
        keys = set(newest.items()) | (streams.keys() if all_epochs else set())
        for device, epoch in sorted(keys):
            yield _device(device, epoch, told.get(device), streams.get((device, epoch)), current=newest[device] == epoch)

    def gaps(self, device: str | None = None) -> Iterator[Row]:
        """The ranges that are lost, by device and seq."""
        query = (
            GapRow.select(StreamRow.device, StreamRow.epoch, GapRow.first, GapRow.last, GapRow.declared_at)
            .join(StreamRow, on=GapRow.stream == StreamRow.id)
            .order_by(StreamRow.device, StreamRow.id, GapRow.first)
        )
        if device is not None:
            query = query.where(StreamRow.device == device)
        for row in query.bind(self._db).dicts().iterator():
            yield {**row, "events": row["last"] - row["first"] + 1}

    def quarantine(self) -> Iterator[Row]:
        """What broke the contract, oldest first."""
        yield from QuarantineRow.select().order_by(QuarantineRow.id).bind(self._db).dicts().iterator()

    def _page(self, wanted: Filter, after: tuple[int, int, int] | None, *, newest_first: bool) -> Any:
        event = EventRow
        query = event.select(*event._meta.sorted_fields)
        for condition in self._conditions(wanted):
            query = query.where(condition)
        key = (event.timestamp, event.stream, event.seq)
        if after is not None:
            # A row value comparison, which SQLite and PostgreSQL answer from the index.
            here, there = peewee.Tuple(*key), peewee.Tuple(*after)
            query = query.where(here < there if newest_first else here > there)
        return query.order_by(*(column.desc() if newest_first else column for column in key))

    def _conditions(self, wanted: Filter) -> Iterator[Any]:
        event = EventRow
        if wanted.since is not None:
            yield event.timestamp >= wanted.since
        if wanted.until is not None:
            yield event.timestamp < wanted.until
        if wanted.device is not None:
            yield event.stream.in_([row.id for row in self._run(StreamRow.select(StreamRow.id).where(StreamRow.device == wanted.device))])
        if wanted.person is not None:
            yield (event.identity_id == wanted.person) | (event.identity_name == wanted.person)
        if wanted.person_type is not None:
            yield event.person_type == wanted.person_type
        if wanted.group is not None:
            yield event.group_name == wanted.group
        if wanted.min_score is not None:
            yield event.score >= wanted.min_score

    def _run(self, query: Any) -> Any:
        with _store_errors(self._db):
            return query.bind(self._db).execute()


def _event(stream: tuple[str, str], row: tuple[Any, ...]) -> Row:
    device, epoch = stream
    _, seq, timestamp, score, identity_id, identity_name, person_type, group_name, ep_id, extra = row
    fields = {
        "device": device,
        "epoch": epoch,
        "seq": seq,
        "timestamp": timestamp,
        "score": score,
        "identity_id": identity_id,
        "identity_name": identity_name,
        "person_type": person_type,
    }
    fields |= {name: value for name, value in (("group_name", group_name), ("ep_id", ep_id)) if value is not None}
    vendors = codec.unpack(extra) if extra else {}
    return fields | {f"event.{name}" if name in fields else name: value for name, value in vendors.items()}


def _device(device: str, epoch: str, told: Row | None, stream: Row | None, *, current: bool) -> Row:
    said = codec.unpack(told["status"]) if told and told["status"] else {}
    if not current or said.get("epoch") != epoch:
        said = {}
    stored = stream or {"watermark": 0, "head": 0, "oldest": 1, "gaps": 0, "quarantined": 0, "last_seen": 0}
    head = max(stored["head"], said.get("head") or 0)
    return {
        "device": device,
        "epoch": epoch,
        "head": head,
        "watermark": stored["watermark"],
        "lag": max(0, head - stored["watermark"]),
        "gaps": stored["gaps"],
        "quarantined": stored["quarantined"],
        "dropped": said.get("dropped"),
        "online": bool(current and told and told["online"]),
        "last_seen": max(stored["last_seen"], told["last_seen"] if current and told else 0),
        "current": current,
    }


@contextlib.contextmanager
def _store_errors(database: peewee.SqliteDatabase) -> Iterator[None]:
    try:
        yield
    except peewee.DatabaseError as exc:
        raise StoreError(f"{database.database}: {exc}") from exc
