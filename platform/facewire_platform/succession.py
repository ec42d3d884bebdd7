"""Settles an epoch when its device goes on in another one, pure (docs/contract.md, Platform, R6).

    older epoch   1 ──────── W ─── first ─────────── last ── head
                      stored │ lost │ continued in     │ lost
    newer epoch                     1 ──── last-first+1 ────────▶

A device that forks records `first` to `last` again. The platform has the realtime copies of some of
these events under the older epoch: they move to the newer one, so that each comparison is stored
once. Events between the watermark and the head that do not move will never arrive: they are a gap.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from facewire.messages import Origin
from facewire_platform.ingest import Range


class Link(NamedTuple):
    """Seqs `first` to `last` of the stream `older` are 1, 2, 3 … of the stream `newer`."""

    older: int
    newer: int
    first: int
    last: int
    #: The two streams may mean different events by one seq: only equal content is the same event.
    diverged: bool

    def newer_seq(self, seq: int) -> int | None:
        """The seq in `newer` of a seq of `older`; None if it does not continue there."""
        return seq - self.first + 1 if self.first <= seq <= self.last else None

    def older_seq(self, seq: int) -> int | None:
        """The seq in `older` of a seq of `newer`; None if it was not recorded there."""
        older = seq + self.first - 1
        return older if older <= self.last else None


def link(origin: Origin, older: int, newer: int, links: Sequence[Link]) -> Link | None:
    """The link that a batch of `newer` declares, None if it is known already or cannot be true.

    An epoch cannot continue one that continues it. If two stores continue the same seqs of an
    epoch, as clones do, the first of them takes the seqs. The events of the second are told by
    their content.
    """
    others = [known for known in links if known.older == older]
    if any(known.newer == newer for known in others) or older in _continuing(newer, links):
        return None
    taken = any(origin.first <= known.last and known.first <= origin.last for known in others if not known.diverged)
    return Link(older, newer, origin.first, origin.last, origin.diverged or taken)


def _continuing(stream: int, links: Sequence[Link]) -> set[int]:
    """A stream, and all that continue it, directly or not."""
    found = {stream}
    while more := {known.newer for known in links if known.older in found} - found:
        found |= more
    return found


class Heads(NamedTuple):
    """The highest seq of an epoch that the device reported, and which boot reported it."""

    head: int = 0
    boot: str = ""
    #: The highest seq that any other boot reported.
    others: int = 0

    def report(self, boot: str, head: int) -> "Heads":
        """After a message of a boot that reaches up to `head`."""
        if boot == self.boot:
            return self._replace(head=max(self.head, head))
        if head > self.head:
            return Heads(head, boot, self.head)
        return self._replace(others=max(self.others, head))

    def before(self, boot: str) -> int:
        """The highest seq that another boot than this one reported."""
        return self.others if boot == self.boot else self.head


@dataclass(frozen=True, slots=True)
class Ending:
    """How an epoch ends: the platform expects nothing more of it."""

    #: Both the watermark and the head from now on.
    watermark: int
    #: Those of them that are not stored are lost.
    lost: tuple[Range, ...] = ()
    #: These seqs continue in the newer epoch, stored or not.
    continued: Range | None = None


def end(watermark: int, head: int, link: Link | None = None, earlier_head: int = 0) -> Ending:
    """End an epoch.

    Args:
        watermark: its stream's.
        head: the highest seq that the platform knows of.
        link: the link to the epoch that continues it; None if none does.
        earlier_head: the highest seq that any boot reported, except the one that goes on in the
            newer epoch.
    """
    if link is None:
        return Ending(max(watermark, head), _ranges((watermark + 1, head)))
    if link.diverged:
        # The device knows that the platform had all events before `first`. Its present boot records
        # later ones again; earlier boots reported other events under those seqs.
        last = max(earlier_head, link.first - 1)
        return Ending(max(watermark, last), _ranges((watermark + 1, last)))
    lost = _ranges((watermark + 1, link.first - 1), (max(watermark, link.last) + 1, head))
    return Ending(max(watermark, head, link.last), lost, Range(link.first, link.last))


def leads(stream: int, boot: str, leader: int, leader_boot: str, links: Iterable[Link]) -> bool:
    """Whether a batch says that its device is in the epoch of `stream` now.

    The last batch says it, unless it is late: a run that forked never returns to the older epoch.
    A late batch of an earlier run is not recognised; the device's next batch corrects it.

    Args:
        stream: the batch's.
        boot: the batch's.
        leader: the stream whose epoch the device was in until now.
        leader_boot: the newest known boot of that stream.
        links: the device's.
    """
    return boot != leader_boot or not any((link.older, link.newer) == (stream, leader) for link in links)


def destination(links: Iterable[Link], stream: int, seq: int) -> tuple[int, int]:
    """The place of an event of `stream` now: the same, or in the newest epoch that it moved to."""
    moves = [link for link in links if not link.diverged]
    while place := next(((link.newer, newer) for link in moves if link.older == stream and (newer := link.newer_seq(seq))), None):
        stream, seq = place
    return stream, seq


def _ranges(*spans: tuple[int, int]) -> tuple[Range, ...]:
    return tuple(Range(first, last) for first, last in spans if first <= last)


def places(links: Iterable[Link], stream: int, seq: int) -> set[tuple[int, int]]:
    """The other places where the same event may be stored, if its content is equal."""
    known, waiting = {(stream, seq)}, [(stream, seq)]
    while waiting:
        place = waiting.pop()
        neighbours = {other for link in links if (other := _neighbour(link, *place)) is not None} - known
        known |= neighbours
        waiting += neighbours
    return known - {(stream, seq)}


def _neighbour(link: Link, stream: int, seq: int) -> tuple[int, int] | None:
    if stream == link.older and (newer := link.newer_seq(seq)) is not None:
        return link.newer, newer
    if stream == link.newer and (older := link.older_seq(seq)) is not None:
        return link.older, older
    return None
