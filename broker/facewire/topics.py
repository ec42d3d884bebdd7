"""Where the messages travel: `{root}/v1/{device}/{kind}` (docs/contract.md, Topics)."""

import re
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias, get_args

from facewire import WIRE_VERSION
from facewire.errors import ProtocolError

Kind: TypeAlias = Literal["match", "history", "ack", "status"]
KINDS: Final[tuple[Kind, ...]] = get_args(Kind)

#: Quality of service that each kind is published and subscribed with.
QOS: Final[dict[Kind, int]] = {"match": 0, "history": 1, "ack": 1, "status": 1}

DEFAULT_ROOT: Final = "facewire"
_DEVICE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


def check_device(device: str) -> str:
    """Return `device`, or raise `ValueError` if it cannot name a device."""
    if not _DEVICE.fullmatch(device):
        raise ValueError(f"device {device!r} is not 1 to 64 of A-Z a-z 0-9 . _ -, a letter or digit first")
    return device


@dataclass(frozen=True, slots=True)
class Topics:
    """The topics under one root.

    Attributes:
        root: one or more topic levels without wildcards (MQTT 3.1.1 section 4.7).

    Raises:
        ValueError: no topic can begin with the root.
    """

    root: str = DEFAULT_ROOT

    def __post_init__(self) -> None:
        bad = not all(self.root.split("/")) or self.root.startswith("$") or re.search(r"[+#\x00-\x1f\x7f\ud800-\udfff]", self.root)
        if bad or len(self.root) > 128:
            raise ValueError(f"root {self.root!r} is not 1 to 128 characters of topic levels without + # or an empty level")

    @property
    def prefix(self) -> str:
        """The beginning of every topic, without the last slash."""
        return f"{self.root}/v{WIRE_VERSION}"

    def of(self, device: str, kind: Kind) -> str:
        """The topic of one kind of a device's messages."""
        return f"{self.prefix}/{check_device(device)}/{kind}"

    def all(self, kind: Kind) -> str:
        """The filter for one kind from every device."""
        return f"{self.prefix}/+/{kind}"

    def parse(self, topic: str) -> tuple[str, Kind]:
        """Take a topic apart into device and kind.

        Raises:
            ProtocolError: it is not a topic of the contract.
        """
        prefix, slash, rest = topic[: len(self.prefix)], topic[len(self.prefix) :][:1], topic[len(self.prefix) + 1 :]
        device, _, name = rest.partition("/")
        for kind in KINDS:
            if prefix == self.prefix and slash == "/" and name == kind and _DEVICE.fullmatch(device):
                return device, kind
        raise ProtocolError(f"topic {topic!r} is not {self.prefix}/DEVICE/{'|'.join(KINDS)}")
