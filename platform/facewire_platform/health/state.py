"""Whether a device is healthy, judged from what the platform knows of it. Pure.

The rows are those of `queries.History.devices`.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeAlias, get_args

from facewire.counted import counted
from facewire_platform.sightings import Turns

State: TypeAlias = Literal["online", "silent", "offline"]

STATES: Final[tuple[State, ...]] = get_args(State)

#: A device sends its status, and a batch or a probe, once per period. After this many periods
#: without a message it is silent, even if the broker published no last will: the broker may have
#: died together with the device.
SILENT_AFTER: Final = 3.0
#: The period of a device that never said it, s (docs/contract.md, Device 3).
PERIOD: Final = 20.0
#: Devices that one line names.
NAMED: Final = 3


@dataclass(frozen=True, slots=True)
class HealthLimits:
    """The limits of a healthy device; each field that is set adds a check.

    Attributes:
        max_lag: events that may wait on a device.
        online: a device must be connected and heard from.
        no_loss: no event may be in a gap, in quarantine, or overwritten before it was acked.
    """

    max_lag: int | None = None
    online: bool = False
    no_loss: bool = False


def state(row: Mapping[str, Any], now_ms: int) -> State:
    """Online, silent (without a goodbye), or offline (with one, or with the broker's last will)."""
    if not row["online"]:
        return "offline"
    return "silent" if silence(row, now_ms) > SILENT_AFTER * (row["period"] or PERIOD) else "online"


def silence(row: Mapping[str, Any], now_ms: int) -> float:
    """Seconds since a device was last heard from."""
    return float(max(0, now_ms - row["last_seen"]) / 1000)


def outage_budget(row: Mapping[str, Any]) -> float | None:
    """Seconds for which a device can still be cut off before it overwrites events not acked.

    Assumes the rate of its last events; None if its rate or capacity is unknown.
    """
    if not row["rate"] or row["capacity"] is None:
        return None
    return float(max(0, row["capacity"] - row["lag"]) / row["rate"])


def assess(row: Mapping[str, Any], now_ms: int) -> dict[str, Any]:
    """The row with `state`, `acked`, `outage_budget` (s), `takeovers`.

    An earlier epoch has no state.
    """
    turns = Turns(*row.get("turns") or ())
    row = {name: value for name, value in row.items() if name != "turns"}
    if not row["current"]:
        return {**row, "state": None, "acked": row["watermark"], "outage_budget": None, "takeovers": 0}
    return {
        **row,
        "state": state(row, now_ms),
        "acked": row["watermark"],
        "outage_budget": outage_budget(row),
        "takeovers": turns.takeovers(now_ms),
    }


def troubles(row: Mapping[str, Any], limits: HealthLimits, now_ms: int) -> Iterator[str]:
    """The limits that an assessed row breaks, each as a text with the value and the limit.

    Two boxes with one id break any limit.
    """
    if row["takeovers"]:
        yield f"two boxes use this id: {row['takeovers']} takeovers"
    if limits.max_lag is not None and row["lag"] > limits.max_lag:
        yield f"lag {row['lag']} is over {limits.max_lag}"
    if limits.online and row["state"] not in {"online", None}:
        heard = f"last heard from {silence(row, now_ms):.0f} s ago" if row["last_seen"] else "not heard from yet"
        yield f"{row['state']}, {heard}"
    if limits.no_loss:
        yield from (f"{name} {row[name]}" for name in ("gaps", "quarantined", "dropped") if row[name])


def describe_times(implausible: Mapping[str, int]) -> str:
    """A line on the events that `queries.History.implausible` counts; empty if there are none."""
    if not implausible:
        return ""
    most = sorted(implausible.items(), key=lambda item: (-item[1], item[0]))
    named = ", ".join(f"{device} {count:,}" for device, count in most[:NAMED])
    rest = f" and {counted(len(most) - NAMED, 'more device')}" if len(most) > NAMED else ""
    return f"{counted(sum(implausible.values()), 'event')} with a time before 2020 or after tomorrow, far from when it came: {named}{rest}"
