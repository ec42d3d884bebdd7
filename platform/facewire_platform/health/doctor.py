"""The doctor's checks of the database and the machine; `doctor_broker` checks the broker."""

import ctypes
import shutil
import statistics
from collections.abc import Iterator, Mapping
from contextlib import closing
from typing import Any, Final

from facewire.counted import counted
from facewire.errors import StoreError
from facewire.finding import Finding
from facewire_platform.health.state import NAMED, assess, describe_times
from facewire_platform.history.queries import History
from facewire_platform.history.reader import Row
from facewire_platform.store.database import dialect_of, open_database
from facewire_platform.store.drivers import Location, shown, store_errors
from facewire_platform.store.schema import StoreRow
from facewire_system.clock import now_ms

#: Free disk space below which there is a warning, or a failure: share of the disk, and bytes.
SPACE_LOW: Final = (0.10, 5 * 2**30)
SPACE_CRITICAL: Final = (0.01, 500 * 2**20)
#: A clock that is further off makes late matches look fresh, or fresh matches late, s.
MAX_CLOCK_OFFSET: Final = 5.0
#: This many devices must agree before we suspect our own clock.
WITNESSES: Final = 3
#: adjtimex(2) returns this while nothing synchronizes the clock.
_TIME_ERROR: Final = 5
_GIB: Final = 2**30


def check_database(location: Location) -> Iterator[Finding]:
    """Whether it is writable, has our schema and adds up, and whether the clocks agree."""
    dialect = dialect_of(location)
    if not dialect.exists:
        yield Finding(
            "database", "warn", f"{location} does not exist yet", "facewire platform run creates it; does --database name the worker's?"
        )
        return
    try:
        _check_writable(location)
        with History(location) as history:
            devices, streams = [assess(row, now_ms()) for row in history.devices()], list(history.conservation())
            times = history.implausible(now_ms())
    except StoreError as exc:
        old = "run `facewire platform migrate`" in str(exc)
        remedy = f"facewire platform migrate --database {dialect.url}" if old else "see the message; a worker waits until this works"
        yield Finding("database", "FAIL", str(exc), remedy)
        return
    yield Finding("database", "ok", f"{shown(location)}: writable, schema up to date, {counted(len(devices), 'device')}")
    yield _conservation(streams)
    yield from _ids(devices)
    yield from _times(times)
    yield from _clocks([row for row in devices if row["state"] == "online" and row["clock_offset"] is not None])


def check_disk(location: Location) -> Iterator[Finding]:
    """Space for the database. The disk of a PostgreSQL server is out of sight."""
    folder = dialect_of(location).folder
    if folder is None:
        return
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
    """Whether the kernel knows of somebody (chrony, ntpd, timesyncd) who synchronizes the clock."""
    try:
        # struct timex has 208 bytes; all zero, it asks and changes nothing.
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
    """Write the present values again, durably, as a worker would. Raises `StoreError`."""
    with closing(open_database(location, "write")) as database, store_errors(location), database.atomic():
        StoreRow.update(identity=StoreRow.identity).bind(database).execute()


def _conservation(streams: list[Row]) -> Finding:
    wrong = [row for row in streams if row["unaccounted"]]
    if not wrong:
        return Finding("conservation", "ok", f"watermark = stored + gaps + quarantined + continued in {counted(len(streams), 'stream')}")
    names = ", ".join(f"{row['device']} {row['epoch']} ({row['unaccounted']})" for row in wrong[:3])
    return Finding(
        "conservation",
        "FAIL",
        f"{len(wrong)} of {counted(len(streams), 'stream')} do not add up: {names}",
        "keep a copy of the database, and report this bug",
    )


def _ids(devices: list[Row]) -> Iterator[Finding]:
    """Boots that speak in turns: a cloned card, and both boxes on."""
    shared = [row for row in devices if row["takeovers"]]
    if shared:
        names = ", ".join(f"{row['device']} ({row['takeovers']} takeovers)" for row in shared[:NAMED])
        text = f"two boxes use one id and take each other's place: {names}"
        yield Finding("device ids", "FAIL", text, "give one of the boxes another --id, and another credential")


def _times(implausible: Mapping[str, int]) -> Iterator[Finding]:
    if text := describe_times(implausible):
        yield Finding("event times", "warn", text, "set the clock of these devices; the events are stored with the times that they have")


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
        yield Finding("device clocks", "ok", f"{counted(len(offsets), 'device')} within {MAX_CLOCK_OFFSET:g} s of ours")
