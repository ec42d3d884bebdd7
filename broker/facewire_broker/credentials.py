"""The users of a broker: a password file in Mosquitto's format, and a file of roles beside it.

    FILE         name:$7$ROUNDS$SALT$HASH    PBKDF2-SHA512, salt and hash in base64;
                                             mosquitto_passwd writes the same
    FILE.roles   name ROLE [status] [devices=NAME,NAME…]

A generated secret has 192 bits, too many to guess, so a few rounds (60 µs) are enough. A password
that a human chose needs many rounds, and is checked in a thread, not in the event loop.
"""

import base64
import binascii
import contextlib
import fcntl
import hashlib
import hmac
import os
import re
import secrets
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final, TypeAlias, TypeVar

from facewire.errors import BrokerError
from facewire.roles import PERMISSIONS, Role
from facewire.topics import check_device
from facewire_system.folders import missing_folder, not_made

T = TypeVar("T")

#: Rounds for a generated secret (Mosquitto's default), and for a human's password (OWASP's advice
#: for PBKDF2-SHA512).
TOKEN_ROUNDS: Final = 101
PASSWORD_ROUNDS: Final = 210_000
#: A secret with more rounds is checked in a thread.
QUICK_ROUNDS: Final = 1_000
#: Begins a consumer's devices in the file of roles.
_DEVICES: Final = "devices="
#: The most rounds that a file may ask for.
_MAX_ROUNDS: Final = 10_000_000

_STORED = re.compile(r"\$7\$(\d{1,8})\$([A-Za-z0-9+/=]+)\$([A-Za-z0-9+/=]+)")


@dataclass(frozen=True, slots=True)
class User:
    """One credential."""

    name: str
    role: Role
    #: The hash, as in the password file.
    stored: str = field(repr=False)
    #: Whether a consumer may also subscribe to status.
    status: bool = False
    #: The devices that a consumer may follow, empty for all; or those that a bridge speaks for.
    devices: tuple[str, ...] = ()

    @property
    def rounds(self) -> int:
        """The rounds of its hash: what a check costs."""
        return _parse(self.stored)[0]

    def verify(self, secret: str) -> bool:
        """Whether this is the user's secret."""
        rounds, salt, digest = _parse(self.stored)
        return hmac.compare_digest(hashlib.pbkdf2_hmac("sha512", secret.encode(), salt, rounds), digest)


Users: TypeAlias = dict[str, User]


def generate_secret() -> str:
    """Make a secret that nobody can guess."""
    return secrets.token_urlsafe(24)


def hash_secret(secret: str, rounds: int = TOKEN_ROUNDS) -> str:
    """Hash a secret, in the form of the password file."""
    # Text, because EMQX reads salts as text; 12 bytes, because Mosquitto accepts no other size.
    salt = secrets.token_urlsafe(9).encode()
    digest = hashlib.pbkdf2_hmac("sha512", secret.encode(), salt, rounds)
    return f"$7${rounds}${base64.b64encode(salt).decode()}${base64.b64encode(digest).decode()}"


def _parse(stored: str) -> tuple[int, bytes, bytes]:
    match = _STORED.fullmatch(stored)
    if not match or not 1 <= int(match[1]) <= _MAX_ROUNDS:
        raise ValueError("the password is not of the form $7$rounds$salt$hash")
    try:
        salt, digest = base64.b64decode(match[2], validate=True), base64.b64decode(match[3], validate=True)
    except binascii.Error as exc:
        raise ValueError("salt or hash is not base64") from exc
    if len(digest) != hashlib.sha512().digest_size:
        raise ValueError(f"hash of {len(digest)} bytes is not SHA-512")
    return int(match[1]), salt, digest


def salt_and_hash(stored: str) -> tuple[int, str, str]:
    """Split a stored hash into rounds, salt as text, and hash in hex.

    Raises:
        ValueError: the salt is not text. mosquitto_passwd makes such salts.
    """
    rounds, salt, digest = _parse(stored)
    return rounds, salt.decode("ascii"), digest.hex()


