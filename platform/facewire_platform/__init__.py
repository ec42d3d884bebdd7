"""The platform: stores what devices report, acks it, and answers questions about it.

For gates and greeters: `from facewire_platform import fresh_matches`, or `fresh_matches_async`.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from facewire_platform.consumer import fresh_matches as fresh_matches
    from facewire_platform.consumer import fresh_matches_async as fresh_matches_async


def __getattr__(name: str) -> Any:
    """Import the consumer when it is asked for: the worker and the queries do without."""
    if name not in {"fresh_matches", "fresh_matches_async"}:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from facewire_platform import consumer

    return getattr(consumer, name)
