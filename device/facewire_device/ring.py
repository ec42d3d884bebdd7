"""The numbers of a store, pure: the seqs that it holds, the seqs acked, the events overwritten.

       overwritten │ held                          │ to come
    1 ─────────────┼───────────────────────────────┼──────────▶ seq
                   oldest        cursor            head
                   └── acked ────┘└──── lag ───────┘

The cursor may also stand left of `oldest`, if events were overwritten before they were acked. It
goes back if the platform lost data.
"""

from dataclasses import dataclass, replace

from facewire.messages import MAX_ORIGINS, Origin


@dataclass(frozen=True, slots=True)
class Ring:
    """The state of one epoch of a store (docs/contract.md, Words)."""

    epoch: str
    #: Highest seq ever recorded, 0 in an empty store.
    head: int = 0
    #: Lowest seq still held, 1 in an empty store.
    oldest: int = 1
    #: Highest seq that the platform has acked.
    cursor: int = 0
    #: Events overwritten before they were acked.
    dropped: int = 0
    #: The epochs that this one continues, the nearest first.
    origins: tuple[Origin, ...] = ()

    @property
    def lag(self) -> int:
        """Events that the platform has not acked."""
        return self.head - self.cursor

    @property
    def first_unacked(self) -> int:
        """The lowest seq that is held and not acked, `head` + 1 if there is none."""
        return max(self.cursor + 1, self.oldest)

    def appended(self, count: int, capacity: int) -> "Ring":
        """The ring after `count` more events. Beyond `capacity` the oldest are overwritten."""
        head = self.head + count
        oldest = max(self.oldest, head - capacity + 1)
        dropped = max(0, oldest - max(self.oldest, self.cursor + 1))
        return replace(self, head=head, oldest=oldest, dropped=self.dropped + dropped)

    def adopted(self, cursor: int) -> "Ring":
        """The ring with another cursor, ahead or back."""
        return replace(self, cursor=cursor)

    def forked(self, epoch: str, first: int, *, diverged: bool) -> "Ring":
        """The ring in a new epoch, where the events from `first` on are recorded again from seq 1.

        Events from `first` on that were overwritten keep their seqs, so that they show as a gap
        instead of vanishing unnamed.

        Args:
            epoch: the new one.
            first: the lowest seq that is recorded again; `head` + 1 for none.
            diverged: see `facewire.messages.Origin`.
        """
        first = min(first, self.head + 1)
        shift = first - 1
        oldest = max(1, self.oldest - shift)
        mine = Origin(self.epoch, first, self.head, diverged)
        # An older epoch's seqs moved to this one first, and from here to the new one.
        older = (origin._replace(first=min(origin.first + shift, origin.last + 1)) for origin in self.origins)
        origins = (mine, *older)[:MAX_ORIGINS]
        return Ring(epoch, head=self.head - shift, oldest=oldest, dropped=oldest - 1, origins=origins)
