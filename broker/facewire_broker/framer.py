"""A client's stream of bytes, cut into MQTT packets (section 2.2). Pure."""

from facewire_mqtt.framing import body_bounds


class Framer:
    """Cuts a stream of bytes into packets. Takes each byte once, however small the pieces it comes in.

    Attributes:
        limit: largest packet, bytes after its header; may be changed between two packets.
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
        """Whether the beginning of a packet waits for its rest."""
        return bool(self._partial)

    @property
    def buffered(self) -> int:
        """Bytes that wait to be pulled, or for their rest."""
        return len(self._chunk) - self._at + len(self._partial)

    def push(self, data: bytes) -> None:
        """Take what the socket gave. Then call `pull` until it gives None."""
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
        """The next packet, first byte and body, or None where it is not there yet.

        Raises:
            Malformed: its length is over the limit, or no length.
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
