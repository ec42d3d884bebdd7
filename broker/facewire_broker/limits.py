"""How much a client, and all of them together, may take of the broker. Pure."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class BrokerLimits:
    """Each has a counter of what it refused, or dropped, on `$SYS`."""

    #: Connections at one time; one more is closed as it comes.
    connections: int = 20_000
    #: Sessions, with those kept for clients that are away.
    sessions: int = 20_000
    #: Of these, what one user may have: a device has one, a worker or a gate one each.
    user_sessions: int = 100
    #: Largest packet before and after authentication. A history batch of 100 events without photographs has 13 KB.
    connect_bytes: int = 16 * 1024
    packet_bytes: int = 256 * 1024
    #: Seconds until CONNECT is complete; until any other packet is; and that a client may take nothing that is sent to it.
    connect_timeout: float = 10.0
    packet_timeout: float = 20.0
    write_timeout: float = 20.0
    #: Seconds that a closing connection has to take what was sent before.
    close_timeout: float = 2.0
    #: A client that asks for no keep-alive is given this one, s: otherwise power loss would never be seen.
    keepalive: int = 600
    #: Seconds that a session outlives its connection.
    session_expiry: float = 86_400.0
    client_id_chars: int = 128
    topic_bytes: int = 512
    topic_levels: int = 16
    #: Subscriptions per session.
    subscriptions: int = 100
    #: QoS 1 messages sent to a client and not yet PUBACKed.
    inflight: int = 256
    #: Messages, and their bytes, that wait for one client: more are dropped, and counted.
    queued: int = 10_000
    queued_bytes: int = 16 * 1024 * 1024
    #: Bytes handed to a client's socket at a time; the rest waits in its queue.
    unsent_bytes: int = 256 * 1024
    #: Retained messages in all, and their bytes.
    retained: int = 50_000
    retained_bytes: int = 64 * 1024 * 1024
