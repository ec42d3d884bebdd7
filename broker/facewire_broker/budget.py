"""How much all the sessions of a user may hold, and all sessions together. Pure.

    session ─▶ budget of its user ─▶ budget of all

A bound for each session alone would let one gate with 60 sessions hold 60 times as much.
"""

from typing import Final

#: What a message costs besides its payload, bytes: its topic, and our records of it.
OVERHEAD: Final = 300


class Budget:
    """Bytes in use, and their limit."""

    __slots__ = ("_whole", "limit", "used")

    def __init__(self, limit: int, whole: "Budget | None" = None) -> None:
        self.limit = limit
        self.used = 0
        self._whole = whole

    def has_room(self, size: int) -> bool:
        """Whether so many bytes more are within this limit, and within that of the whole."""
        return self.used + size + OVERHEAD <= self.limit and (self._whole is None or self._whole.has_room(size))

    def add(self, messages: int, size: int) -> None:
        """Count messages and the bytes of their payloads; negative ones are released."""
        self.used += size + messages * OVERHEAD
        if self._whole is not None:
            self._whole.add(messages, size)
