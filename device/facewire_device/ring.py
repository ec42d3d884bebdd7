"""The numbers of a store, pure: which seqs it holds, which are acked, what was overwritten.

       overwritten │ held                          │ to come
    1 ─────────────┼───────────────────────────────┼──────────▶ seq
                   oldest        cursor            head
                   └── acked ────┘└──── lag ───────┘

The cursor may also stand left of `oldest` (overwritten before acked), and may go back (the platform lost data).
"""

from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class Ring:
    """Where one epoch of a store stands (docs/contract.md, Words)."""

    epoch: str
    #: Highest seq ever recorded, 0 in an empty store.
    head: int = 0
    #: Lowest seq still held, 1 in an empty store.
    oldest: int = 1
    #: Highest seq that the platform has acked.
    cursor: int = 0
    #: Events overwritten before they were acked.
    dropped: int = 0

    @property
    def lag(self) -> int:
        """Events that the platform has not acked."""
        return self.head - self.cursor

    @property
    def first_unacked(self) -> int:
        """The lowest seq that is held and not acked, `head` + 1 if there is none."""
        return max(self.cursor + 1, self.oldest)

    def appended(self, count: int, capacity: int) -> "Ring":
        """After `count` more events: what exceeds `capacity` is overwritten, oldest first."""
        head = self.head + count
        oldest = max(self.oldest, head - capacity + 1)
        dropped = max(0, oldest - max(self.oldest, self.cursor + 1))
        return replace(self, head=head, oldest=oldest, dropped=self.dropped + dropped)

    def adopted(self, cursor: int) -> "Ring":
        """With another cursor, further or back."""
        return replace(self, cursor=cursor)

    def forked(self, epoch: str, first: int) -> "Ring":
        """In a new epoch, in which `first` and what follows is recorded again, `first` as seq 1.

        What was overwritten since `first` keeps its place: it shows as a gap, where it would else vanish unnamed.
        """
        shift = first - 1
        oldest = max(1, self.oldest - shift)
        return Ring(epoch, head=max(0, self.head - shift), oldest=oldest, dropped=oldest - 1)
