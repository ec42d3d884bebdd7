"""What `facewire doctor` finds out about the database and the machine. The broker is `doctor_broker`'s."""

import ctypes
import shutil
import statistics
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from facewire.errors import StoreError
from facewire_platform.health.state import assess
from facewire_platform.history.queries import History, Row
from facewire_platform.store.database import open_database
from facewire_platform.store.drivers import Location, shown, store_errors
from facewire_platform.store.schema import StoreRow

#: Below these, disk space is a warning and a failure: as a share of the disk, and bytes.
SPACE_LOW: Final = (0.10, 5 * 2**30)
SPACE_CRITICAL: Final = (0.01, 500 * 2**20)
#: A clock further off than this makes late matches look fresh, or fresh ones late, s.
MAX_CLOCK_OFFSET: Final = 5.0
#: So many devices must agree before our own clock is suspected.
WITNESSES: Final = 3
#: What adjtimex(2) returns while nobody keeps the clock right.
_TIME_ERROR: Final = 5
_GIB: Final = 2**30


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the doctor's."""

    check: str
    verdict: Literal["ok", "warn", "FAIL"]
    message: str
    #: What to do about it.
    remedy: str = ""


def check_database(location: Location) -> Iterator[Finding]:
    """Whether it can be written and has our schema, whether all that was acked is accounted for, and what clocks say."""
    if isinstance(location, Path) and not location.exists():
        yield Finding(
            "database", "warn", f"{location} does not exist yet", "facewire platform run creates it; does --database name the worker's?"
        )
        return
    try:
        _check_writable(location)
        with History(location) as history:
            devices, streams = [assess(row, _now_ms()) for row in history.devices()], list(history.conservation())
    except StoreError as exc:
        url = shown(location) if isinstance(location, str) else f"sqlite:///{location}"
        old = "run `facewire platform migrate`" in str(exc)
        remedy = f"facewire platform migrate --database {url}" if old else "see the message; a worker waits until this works"
        yield Finding("database", "FAIL", str(exc), remedy)
        return
    yield Finding("database", "ok", f"{shown(location)}: writable, schema up to date, {len(devices)} devices")
    yield _conservation(streams)
    yield from _clocks([row for row in devices if row["state"] == "online" and row["clock_offset"] is not None])


def check_disk(location: Location) -> Iterator[Finding]:
    """Room for the database. Of a PostgreSQL's disk we know nothing."""
    if isinstance(location, str):
        return
    folder = location.absolute().parent
    try:
        total, _, free = shutil.disk_usage(folder)
    except OSError as exc:
        yield Finding("disk", "FAIL", f"{folder}: {exc.strerror}", "create the folder, or mount it")
        return
    text = f"{folder}: {free / _GIB:.1f} of {total / _GIB:.1f} GiB free"
    if _is_below(free, total, SPACE_CRITICAL):
        yield Finding("disk", "FAIL", text, "free some space; a full disk stops acks, and the devices fill up")
    elif _is_below(free, total, SPACE_LOW):
        yield Finding("disk", "warn", text, "free some space, or run facewire platform purge --older-than 180d")
    else:
        yield Finding("disk", "ok", text)


def check_clock() -> Finding:
    """Whether the kernel knows that somebody (chrony, ntpd, timesyncd) keeps our clock right."""
    try:
        # struct timex has 208 bytes; all zero asks and changes nothing.
        clock_state = ctypes.CDLL(None).adjtimex(ctypes.create_string_buffer(512))
    except (AttributeError, OSError):
        clock_state = -1
    if clock_state in {-1, _TIME_ERROR}:
        return Finding("clock", "warn", "this machine's clock is not known to be synchronized", "run chrony or systemd-timesyncd")
    return Finding("clock", "ok", "this machine's clock is synchronized")


def _is_below(free: int, total: int, limit: tuple[float, int]) -> bool:
    share, size_bytes = limit
    return free < min(share * total, size_bytes)


def _check_writable(location: Location) -> None:
    """Write what is there already, durably, as a worker does. Raises `StoreError`."""
    with closing(open_database(location, "write")) as database, store_errors(location), database.atomic():
        StoreRow.update(identity=StoreRow.identity).bind(database).execute()


def _conservation(streams: list[Row]) -> Finding:
    wrong = [row for row in streams if row["unaccounted"]]
    if not wrong:
        return Finding("conservation", "ok", f"watermark = stored + gaps + quarantined in each of {len(streams)} streams")
    names = ", ".join(f"{row['device']} {row['epoch']} ({row['unaccounted']})" for row in wrong[:3])
    return Finding(
        "conservation",
        "FAIL",
        f"{len(wrong)} of {len(streams)} streams do not add up: {names}",
        "keep a copy of the database, and report this bug",
    )


def _clocks(devices: list[Row]) -> Iterator[Finding]:
    offsets: dict[str, Any] = {row["device"]: row["clock_offset"] for row in devices}
    off = [device for device, offset in offsets.items() if abs(offset) > MAX_CLOCK_OFFSET]
    if len(offsets) >= WITNESSES and abs(middle := statistics.median(offsets.values())) > MAX_CLOCK_OFFSET:
        text = f"the clocks of {len(offsets)} devices are {middle:+.0f} s off ours in the median: ours may be wrong"
        yield Finding("device clocks", "warn", text, "run chrony or systemd-timesyncd here, then restart the worker")
    elif off:
        text = f"{len(off)} of {len(offsets)} are over {MAX_CLOCK_OFFSET:g} s off: {', '.join(f'{name} ({offsets[name]:+.0f} s)' for name in off[:3])}"
        yield Finding("device clocks", "warn", text, "set their time server; their events are stored with their own time")
    elif offsets:
        yield Finding("device clocks", "ok", f"{len(offsets)} devices within {MAX_CLOCK_OFFSET:g} s of ours")


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
