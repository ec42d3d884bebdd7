"""How far it is proved that a bridged device's source lost nothing: its class of proof. Pure.

    proven        its records are numbered: no unexplained number is missing
    reconciled    it has no numbers, but its count of a range and ours agreed, until a moment
    best effort   neither: only what it was acked for is known to be here

A device that is no bridge has no class of proof: it is its own source.
"""

import datetime as dt
import enum
from collections.abc import Mapping
from typing import Any


class ProofClass(enum.StrEnum):
    """The classes, as a status names them."""

    PROVEN = "proven"
    RECONCILED = "reconciled"
    BEST_EFFORT = "best effort"


def describe_proof(status: Mapping[str, Any]) -> str | None:
    """A status' class of proof for people; None if it has none."""
    proof, at_ms, unexplained = (status.get(name) for name in ("proof", "proof_at", "unexplained"))
    if proof is None:
        return None
    text = str(proof)
    if proof == ProofClass.RECONCILED:
        text = f"reconciled until {_moment(at_ms)}" if at_ms is not None else "not reconciled yet"
    elif at_ms is not None:
        text += f" since {_moment(at_ms)}"
    return f"{text}, {unexplained} unexplained" if unexplained else text


def _moment(at_ms: int) -> str:
    try:
        return dt.datetime.fromtimestamp(at_ms // 1000, tz=dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    except (OverflowError, ValueError, OSError):
        return f"{at_ms} ms"
