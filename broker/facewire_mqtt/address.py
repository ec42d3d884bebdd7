"""The address of a broker, with our credential."""

import ipaddress
import socket
import ssl
from dataclasses import dataclass, field

from facewire.endpoint import PORT, Endpoint
from facewire_system.failures import NO_TLS, reason_of


@dataclass(frozen=True, slots=True)
class Address:
    """A broker, and our credential there."""

    host: str = "127.0.0.1"
    port: int = PORT
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    #: Certificate authority, our certificate and its key: PEM files. Any of them turns TLS on.
    cafile: str | None = None
    cert: str | None = None
    key: str | None = field(default=None, repr=False)

    @property
    def tls(self) -> bool:
        return any((self.cafile, self.cert, self.key))

    def __str__(self) -> str:
        return str(Endpoint(self.host, self.port))


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a host. A name counts if all its addresses do."""
    try:
        found = {info[4][0] for info in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)}
    except OSError:
        return False
    return bool(found) and all(ipaddress.ip_address(str(address).partition("%")[0]).is_loopback for address in found)


def tls_context(address: Address) -> ssl.SSLContext | None:
    """The TLS context of an address; None if it uses no TLS.

    Raises:
        ValueError: a file cannot be used; names it.
    """
    if not address.tls:
        return None
    named = address.cafile
    try:
        context = ssl.create_default_context(cafile=named)
        context.sslsocket_class = _Socket
        if named := address.cert:
            # Without a password openssl would ask for one on the terminal, in every session.
            context.load_cert_chain(named, address.key, password="")
    except OSError as exc:  # or SSLError, which is one
        raise ValueError(f"{named}: {reason_of(exc)}") from exc
    return context


class TlsFailed(OSError):
    """Something accepted our connection, and the handshake failed; says why."""


class _Socket(ssl.SSLSocket):
    """Closes itself after a failed handshake, because paho forgets it."""

    def do_handshake(self, block: bool = False) -> None:
        try:
            super().do_handshake(block)
        except OSError as exc:
            self.close()
            raise TlsFailed(NO_TLS if isinstance(exc, ConnectionResetError) else reason_of(exc)) from exc
        except BaseException:
            self.close()
            raise
