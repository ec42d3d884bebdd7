"""The rows that the writer reads, changes and writes in one transaction."""

import operator
from dataclasses import dataclass, field
from typing import Any, Final

from facewire_platform.ingest import Content
from facewire_platform.store.schema import DEVICE_COLUMNS, STREAM_COLUMNS
from facewire_platform.succession import Heads, Link


@dataclass(slots=True)
class Stream:
    """A row of the stream table, changed as messages are applied."""

    id: int
    device: str
    epoch: str
    watermark: int
    head: int
    oldest: int
    stored: int
    gaps: int
    quarantined: int
    boot: str
    last_seen: int
    continued: int
    head_boot: str
    other_head: int
    leads: bool
    linked: bool
    #: So many messages of the group are about it.
    messages: int = 0

    @property
    def heads(self) -> Heads:
        return Heads(self.head, self.head_boot, self.other_head)

    def report(self, boot: str, head: int) -> None:
        """A message of `boot` reaches up to seq `head`."""
        self.head, self.head_boot, self.other_head = self.heads.report(boot, head)


@dataclass(slots=True)
class Device:
    """A row of the device table, changed as messages are applied."""

    device: str
    boots: str = ""
    epoch: str | None = None
    online: bool = False
    last_seen: int = 0
    status: bytes | None = None


STREAM_VALUES: Final = operator.attrgetter(*(column.name for column in STREAM_COLUMNS))
DEVICE_VALUES: Final = operator.attrgetter(*(column.name for column in DEVICE_COLUMNS))


@dataclass(slots=True)
class Group:
    """The rows of one transaction: read, and to be written."""

    streams: dict[tuple[str, str], Stream] = field(default_factory=dict)
    devices: dict[str, Device] = field(default_factory=dict)
    #: By stream and seq: the stored contents for the seqs of the messages.
    contents: dict[int, dict[int, Content]] = field(default_factory=dict)
    #: New events, for `insert_events`.
    events: list[Any] = field(default_factory=list)
    #: By device, those that were needed.
    links: dict[str, list[Link]] = field(default_factory=dict)
    #: The streams and devices to be written, by id and name.
    changed_streams: dict[int, Stream] = field(default_factory=dict)
    changed_devices: dict[str, Device] = field(default_factory=dict)

    def change(self, stream: Stream) -> Stream:
        """The stream is to be written."""
        self.changed_streams[stream.id] = stream
        return stream
