"""The row of a store's state table, pure: the ring's numbers and the owner, with a checksum.

SQLite does not notice a flipped bit in a row. Of an event that costs the event; here it could make
the device send its ring again under another epoch, or take a seq twice. So nothing is done by a row
whose checksum is wrong.
"""

import json
import zlib
from typing import Any, Final, NamedTuple

from facewire.messages import Origin
from facewire_device.ring import Ring

#: The columns of the row, in order; `crc` is of all before it.
COLUMNS: Final = ("epoch", "head", "oldest", "cursor", "dropped", "origins", "capacity", "device", "machine", "crc")


class State(NamedTuple):
    """The values of the row."""

    ring: Ring
    capacity: int
    #: The owner; empty while there is none.
    device: str = ""
    machine: str = ""

    def to_row(self) -> tuple[Any, ...]:
        """Its values, in the order of `COLUMNS`."""
        ring = self.ring
        origins = json.dumps(ring.origins) if ring.origins else ""
        values = (ring.epoch, ring.head, ring.oldest, ring.cursor, ring.dropped, origins, self.capacity, self.device, self.machine)
        return (*values, state_crc(values))


def read_state(row: tuple[Any, ...]) -> State | None:
    """Read a row; None if it is damaged."""
    *values, crc = row
    if crc != state_crc(tuple(values)):
        return None
    epoch, head, oldest, cursor, dropped, origins, capacity, device, machine = values
    continued = tuple(Origin(*origin) for origin in json.loads(origins)) if origins else ()
    return State(Ring(epoch, head, oldest, cursor, dropped, continued), capacity, device, machine)


def state_crc(values: tuple[Any, ...]) -> int:
    """The checksum of all other values. `ascii` tells numbers from texts, damaged ones too."""
    return zlib.crc32(ascii(values).encode())
