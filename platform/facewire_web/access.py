"""Decides who may see the page and use the API. Pure.

Without a token the server answers only this machine, and only under the machine's own names: a web
site that points its name at 127.0.0.1 (DNS rebinding) sends that name as Host. With a token the
Host does not matter, because a browser gives the cookie to no other name.
"""

import hashlib
import hmac
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from facewire.hosts import is_own_name

COOKIE: Final = "facewire"
#: Anyone may guess online without end, so a token must be long.
TOKEN_LENGTHS: Final = range(16, 1_025)
#: Characters of a Cookie header in which ours is looked for. Browsers allow 4,096 for one cookie.
MAX_COOKIES: Final = 16_384

#: Open to everybody: the page itself asks for the token, and is empty without it.
_OPEN: Final = frozenset(("/", "/healthz", "/api/login"))
_OPEN_FOLDER: Final = "/page/"

#: Nothing inline, nothing from other sites; `data:` is for the icon.
HEADERS: Final = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}


class Refusal(NamedTuple):
    """Why a request is refused."""

    status: int
    error: str


@dataclass(frozen=True, slots=True)
class Access:
    """The rules of one server.

    Attributes:
        token: the token that a client must show; None serves everybody on this machine.

    Raises:
        ValueError: the token is too short, too long, or cannot stand in a header.
    """

    token: str | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if self.token is None:
            return
        if len(self.token) not in TOKEN_LENGTHS:
            raise ValueError(f"the token has {len(self.token)} characters, not {TOKEN_LENGTHS[0]} to {TOKEN_LENGTHS[-1]}")
        if not all("!" <= letter <= "~" for letter in self.token):
            raise ValueError("the token is not printable ASCII without spaces")

    def refusal(self, path: str, headers: Mapping[str, str]) -> Refusal | None:
        """The reason why a request is refused; None if it is allowed.

        Args:
            path: the path of the request.
            headers: its headers, by lower-case name.
        """
        if self.token is None:
            host = headers.get("host", "")
            return (
                None
                if is_own_name(host)
                else Refusal(421, f"host {host[:80]!a} does not name this machine; to serve other names use --web-token-file")
            )
        if path in _OPEN or path.startswith(_OPEN_FOLDER) or self._shows_token(headers):
            return None
        return Refusal(401, "this needs a token: send 'Authorization: Bearer TOKEN', or sign in on the page")

    def admits(self, token: str) -> bool:
        """Whether this is the token; in constant time."""
        return self.token is not None and hmac.compare_digest(token.encode(), self.token.encode())

    @property
    def cookie(self) -> str:
        """The cookie that stands for the token, and does not reveal it."""
        return hmac.new((self.token or "").encode(), b"facewire page", hashlib.sha256).hexdigest()

    def _shows_token(self, headers: Mapping[str, str]) -> bool:
        scheme, _, token = headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer" and self.admits(token.strip()):
            return True
        ours = self.cookie.encode()
        return any(hmac.compare_digest(value.encode(), ours) for value in _cookies(headers.get("cookie", "")))


def _cookies(header: str) -> Iterator[str]:
    """The values of our cookie in a Cookie header (RFC 6265 section 4.2.1).

    Not by the standard library: its parser took seconds for a hostile header of 60 KB
    (https://github.com/python/cpython/issues/123067).
    """
    for pair in header[:MAX_COOKIES].split(";"):
        name, _, value = pair.partition("=")
        if name.strip() == COOKIE:
            yield value.strip()
