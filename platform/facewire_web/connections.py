"""Connections that wait for no client for ever, and make room for others.

A client must send a whole request in time, and read its answer. If there are too many connections,
the server ends some of those that wait for their client. So a client that opens many keeps out
nobody else.
"""

from dataclasses import dataclass
from typing import Any, Final

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

#: Open connections at a time; more than streams (`live.MAX_READERS`) and questions (`turns`).
MAX_CONNECTIONS: Final = 512
#: A request must be complete so long after the connection or the answer before it, s.
REQUEST_WITHIN: Final = 10.0
#: A client must take so many bytes of what waits for it, or all of it, in this time, s.
TAKEN_BYTES: Final = 16_384
TAKEN_WITHIN: Final = 30.0
#: Bytes of the head of a request.
MAX_HEAD_BYTES: Final = 32_768


@dataclass(slots=True)
class Patience:
    """How long a connection has waited for its client. Times are monotonic, s."""

    #: Since when the client has had to send a request.
    since: float
    #: When `waiting_bytes` were measured, for which the client has taken too little since.
    measured_at: float = 0.0
    waiting_bytes: int = 0

    def is_over(self, now: float, waiting_bytes: int, *, request_due: bool) -> bool:
        """Whether the connection ends.

        Args:
            now: the present.
            waiting_bytes: written for the client, who has not taken them yet.
            request_due: whether it is the client's turn, and there is no whole request yet.
        """
        before, self.waiting_bytes = self.waiting_bytes, waiting_bytes
        if before or waiting_bytes:
            self.since = now
        if not waiting_bytes:
            return request_due and now - self.since >= REQUEST_WITHIN
        if not before or waiting_bytes <= before - TAKEN_BYTES:
            self.measured_at = now
        else:
            self.waiting_bytes = before
        return now - self.measured_at >= TAKEN_WITHIN


class Connection(H11Protocol):
    """A connection of uvicorn's with patience."""

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._patience = Patience(self.loop.time())
        if len(self.connections) > MAX_CONNECTIONS:
            make_room(self.connections)

    def on_response_complete(self) -> None:
        self._patience.since = self.loop.time()
        super().on_response_complete()

    def end_if_late(self, now: float) -> None:
        """End the connection if its client took too long. Call it every second or so."""
        if self._patience.is_over(now, self.transport.get_write_buffer_size(), request_due=self.is_request_due):
            self.transport.abort()

    @property
    def is_request_due(self) -> bool:
        """Whether the client has not sent a whole request yet."""
        return self.conn.their_state in (h11.IDLE, h11.SEND_BODY)

    @property
    def host(self) -> str:
        return self.client[0] if self.client else ""

    @property
    def since(self) -> float:
        return self._patience.since


def make_room(connections: set[Any]) -> None:
    """End connections that wait longest for a request, of the client that has most of them.

    Several at once: to look through all of them costs as much as ten connections.
    """
    waiting: dict[str, list[Any]] = {}
    for connection in connections:
        if connection.is_request_due:
            waiting.setdefault(connection.host, []).append(connection)
    most: list[Any] = max(waiting.values(), key=lambda some: len(some), default=[])
    most.sort(key=lambda connection: connection.since)
    for ended in most[: max(1, len(most) // 8)]:
        ended.transport.abort()
        connections.discard(ended)  # at once: others may be accepted before its end is told
