"""A client's stream of bytes, cut into MQTT packets (section 2.2). Pure."""

from facewire_mqtt.framing import body_bounds


class Framer:
    """Cuts a stream of bytes into packets. Copies each byte once, however small the pieces are.

    Attributes:
        limit: the longest packet body, bytes; may change between two packets.
    """

    __slots__ = ("_at", "_chunk", "_needed", "_partial", "limit")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._chunk = b""
        self._at = 0
        self._partial = bytearray()
        self._needed = 0

    @property
    def is_partial(self) -> bool:
        """Whether part of a packet has arrived and the rest has not."""
        return bool(self._partial)

    @property
    def buffered(self) -> int:
        """Bytes pushed and not yet pulled."""
        return len(self._chunk) - self._at + len(self._partial)

    def push(self, data: bytes) -> None:
        """Add bytes from the socket. Then call `pull` until it returns None."""
        if not self._partial:
            self._chunk = self._chunk[self._at :] + data if self._at < len(self._chunk) else data
        else:
            self._partial += data
            if len(self._partial) < self._needed:
                return
            self._chunk = bytes(self._partial)
            self._partial.clear()
        self._at = 0

    def pull(self) -> tuple[int, bytes] | None:
        """Return the next packet, first byte and body; None if it is not complete yet.

        Raises:
            Malformed: its length is over the limit, or has more than four bytes.
        """
        chunk, at = self._chunk, self._at
        bounds = body_bounds(chunk, at, self.limit)
        if bounds is None:
            return self._wait(len(chunk) - at + 1)
        start, end = bounds
        if end > len(chunk):
            return self._wait(end - at)
        self._at = end
        return chunk[at], chunk[start:end]

    def _wait(self, needed: int) -> tuple[int, bytes] | None:
        if self._at < len(self._chunk):
            self._partial += self._chunk[self._at :]
            self._needed = needed
        self._chunk, self._at = b"", 0
        return None
