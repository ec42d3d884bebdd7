"""Who is let in, from the users file: by secret, or by the certificate's name.

Nothing here touches a session: a connection that has not proved who it is changes nothing for anybody.
"""

import asyncio
import logging
from collections.abc import Awaitable
from concurrent.futures import ThreadPoolExecutor
from typing import Final, Protocol

from facewire.errors import BrokerError
from facewire.topics import Topics
from facewire_broker.access import Role, rights_of, rule_for
from facewire_broker.credentials import QUICK_ROUNDS, User, Users, UsersFile
from facewire_broker.hub import BAD_CLIENT_ID, NOT_AUTHORIZED, UNAVAILABLE, Identity
from facewire_broker.packets import Connect

log = logging.getLogger(__name__)

#: Passwords that wait to be checked; each takes 0.1 s of one thread.
MAX_CHECKS: Final = 50


class Authenticator(Protocol):
    """Says who a client is, and whether it may connect."""

    def authenticate(self, connect: Connect, certificate_name: str | None) -> Identity | int | Awaitable[Identity | int]:
        """Return who the client is, or CONNACK's return code; awaitable if finding out takes long."""

    def changed_users(self) -> list[str]:
        """Return the users whose credential changed or went since the last call; called every second."""


class AllowAnyone:
    """Lets everyone in as nobody in particular: for loopback only."""

    def authenticate(self, connect: Connect, certificate_name: str | None) -> Identity | int | Awaitable[Identity | int]:
        return Identity()

    def changed_users(self) -> list[str]:
        return []


class UsersAuthenticator:
    """Lets in who is in the users file.

    Args:
        file: is read again when it changes.
        topics: whose prefix the rights are made out to.

    Raises:
        BrokerError: the file cannot be read.
    """

    def __init__(self, file: UsersFile, topics: Topics) -> None:
        self._file, self._prefix = file, topics.prefix
        self._version = file.version()
        self._users: Users = file.load()
        self._pool = ThreadPoolExecutor(1, "password")
        self._checks = 0

    def authenticate(self, connect: Connect, certificate_name: str | None) -> Identity | int | Awaitable[Identity | int]:
        """Who it is, or CONNACK's return code; awaitable where the password has many rounds."""
        name = connect.username if certificate_name is None else certificate_name
        user = self._users.get(name or "")
        if user is None or connect.username not in {None, name}:
            return NOT_AUTHORIZED
        if certificate_name is not None:
            return self._identify(user, connect)
        if user.rounds > QUICK_ROUNDS:
            return self._check_slowly(user, connect) if self._checks < MAX_CHECKS else UNAVAILABLE
        return self._identify(user, connect) if user.verify(connect.password or "") else NOT_AUTHORIZED

    def changed_users(self) -> list[str]:
        """Read the files again if they changed; the users who are no longer what they were."""
        version = self._file.version()
        if version == self._version:
            return []
        self._version = version
        try:
            users = self._file.load()
        except BrokerError as exc:
            log.warning("users not read again, the old ones stay error=%s", exc)
            return []
        changed = [name for name, user in self._users.items() if users.get(name) != user]
        log.info("users read again count=%d changed=%d", len(users), len(changed))
        self._users = users
        return changed

    def _check_slowly(self, user: User, connect: Connect) -> Awaitable[Identity | int]:
        checking = asyncio.get_running_loop().run_in_executor(self._pool, user.verify, connect.password or "")
        self._checks += 1
        checking.add_done_callback(self._checked)

        async def answer() -> Identity | int:
            # It may have been removed meanwhile.
            return self._identify(user, connect) if await checking and self._users.get(user.name) == user else NOT_AUTHORIZED

        return answer()

    def _checked(self, _checking: "asyncio.Future[bool]") -> None:
        self._checks -= 1

    def _identify(self, user: User, connect: Connect) -> Identity | int:
        """A device is known by its name alone; others may have several connections, none under another user's name."""
        if not connect.client_id or (connect.client_id != user.name and (user.role is Role.DEVICE or connect.client_id in self._users)):
            return BAD_CLIENT_ID
        # The platform's workers share their work whoever they are; anybody else shares with himself alone.
        scope = str(user.role) if user.role is Role.PLATFORM else user.name
        return Identity(user.name, rights_of(user.name, rule_for(user.role, status=user.status), self._prefix), scope)
