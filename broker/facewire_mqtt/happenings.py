"""The happenings of a connection, and the messages that it publishes. Pure."""

from dataclasses import dataclass
from typing import Literal, TypeAlias

#: How far a session got: to nothing at that address, to an open port, or to an MQTT broker.
Reached: TypeAlias = Literal["nothing", "port", "broker"]


@dataclass(frozen=True, slots=True)
class Connected:
    """A session is up, and the broker granted every subscription."""


@dataclass(frozen=True, slots=True)
class Disconnected:
    """The session ended, or could not begin."""

    reason: str
    reached: Reached = "broker"


@dataclass(frozen=True, slots=True)
class Refused:
    """The broker refused our credentials or a subscription. The connection goes on trying."""

    reason: str
    #: Whether it refused our credentials.
    credentials: bool = False


@dataclass(frozen=True, slots=True)
class Received:
    """A message arrived."""

    topic: str
    payload: bytes
    qos: int
    retain: bool


Happening: TypeAlias = Connected | Disconnected | Refused | Received


@dataclass(frozen=True, slots=True)
class Publication:
    """A message to publish, such as a last will."""

    topic: str
    payload: bytes
    qos: int = 1
    retain: bool = False
