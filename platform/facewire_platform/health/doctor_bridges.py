"""The doctor's checks of bridged devices: their proof, their boxes' clocks, doubles.

A bridge records a record of its box once, unless its store was lost. Then the box may send again
what is here already, and the doubles have one `source_id` in two epochs.
"""

import contextlib
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, Final, TypeAlias

from facewire.counted import counted
from facewire.errors import StoreError
from facewire.finding import Finding
from facewire_platform.filter import Filter
from facewire_platform.health.doctor import MAX_CLOCK_OFFSET
from facewire_platform.history.queries import History
from facewire_platform.store.database import dialect_of
from facewire_platform.store.drivers import Location

Row: TypeAlias = dict[str, Any]

#: The newest events of each device, and the devices, in which doubles are looked for.
_EVENTS: Final = 2_000
_DEVICES: Final = 50
#: Names in a message.
_NAMES: Final = 3


def check_bridges(location: Location) -> Iterator[Finding]:
    """Check the bridged devices, if there are any; `check_database` checks the database."""
    if not dialect_of(location).exists:
        return
    with contextlib.suppress(StoreError), History(location) as history:
        bridged = [row for row in history.devices() if row["proof"]]
        if bridged:
            yield _proof(bridged)
            yield from _clocks(bridged)
            yield from _doubles(history, bridged[:_DEVICES])


def _proof(bridged: Sequence[Row]) -> Finding:
    open_ones = [row for row in bridged if row["unexplained"] or row["proof"] == "not reconciled yet"]
    if not open_ones:
        return Finding("bridged boxes", "ok", f"{len(bridged)} bridged devices, nothing unexplained")
    names = ", ".join(f"{row['device']} ({row['proof']})" for row in open_ones[:_NAMES])
    return Finding(
        "bridged boxes",
        "warn",
        f"{len(open_ones)} of {counted(len(bridged), 'bridged device')} have something unexplained: {names}",
        "see the bridge's log; docs/bridges.md, What a bridge promises",
    )


def _clocks(bridged: Sequence[Row]) -> Iterator[Finding]:
    off = [row for row in bridged if abs(row["source_offset"] or 0.0) > MAX_CLOCK_OFFSET]
    if off:
        names = ", ".join(f"{row['device']} ({row['source_offset']:+.0f} s)" for row in off[:_NAMES])
        text = f"the clocks of {counted(len(off), 'box', 'boxes')} behind bridges are over {MAX_CLOCK_OFFSET:g} s off: {names}"
        yield Finding("box clocks", "warn", text, "set their clock or time server; events keep both times")


def _doubles(history: History, bridged: Sequence[Row]) -> Iterator[Finding]:
    found = {}
    for row in bridged:
        newest = history.events(Filter(device=row["device"]), limit=_EVENTS, newest_first=True)
        counts = Counter(source_id for event in newest if (source_id := event.get("source_id")) is not None)
        if doubles := sum(count - 1 for count in counts.values()):
            found[row["device"]] = doubles
    if found:
        names = ", ".join(f"{name} ({count})" for name, count in list(found.items())[:_NAMES])
        text = f"{counted(sum(found.values()), 'event')} of boxes stored twice: {names}"
        yield Finding("doubles", "warn", text, "a bridge's store was lost or restored; count by source_id where it matters")
