"""A device stores events durably, publishes matches at once, and sends history until it is acked.

from facewire_device import Agent, Recorder, Settings
"""

from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from facewire_device.agent import Agent
    from facewire_device.recorder import Recorder
    from facewire_device.settings import Settings

__all__ = ["Agent", "Recorder", "Settings"]

_MODULES: Final = {"Agent": "agent", "Recorder": "recorder", "Settings": "settings"}


def __getattr__(name: str) -> Any:
    """Import a name when it is asked for: the agent loads paho, which a recorder does not need."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
