"""The one error tree.

    FacewireError
    ├── DecodeError         bytes that are no message of ours: quarantine, never retry
    │   └── EventError      one event that breaks the contract, its neighbours may be fine
    ├── ProtocolError       a message that can be read and breaks the contract
    │   └── BatchRefused    a whole history batch; carries the key under which to answer
    ├── StoreError          a database that cannot be used as it is; says what to do
    └── BrokerError         the broker cannot be reached, or refuses
        ├── CredentialsRefused
        └── SubscriptionRefused

A call with bad arguments is a `ValueError`. An outage is not an error: it is a state with a backoff.
"""


class FacewireError(Exception):
    """Anything that facewire raises on purpose."""


class DecodeError(FacewireError):
    """The bytes are no message of ours."""


class EventError(DecodeError):
    """One event breaks the contract.

    Attributes:
        seq: the event's seq, where it can be read.
    """

    def __init__(self, reason: str, seq: int | None = None) -> None:
        super().__init__(reason)
        self.seq = seq


class ProtocolError(FacewireError):
    """A peer broke the contract."""


class BatchRefused(ProtocolError):
    """A history batch breaks the contract as a whole: nothing of it counts.

    Attributes:
        epoch, boot, key: the batch key, which the refusing ack repeats.
    """

    def __init__(self, reason: str, *, epoch: str, boot: str, key: int) -> None:
        super().__init__(reason)
        self.epoch, self.boot, self.key = epoch, boot, key


class StoreError(FacewireError):
    """A database cannot be used as it is."""


class BrokerError(FacewireError):
    """The broker cannot be reached, or refuses."""


class CredentialsRefused(BrokerError):
    """The broker refused the user name, password or certificate."""


class SubscriptionRefused(BrokerError):
    """The broker knows us, and does not let us subscribe."""
