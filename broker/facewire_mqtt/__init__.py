"""One connection to a broker, for every side of facewire. The only door to paho.

from facewire_mqtt import Address, Connection, Publication
"""

from typing import TYPE_CHECKING, Any

from facewire_mqtt.address import Address
from facewire_mqtt.happenings import Connected, Disconnected, Happening, Publication, Received, Refused

if TYPE_CHECKING:
    from facewire_mqtt.connection import Connection

__all__ = ["Address", "Connected", "Connection", "Disconnected", "Happening", "Publication", "Received", "Refused"]


def __getattr__(name: str) -> Any:
    """Import `Connection` when it is asked for: it loads paho, and not every command connects."""
    if name != "Connection":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from facewire_mqtt.connection import Connection

    return Connection
