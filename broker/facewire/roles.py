"""The topics that each role may publish and subscribe (docs/contract.md, Topics). Pure.

    role       publishes                          subscribes
    device     its own match, history, status     its own ack
    bridge     match, history, status of the      the ack of its devices
               devices that it is named for
    platform   every ack                          everything under {root}/v1
    consumer   nothing                            every match; every status, if granted;
                                                  of its devices only, if it is narrowed to some
    terminal   its own records, its answers,      its acks and questions, under mqtt/face
               its presence, under mqtt/face
    operator   nothing                            everything, $SYS too

A terminal is a box of the mqtt/face family on our broker (docs/bridges.md). A bridge may also
receive the messages that terminals publish, and send them some.

Our broker decides by this table, the renderers write it for other brokers, the doctor checks it.
"""

import enum
from dataclasses import dataclass
from typing import Final

from facewire.topics import KINDS, Kind


class Role(enum.StrEnum):
    """The purpose of a credential."""

    DEVICE = "device"
    BRIDGE = "bridge"
    TERMINAL = "terminal"
    PLATFORM = "platform"
    CONSUMER = "consumer"
    OPERATOR = "operator"


@dataclass(frozen=True, slots=True)
class Permission:
    """The kinds of message that a role may publish and subscribe."""

    publish: tuple[Kind, ...] = ()
    subscribe: tuple[Kind, ...] = ()
    #: Only under its own name; else of every device.
    own: bool = False
    #: May be narrowed to some devices.
    narrows: bool = False
    #: Has no rights without the devices that it is named for.
    named: bool = False
    #: Topic filters outside of the contract; `{user}` stands for the credential's name.
    foreign_publish: tuple[str, ...] = ()
    foreign_subscribe: tuple[str, ...] = ()
    #: May subscribe to topics outside of the contract too, and to the broker's own.
    outside: bool = False


_PRESENCE: Final = ("mqtt/face/basic", "mqtt/face/heartbeat")


def _of_terminals(name: str) -> tuple[str, ...]:
    return (*(f"mqtt/face/{name}/{kind}" for kind in ("Rec", "Snap", "Ack")), *_PRESENCE)


PERMISSIONS: Final[dict[Role, Permission]] = {
    Role.DEVICE: Permission(publish=("match", "history", "status"), subscribe=("ack",), own=True),
    Role.BRIDGE: Permission(
        publish=("match", "history", "status"),
        subscribe=("ack",),
        narrows=True,
        named=True,
        foreign_publish=("mqtt/face/+",),
        foreign_subscribe=_of_terminals("+"),
    ),
    Role.TERMINAL: Permission(foreign_publish=_of_terminals("{user}"), foreign_subscribe=("mqtt/face/{user}",)),
    Role.PLATFORM: Permission(publish=("ack",), subscribe=KINDS),
    Role.CONSUMER: Permission(subscribe=("match",), narrows=True),
    Role.OPERATOR: Permission(subscribe=KINDS, outside=True),
}
