"""How much one client, and all clients together, may use of the broker. Pure."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class BrokerLimits:
    """The limits of one broker. Counters on `$SYS` show what each limit refused or dropped."""

    #: Connections at one time. The broker closes any further one at once.
    connections: int = 20_000
    #: Connections that have not authenticated yet, in all and from one address. If there is one
    #: more, the broker closes the one that has waited longest. A TLS handshake counts from accept.
    newcomers: int = 2_000
    address_newcomers: int = 500
    #: Sessions, including those of clients that are away.
    sessions: int = 20_000
    #: Sessions of one user. A device has one; each worker and each gate has one.
    user_sessions: int = 100
    #: Largest packet before and after authentication. A history batch of 100 events without
    #: photographs has 13 KB.
    connect_bytes: int = 16 * 1024
    packet_bytes: int = 256 * 1024
    #: Seconds that a client has to send a whole CONNECT, and any other whole packet; and seconds
    #: that it may go without reading.
    connect_timeout: float = 10.0
    packet_timeout: float = 20.0
    write_timeout: float = 20.0
    #: Seconds that a client has to read its last messages when the broker closes the connection.
    close_timeout: float = 2.0
    #: Keep-alive of a client that asks for none, s. Without one the broker would never notice that
    #: the client lost power.
    keepalive: int = 600
    #: Seconds that a session outlives its connection.
    session_expiry: float = 86_400.0
    #: If the broker cannot read the file of users, it serves the users that it read last for so
    #: many seconds. Then it serves nobody until it can read the file again.
    users_timeout: float = 60.0
    client_id_chars: int = 128
    topic_bytes: int = 512
    topic_levels: int = 16
    #: Subscriptions per session, and filters in one SUBSCRIBE or UNSUBSCRIBE.
    subscriptions: int = 100
    packet_filters: int = 100
    #: Messages a second of one user for each device that it may publish as, after five seconds of
    #: them at once. The broker reads more only later. Others (platform, anonymous) have no limit.
    device_publishes: int = 200
    #: QoS 1 messages sent to a client and not yet PUBACKed.
    inflight: int = 256
    #: Messages, and their bytes, that may wait for one client. The broker drops and counts more.
    queued: int = 10_000
    queued_bytes: int = 16 * 1024 * 1024
    #: Bytes that the sessions of one user, and all sessions together, may hold. Messages sent and
    #: not yet PUBACKed count; each message counts 300 bytes more.
    user_queued_bytes: int = 64 * 1024 * 1024
    all_queued_bytes: int = 256 * 1024 * 1024
    #: Bytes handed to a client's socket at a time. The rest waits in the queue.
    unsent_bytes: int = 256 * 1024
    #: Retained messages of all topics, and their bytes.
    retained: int = 50_000
    retained_bytes: int = 64 * 1024 * 1024
