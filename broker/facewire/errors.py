"""The one error tree.

    FacewireError
    ├── DecodeError         the bytes are no message of ours: quarantine, never retry
    │   └── EventError      one event breaks the contract; its neighbours may be good
    ├── ProtocolError       a readable message breaks the contract
    │   └── BatchRefused    a batch breaks it as a whole; carries the batch key for the answer
    ├── StoreError          a database cannot be used as it is; says what to do
    └── BrokerError         the broker cannot be reached, or refuses
        ├── Unreachable     nothing accepts a connection at its address
        ├── NotMqtt         something does, but does not answer as an MQTT broker
        ├── CredentialsRefused
        └── SubscriptionRefused

A call with bad arguments is a `ValueError`. An outage is not an error, but a state with a backoff.
"""


class FacewireError(Exception):
    """Anything that facewire raises on purpose."""


class DecodeError(FacewireError):
    """The bytes are no message of ours."""


class EventError(DecodeError):
    """One event breaks the contract.

    Attributes:
        seq: the event's seq, if it is readable.
    """

    def __init__(self, reason: str, seq: int | None = None) -> None:
        super().__init__(reason)
        self.seq = seq


class ProtocolError(FacewireError):
    """A peer broke the contract."""


class BatchRefused(ProtocolError):
    """A history batch breaks the contract as a whole: none of its events counts.

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


class Unreachable(BrokerError):
    """Nothing accepts a connection at the broker's address."""


class NotMqtt(BrokerError):
    """Something accepts a connection there, but does not answer as an MQTT broker."""


class CredentialsRefused(BrokerError):
    """The broker refused our user name, password or certificate."""


class SubscriptionRefused(BrokerError):
    """The broker accepted our credentials and refused a subscription."""