class UsersFile:
    """A password file and its file of roles."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.roles_path = path.with_name(path.name + ".roles")

    def load(self) -> Users:
        """Read both files.

        Raises:
            BrokerError: a file cannot be read, or a line is wrong. The message names file and line
                and shows no hash.
        """
        roles = dict(_lines(self.roles_path, _read_role)) if self.roles_path.exists() else {}
        users = {}
        for name, stored in _lines(self.path, _read_password):
            if name not in roles:
                raise BrokerError(f"{self.roles_path}: user {name!r} has no role; add the line '{name} ROLE'")
            role, status, devices = roles[name]
            users[name] = User(name, role, stored, status, devices)
        return users

    def version(self) -> tuple[object, ...]:
        """A value that changes whenever a file does."""
        parts: list[object] = []
        for path in (self.path, self.roles_path):
            try:
                info = path.stat()
            except OSError:
                parts.append(None)
            else:
                parts.append((info.st_mtime_ns, info.st_ctime_ns, info.st_size, info.st_ino))
        return tuple(parts)

    @contextlib.contextmanager
    def editing(self) -> Iterator[Users]:
        """Lock the files and give the users as a dict; write it back at the end."""
        if problem := missing_folder(self.path):
            raise BrokerError(f"{self.path}: {problem}")
        with _locked(self.path.with_name(self.path.name + ".lock")):
            for path in (self.path, self.roles_path):
                if path.exists() and not path.is_file():
                    raise BrokerError(f"{path}: is not a regular file")
            users = self.load() if self.path.exists() else {}
            before = set(users)
            yield users
            roles = "".join(_write_role(user) for user in users.values())
            texts = [(self.roles_path, roles), (self.path, "".join(f"{user.name}:{user.stored}\n" for user in users.values()))]
            # In this order a user never lacks its role, not even between the two writes.
            for path, text in reversed(texts) if before - set(users) else texts:
                _write(path, text)


def add(
    users: Users,
    name: str,
    role: Role,
    secret: str,
    *,
    rounds: int = TOKEN_ROUNDS,
    status: bool = False,
    devices: Iterable[str] = (),
) -> None:
    """Add a user.

    Raises:
        ValueError: the user exists, or a topic cannot hold the name or a device's, or the role has
            no status or cannot be narrowed to devices.
    """
    if name in users:
        raise ValueError(f"user {name!r} already exists; `passwd` gives it a new secret")
    if status and role is not Role.CONSUMER:
        raise ValueError(f"only a consumer can be granted status, not a {role}")
    users[check_device(name)] = User(name, role, hash_secret(secret, rounds), status, _check_devices(role, devices))


def narrow(users: Users, name: str, devices: Iterable[str]) -> None:
    """Narrow a user to these devices, or widen it again if none are given.

    Raises:
        ValueError: see `add`.
    """
    user = get_user(users, name)
    users[name] = replace(user, devices=_check_devices(user.role, devices))


def _check_devices(role: Role, devices: Iterable[str]) -> tuple[str, ...]:
    checked = tuple(dict.fromkeys(check_device(device) for device in devices))
    if not checked and PERMISSIONS[role].named:
        raise ValueError(f"a {role} needs the devices that it speaks for: --devices NAME,NAME…")
    if checked and not PERMISSIONS[role].narrows:
        raise ValueError(f"only a consumer or a bridge can be narrowed to devices, not a {role}")
    return checked


def with_devices_of_bridges(users: Users) -> Users:
    """The users, and one more for each other device that a bridge speaks for, with its secret.

    A broker may bind the client id to the user name. Then a bridge connects once for each device,
    under the device's name.
    """
    bridged = {device: user for user in users.values() if user.role is Role.BRIDGE for device in user.devices}
    return users | {device: User(device, Role.DEVICE, user.stored) for device, user in bridged.items() if device not in users}


def set_secret(users: Users, name: str, secret: str, *, rounds: int = TOKEN_ROUNDS) -> None:
    """Give a user another secret. Raises `ValueError` if there is no such user."""
    users[name] = replace(get_user(users, name), stored=hash_secret(secret, rounds))


def get_user(users: Users, name: str) -> User:
    """Return a user. Raises `ValueError` if there is no such user."""
    if name not in users:
        raise ValueError(f"user {name!r} does not exist")
    return users[name]


def _lines(path: Path, read: Callable[[str], tuple[str, T]]) -> Iterator[tuple[str, T]]:
    try:
        lines = path.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as exc:
        raise BrokerError(f"{path}: {exc.strerror if isinstance(exc, OSError) else 'not UTF-8'}") from exc
    for number, line in enumerate(lines, 1):
        if line.strip() and not line.startswith("#"):
            try:
                yield read(line)
            except ValueError as exc:
                raise BrokerError(f"{path}: line {number}: {exc}") from exc


def _read_password(line: str) -> tuple[str, str]:
    name, _, stored = line.strip().partition(":")
    _parse(stored)
    return check_device(name), stored


def _read_role(line: str) -> tuple[str, tuple[Role, bool, tuple[str, ...]]]:
    name, role, *grants = line.split() if len(line.split()) > 1 else (line, "")
    devices = grants.pop().removeprefix(_DEVICES).split(",") if grants and grants[-1].startswith(_DEVICES) else []
    if grants not in ([], ["status"]):
        raise ValueError(f"{' '.join(grants)!r} is not 'status', 'devices=NAME,…' or both")
    return check_device(name), (Role(role), bool(grants), _check_devices(Role(role), devices))


def _write_role(user: User) -> str:
    grants = [*(["status"] if user.status else []), *([_DEVICES + ",".join(user.devices)] if user.devices else [])]
    return " ".join((user.name, user.role, *grants)) + "\n"


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold a lock file. Other system users cannot open it, so they cannot hold it.

    Raises:
        BrokerError: it cannot be opened, or is a symbolic link.
    """
    try:
        lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except OSError as exc:
        raise BrokerError(not_made(path, exc)) from exc
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


def _write(path: Path, text: str) -> None:
    """Replace a file in one step; only its owner can read it.

    The owner stays: a broker that does not run as root can still read the users that root edited.
    """
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    with os.fdopen(handle, "w") as file:
        if os.geteuid() == 0:
            owner = (path if path.exists() else path.parent).stat()
            os.fchown(handle, owner.st_uid, owner.st_gid)
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    Path(temporary).replace(path)
