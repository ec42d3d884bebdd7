"""What a connection tells, and what it is given to publish. Pure."""

from dataclasses import dataclass
from typing import TypeAlias


@dataclass(frozen=True, slots=True)
class Connected:
    """A session is up and every subscription granted."""


@dataclass(frozen=True, slots=True)
class Disconnected:
    """The session ended, or did not come about."""

    reason: str


@dataclass(frozen=True, slots=True)
class Refused:
    """The broker refused who we are, or a subscription. The connection goes on trying."""

    reason: str
    #: It is who we are that was refused.
    credentials: bool = False


@dataclass(frozen=True, slots=True)
class Received:
    """A message came."""

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
