"""How much one device may make the platform store (docs/security.md); time is an argument.

An honest device stays far below: it makes a few events a second, holds 10,000 of them, and begins
a new epoch when its store was replaced or restored. The platform asks a device over its rate for
patience: it stores nothing of a batch, and its ack tells the present watermark and `retry_after`.
So nothing is lost. It drops a match or status over the rate: history brings the event, and the next
status replaces the lost one.
"""

import math
from collections import OrderedDict
from typing import Final, Literal, NamedTuple, TypeAlias

from facewire.allowance import MOST_CLIENTS, Allowances
from facewire.errors import BatchRefused
from facewire.events import Event
from facewire.messages import BatchOf, Match
from facewire_platform.store.rows import Row
from facewire_platform.store.writer import Message, Unreadable

#: At once, and each second for ever: messages, and each event of a batch beyond the first. A bad
#: event costs the database as much as twenty good ones.
EVENTS: Final = (20_000, 100.0)
BAD_EVENT: Final = 20
#: New epochs.
EPOCHS: Final = (20, 1 / 600)
#: Bytes for the quarantine.
QUARANTINE_BYTES: Final = (4 * 1024 * 1024, 16 * 1024.0)
#: Answers that ask for patience; a device that asks more often gets none.
ANSWERS: Final = (20, 1.0)
#: Epochs that are known not to be new.
KNOWN_EPOCHS: Final = 262_144

Rate: TypeAlias = Literal["events", "epochs", "quarantine"]


class Postponed(BatchRefused):
    """A batch over its device's rate. Its ack has no `error`: the device sends it again.

    Attributes:
        retry_after: ms.
    """

    def __init__(self, refused: BatchOf[Event | Row] | BatchRefused, wait: float) -> None:
        key = refused.key if isinstance(refused, BatchRefused) else refused.cursor
        super().__init__("over the rate", epoch=refused.epoch, boot=refused.boot, key=key)
        self.retry_after = max(1_000, math.ceil(wait * 1000))


class TooMuch(NamedTuple):
    """A message over its device's rate."""

    rate: Rate
    #: The answer, if the message is a batch.
    answer: Postponed | None


class Rates:
    """The rates of all devices. They begin anew with each worker."""

    def __init__(self) -> None:
        self._events = Allowances[str](*EVENTS)
        self._epochs = Allowances[str](*EPOCHS)
        self._quarantine = Allowances[str](*QUARANTINE_BYTES)
        self._answers = Allowances[str](*ANSWERS)
        self._reads = Allowances[str](*ANSWERS)
        #: Devices over their rate of events, and until when.
        self._over_until: dict[str, float] = {}
        self._known: OrderedDict[tuple[str, str], None] = OrderedDict()

    def may_read(self, device: str, now: float) -> bool:
        """Whether to decode a message: a device over its rate gets only one a second answered."""
        until = self._over_until.get(device)
        if until is None or now >= until:
            self._over_until.pop(device, None)
            return True
        return not self._reads.spend(device, now)

    def judge(self, message: Message, now: float) -> TooMuch | None:
        """None if the device may send this message at `now`, monotonic, s."""
        device, body = message.device, message.body
        rate: Rate = "events"
        if not (wait := self._events.spend(device, now, _events(body))) and (size := _quarantined_bytes(body)):
            rate, wait = "quarantine", self._quarantine.spend(device, now, size)
        if not wait and isinstance(body, BatchOf | Match):
            rate, wait = "epochs", self._judge_epoch(device, body.epoch, now)
        if not wait:
            return None
        if rate == "events":
            self._over_until[device] = now + min(wait, 1.0)
            if len(self._over_until) > MOST_CLIENTS:
                self._over_until.clear()
        answers = isinstance(body, BatchOf | BatchRefused) and not self._answers.spend(device, now)
        return TooMuch(rate, Postponed(body, wait) if answers and isinstance(body, BatchOf | BatchRefused) else None)

    def _judge_epoch(self, device: str, epoch: str, now: float) -> float:
        """After a restart of the worker even an old epoch is new: it costs one of the 20."""
        key = (device, epoch)
        if key in self._known:
            self._known.move_to_end(key)
            return 0
        if not (wait := self._epochs.spend(device, now)):
            self._known[key] = None
            if len(self._known) > KNOWN_EPOCHS:
                self._known.popitem(last=False)
        return wait


def _events(body: object) -> int:
    return max(1, len(body.events) + BAD_EVENT * len(body.bad)) if isinstance(body, BatchOf) else 1


def _quarantined_bytes(body: object) -> int:
    if isinstance(body, BatchOf):
        return sum(len(bad.raw) for bad in body.bad)
    return len(body.raw) if isinstance(body, Unreadable) else 0
