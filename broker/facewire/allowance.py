"""How much each of many clients may do: a token bucket for each, pure.

    level   burst ─┐      ┌── refilled
                   └─┐  ┌─┘
                     └──┘ spent

A client that was idle may spend `burst` at once, and `per_second` for ever.
"""

from collections import OrderedDict
from collections.abc import Hashable
from typing import Final, Generic, TypeVar

K = TypeVar("K", bound=Hashable)

#: So many clients are remembered. One that did nothing for longest is forgotten first.
MOST_CLIENTS: Final = 65_536


class Allowances(Generic[K]):
    """The buckets, by client.

    Args:
        burst: a client may spend so much at once.
        per_second: so much comes back each second.
        most: remember so many clients.
    """

    def __init__(self, burst: float, per_second: float, most: int = MOST_CLIENTS) -> None:
        self._burst, self._per_second, self._most = burst, per_second, most
        #: What is left, and when it was so; the client that spent last is last.
        self._left: OrderedDict[K, tuple[float, float]] = OrderedDict()

    def spend(self, client: K, now: float, amount: float = 1) -> float:
        """Take an amount; an amount over `burst` needs a full bucket.

        Returns:
            0 if it was taken; otherwise the seconds until enough is there, and nothing was taken.
        """
        left, at = self._left.pop(client, (self._burst, now))
        left = min(self._burst, left + max(0.0, now - at) * self._per_second)
        missing = min(amount, self._burst) - left
        self._left[client] = (left if missing > 0 else left - amount, now)
        if len(self._left) > self._most:
            self._left.popitem(last=False)
        return max(0.0, missing) / self._per_second
