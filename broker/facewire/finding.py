"""A check's finding, as `facewire doctor` and `facewire bridge check --connect` show it. Pure."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of a report."""

    check: str
    verdict: Literal["ok", "warn", "FAIL"]
    message: str
    #: What to do about it.
    remedy: str = ""
