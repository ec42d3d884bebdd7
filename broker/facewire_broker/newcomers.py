"""Connections that have not said who they are yet: bounded in all and for each address. Pure.

A newcomer is never turned away for them: the one that has waited longest makes room, of the address
that has most. An honest client is done in two round trips. So it gets in, however many connections
somebody else holds open from another address, and from its own address too, unless that opens
hundreds in this time.
"""

import ipaddress
from collections.abc import Hashable
from typing import Generic, TypeVar

T = TypeVar("T", bound=Hashable)


def network_of(host: str) -> str:
    """The part of a host that counts as one address.

    Of IPv6 it is the first 64 bits, because one customer has all the rest.
    """
    if ":" not in host:
        return host
    address = ipaddress.IPv6Address(host.partition("%")[0])
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(ipaddress.IPv6Network((int(address) >> 64 << 64, 64)))


class Newcomers(Generic[T]):
    """The newcomers, by address, the oldest first.

    Args:
        limit: how many there may be.
        address_limit: how many of one address.
    """

    def __init__(self, limit: int, address_limit: int) -> None:
        self._limit, self._address_limit = limit, address_limit
        self._by_address: dict[str, dict[T, None]] = {}
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def add(self, who: T, address: str) -> T | None:
        """Add a newcomer. Returns the one that makes room for it, which is no newcomer any more."""
        evicted = None
        if len(self._by_address.get(address, ())) >= self._address_limit:
            evicted = self._pop_oldest(address)
        elif self._count >= self._limit:
            evicted = self._pop_oldest(max(self._by_address, key=lambda name: len(self._by_address[name])))
        self._by_address.setdefault(address, {})[who] = None
        self._count += 1
        return evicted

    def remove(self, who: T, address: str) -> None:
        """It has said who it is, or is gone. May be called again."""
        theirs = self._by_address.get(address)
        if theirs is None or who not in theirs:
            return
        del theirs[who]
        self._count -= 1
        if not theirs:
            del self._by_address[address]

    def _pop_oldest(self, address: str) -> T:
        oldest = next(iter(self._by_address[address]))
        self.remove(oldest, address)
        return oldest
