"""A bridge lets boxes of other makes be facewire devices: it reads their records as events.

    from facewire_bridge import Box, Family, Poison, Post, Read, Record, read_local

With these names you write a pure module for a family of boxes: docs/bridges.md tells how, and
docs/bridge_template.py is one to copy.
"""

from facewire_bridge.clock import read_local
from facewire_bridge.family import Box, Family, Post, Read
from facewire_bridge.record import Poison, Record

__all__ = ["Box", "Family", "Poison", "Post", "Read", "Record", "read_local"]
