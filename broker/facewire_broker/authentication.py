"""Authenticates clients against the users file: by secret, or by the name in a certificate.

An unauthenticated client cannot change anything: nothing here touches a session, and the hub
learns of a client only after this module has verified the secret or the certificate.
"""

import logging
from collections.abc import Awaitable
from typing import Protocol

from facewire.roles import Role
from facewire.topics import Topics
from facewire_broker.access import rights_of, rule_for
from facewire_broker.credentials import QUICK_ROUNDS, TOKEN_ROUNDS, User, Users, UsersFile, with_devices_of_bridges
from facewire_broker.following import Follower
from facewire_broker.hub import BAD_CLIENT_ID, NOT_AUTHORIZED, UNAVAILABLE, Identity
from facewire_broker.limits import BrokerLimits
from facewire_broker.packets import Connect
from facewire_broker.passwords import Passwords, check

log = logging.getLogger(__name__)


class Authenticator(Protocol):
    """Says who a client is, and whether it may connect."""

    def authenticate(self, connect: Connect, certificate_name: str | None) -> Identity | int | Awaitable[Identity | int]:
        """Return who the client is, or CONNACK's return code; awaitable if this takes long."""

    def changed_users(self, now: float) -> list[str]:
        """Return the users that changed or are gone since the last call; called every second."""


class AllowAnyone:
    """Accepts every client, anonymously, with all rights. For loopback only."""

    def authenticate(self, connect: Connect, certificate_name: str | None) -> Identity | int | Awaitable[Identity | int]:
        return Identity()

    def changed_users(self, now: float) -> list[str]:
        return []


class UsersAuthenticator:
    """Accepts the users of the users file.

    Args:
        file: the users; read again whenever it changes, see `following`.
        topics: give the prefix of the topics that the rights name.
        limits: how long to serve users whose file cannot be read.

    Raises:
        BrokerError: the file cannot be read.
    """

    def __init__(self, file: UsersFile, topics: Topics, limits: BrokerLimits | None = None) -> None:
        self._prefix = topics.prefix
        self._follower = Follower(file.version, file.load, (limits or BrokerLimits()).users_timeout)
        self._passwords = Passwords()
        self._use(with_devices_of_bridges(self._follower.first))

    def _use(self, users: Users) -> None:
        self._users = users
        #: Rounds that a wrong secret costs, whatever the name: as many as any user's hash has.
        self._cost = max((user.rounds for user in users.values()), default=TOKEN_ROUNDS)

    def authenticate(self, connect: Connect, certificate_name: str | None) -> Identity | int | Awaitable[Identity | int]:
        """Return who the client is, or CONNACK's return code.

        The result is awaitable if a password may be hashed with many rounds. Nothing tells a wrong
        secret from a name that does not exist.
        """
        if self._follower.is_blind:
            return UNAVAILABLE
        name = connect.username if certificate_name is None else certificate_name
        user = self._users.get(name or "")
        if not name or connect.username not in {None, name}:
            return NOT_AUTHORIZED
        if certificate_name is not None:
            return NOT_AUTHORIZED if user is None else self._identify(user, connect)
        if user is None or user.rounds <= QUICK_ROUNDS:
            if check(user, connect.password or "", min(self._cost, QUICK_ROUNDS)) and user is not None:
                return self._identify(user, connect)
            if self._cost <= QUICK_ROUNDS:
                return NOT_AUTHORIZED
        return self._check_slowly(user, name, connect)

    def changed_users(self, now: float) -> list[str]:
        """Read the files again if they changed; return the users that changed or are gone."""
        users = self._follower.poll(now)
        if users is None:
            if not (self._follower.is_blind and self._users):
                return []
            users = {}
        users = with_devices_of_bridges(users)
        changed = [name for name, user in self._users.items() if users.get(name) != user]
        log.info("users reloaded count=%d changed=%d", len(users), len(changed))
        self._use(users)
        return changed

    async def _check_slowly(self, user: User | None, name: str, connect: Connect) -> Identity | int:
        right = await self._passwords.verify(user, name, connect.password or "", self._cost, connect.address)
        if right is None:
            return UNAVAILABLE
        # The user may have been removed or changed during the check.
        return self._identify(user, connect) if right and user is not None and self._users.get(name) == user else NOT_AUTHORIZED

    def _identify(self, user: User, connect: Connect) -> Identity | int:
        """Check the client id against the user.

        A device connects under its own name only. Any other user may open several connections,
        under any client id except another user's name; a bridge also under those of its devices.
        """
        own = connect.client_id == user.name or (user.role is Role.BRIDGE and connect.client_id in user.devices)
        if not connect.client_id or (not own and (user.role is Role.DEVICE or connect.client_id in self._users)):
            return BAD_CLIENT_ID
        # All platform users share their work; any other user shares only among its own connections.
        # The role comes first, so no name reaches another role's groups (a name has no slash).
        scope = str(user.role) if user.role is Role.PLATFORM else f"{user.role}/{user.name}"
        return Identity(user.name, rights_of(user.name, rule_for(user.role, status=user.status, devices=user.devices), self._prefix), scope)
