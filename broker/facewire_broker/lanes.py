"""Chooses the next of many that wait for one thing: lanes by address and user, in turn. Pure.

    10.0.0.7   boss  ▪▪▪▪            one of each address in turn,
               ada   ▪               and of each user of an address in turn:
    10.0.0.9   boss  ▪               boss, boss (10.0.0.9), ada, boss …

So a flood delays only its own lane, and others by one turn. A lane that has been trusted once comes
before all that have not, because one address can invent any number of names.
"""

from collections import deque
from typing import Generic, TypeVar

T = TypeVar("T")

#: Trusted lanes that are remembered.
_TRUSTED = 1_000


class Lanes(Generic[T]):
    """Waiting items.

    Args:
        limit: how many may wait, among the trusted lanes and among the others.
        lane_limit: how many of one lane.
    """

    def __init__(self, limit: int, lane_limit: int) -> None:
        self._lane_limit = lane_limit
        self._trusted: dict[tuple[str, str], None] = {}
        self._first, self._others = _Queue[T](limit), _Queue[T](limit)

    def __len__(self) -> int:
        return self._first.count + self._others.count

    def add(self, item: T, address: str, user: str) -> T | None:
        """Add an item.

        Returns:
            The item that may not wait, if there is one too many: perhaps this one.
        """
        queue = self._first if (address, user) in self._trusted else self._others
        if len(queue.lane(address, user)) >= self._lane_limit:
            return item
        return queue.add(item, address, user)

    def next(self) -> T | None:
        """Take the next item; None if none waits."""
        return self._first.next() if self._first.count else self._others.next()

    def remove(self, item: T, address: str, user: str) -> None:
        """Remove an item that need not wait any more; it may have been taken."""
        self._first.remove(item, address, user)
        self._others.remove(item, address, user)

    def trust(self, address: str, user: str) -> None:
        """From now on this lane comes before those that are not trusted."""
        self._trusted.pop((address, user), None)
        self._trusted[address, user] = None
        if len(self._trusted) > _TRUSTED:
            del self._trusted[next(iter(self._trusted))]


class _Queue(Generic[T]):
    """Lanes by address and user; the first of each is the next one in turn."""

    def __init__(self, limit: int) -> None:
        self._limit, self.count = limit, 0
        self._addresses: dict[str, dict[str, deque[T]]] = {}

    def lane(self, address: str, user: str) -> deque[T]:
        return self._addresses.get(address, {}).get(user, deque())

    def add(self, item: T, address: str, user: str) -> T | None:
        removed = None
        if self.count >= self._limit:
            fullest = max(self._addresses, key=self._size)
            if self._size(fullest) <= self._size(address) + 1:
                return item
            removed = self._pop(fullest, next(reversed(self._addresses[fullest])), -1)
        self._addresses.setdefault(address, {}).setdefault(user, deque()).append(item)
        self.count += 1
        return removed

    def next(self) -> T | None:
        if not self.count:
            return None
        address = next(iter(self._addresses))
        user = next(iter(self._addresses[address]))
        item = self._pop(address, user, 0)
        if address in self._addresses:  # to the end of their turns
            users = self._addresses.pop(address)
            self._addresses[address] = users
            if user in users:
                users[user] = users.pop(user)
        return item

    def remove(self, item: T, address: str, user: str) -> None:
        lane = self.lane(address, user)
        if item in lane:
            self._pop(address, user, lane.index(item))

    def _size(self, address: str) -> int:
        return sum(map(len, self._addresses.get(address, {}).values()))

    def _pop(self, address: str, user: str, at: int) -> T:
        lanes = self._addresses[address]
        item = lanes[user][at]
        del lanes[user][at]
        self.count -= 1
        if not lanes[user]:
            del lanes[user]
        if not lanes:
            del self._addresses[address]
        return item
