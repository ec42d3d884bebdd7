"""When to send a batch, and what its ack does: a pure machine (docs/contract.md, Device, R1 to R5).

    connected ─▶ poll: due ─▶ (the agent publishes) ─▶ sent ─▶ acked ─▶ Adopt or Fork ─▶ wait
                   ▲                                     │                               a period
                   └── no ack: backoff with jitter ──────┘

The machine remembers only a batch's key; a resend is built anew from the store. A batch stays in
flight until another replaces it, so that an ack still counts if it comes after the timeout.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, TypeAlias

from facewire.allowance import Allowances
from facewire.messages import Ack
from facewire_device.ring import Ring

#: The specification's default period, and its minimum, s.
DEFAULT_PERIOD: Final = 20.0
MIN_PERIOD: Final = 20.0

#: How long to wait for an ack before the backoff begins, s.
ACK_TIMEOUT: Final = 5.0
#: Mean time from a connect to the first batch, s. It spreads the batches of a fleet that
#: reconnects, and the first batch includes events recorded just after the start.
AFTER_CONNECT: Final = 1.0
#: The wait before a resend doubles from the first to the second of these, s.
BACKOFF: Final = (1.0, 60.0)
#: The longest `retry_after` that is obeyed, s.
MAX_RETRY_AFTER: Final = 3600.0
#: Forks at once, and the time from one to the next then, s. An honest platform asks for one after a
#: restore; forged acks could have the whole store written again for ever.
FORKS: Final = (8, 3600.0)


@dataclass(frozen=True, slots=True)
class Adopt:
    """Set the device's cursor to this, ahead or back."""

    cursor: int


@dataclass(frozen=True, slots=True)
class Fork:
    """Continue in a new epoch, with the events from `first` on recorded again."""

    first: int


@dataclass(frozen=True, slots=True)
class Ignore:
    """Do nothing: the ack is not for the batch in flight."""


@dataclass(frozen=True, slots=True)
class Retry:
    """The platform refused the batch, or asks for too many forks; we resend after the backoff."""

    error: str


Outcome: TypeAlias = Adopt | Fork | Ignore | Retry


class Uploader:
    """Decides when a batch is due and what an ack means.

    Args:
        boot: this run of the agent.
        period: seconds from one batch to the next, at least 20.
        catch_up: batches allowed in a period while a backlog remains.
        jitter: returns random numbers in [0, 1).
        now: monotonic seconds, here and in every method.

    Attributes:
        in_flight: (epoch, key) of the last batch sent, until its ack comes.

    Raises:
        ValueError: the specification does not allow the period or the catch-up.
    """

    def __init__(self, boot: str, *, now: float, period: float = DEFAULT_PERIOD, catch_up: int = 1, jitter: Callable[[], float]) -> None:
        if not period >= MIN_PERIOD:
            raise ValueError(
                f"period of {period:g} s is below the limit of {MIN_PERIOD:g} s: history is for reliability, matches are realtime"
            )
        if catch_up < 1:
            raise ValueError(f"catch-up of {catch_up} batches a period is below the limit of 1")
        self.boot = boot
        self.period = period
        self._catch_up = catch_up
        self._jitter = jitter
        self._forks: Allowances[None] = Allowances(FORKS[0], 1 / FORKS[1])
        self._connected = False
        self.in_flight: tuple[str, int] | None = None
        self._resends = 0
        self._next_at = now
        self._period_from = now - period
        self._batches = 0

    def connected(self, now: float) -> None:
        """There is a session. A batch in flight was lost with the last one: it goes again soon."""
        self._connected = True
        soon = now + AFTER_CONNECT * (0.5 + self._jitter())
        self._next_at = soon if self.in_flight else max(self._next_at, soon)

    def disconnected(self) -> None:
        self._connected = False

    @property
    def wakes_at(self) -> float | None:
        """When to poll next, unless something happens before; None while there is no session."""
        return self._next_at if self._connected else None

    def poll(self, now: float) -> bool:
        """Whether to publish a batch now; then call `sent`.

        R1: a batch is due even if there are no new events. A batch without events is a probe; its
        ack shows whether the platform lost data.
        """
        return self._connected and now >= self._next_at

    def sent(self, now: float, epoch: str, key: int) -> int:
        """A batch up to `key` was published. Returns how many before it were not acked."""
        if self.in_flight:
            self._resends += 1
        else:
            self._count_batch(now)
        self.in_flight = (epoch, key)
        self._next_at = now + ACK_TIMEOUT + self._backoff()
        return self._resends

    def acked(self, now: float, ack: Ack, ring: Ring) -> Outcome:
        """An ack arrived. Apply the outcome in the transaction that read `ring` from the store."""
        if (ack.epoch, ack.key) != self.in_flight or ack.boot != self.boot:  # R2
            return Ignore()
        if ack.error is not None:
            return Retry(ack.error)
        outcome = self._decide(ack, ring)
        if isinstance(outcome, Fork) and (wait := self._forks.spend(None, now)):
            return Retry(f"asks to fork more than {FORKS[0]} times; the next fork is in {wait:.0f} s")
        self.in_flight = None
        self._resends = 0
        may_catch_up = self._batches < self._catch_up and _leaves_backlog(outcome, ring)
        self._next_at = now if may_catch_up else max(now, self._period_from + self.period)
        if ack.retry_after is not None:
            self._next_at = max(self._next_at, now + min(ack.retry_after / 1000, MAX_RETRY_AFTER))
        return outcome

    def _decide(self, ack: Ack, ring: Ring) -> Adopt | Fork:
        if ack.conflict is not None:  # R4
            # The platform cannot know of a conflict beyond the batch, and a fork there would leave
            # unsent events behind.
            return Fork(min(ack.conflict, ack.key + 1))
        if ack.cursor > ring.head == ack.key:  # R5: the platform knows events of this epoch that we do not
            return Fork(ring.head + 1)
        return Adopt(min(ack.cursor, ack.key))  # R3

    def _count_batch(self, now: float) -> None:
        if now >= self._period_from + self.period:
            self._period_from, self._batches = now, 0
        self._batches += 1

    def _backoff(self) -> float:
        if not self._resends:
            return 0.0
        shortest, longest = BACKOFF
        # An outage may be long, and 2.0 ** 1024 overflows.
        return min(longest, shortest * 2.0 ** min(self._resends - 1, 32)) * (0.5 + self._jitter() / 2)


def _leaves_backlog(outcome: Adopt | Fork, ring: Ring) -> bool:
    """Whether another batch would send more: skipped seqs at the end leave nothing to send."""
    if isinstance(outcome, Fork):
        return outcome.first <= ring.head
    return ring.cursor != outcome.cursor < ring.head
