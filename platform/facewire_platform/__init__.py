"""The platform: stores what devices report, acks it, and answers questions about it."""

import warnings
from typing import Any


def __getattr__(name: str) -> Any:
    """Gates used to import `fresh_matches` from here. That still works, with one warning."""
    if name not in {"fresh_matches", "fresh_matches_async"}:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import facewire_gate

    warnings.warn(f"facewire_platform.{name} has moved: from facewire_gate import {name}", DeprecationWarning, stacklevel=2)
    globals()[name] = getattr(facewire_gate, name)
    return globals()[name]
