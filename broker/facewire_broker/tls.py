"""TLS for the embedded broker."""

import ssl

from facewire.errors import BrokerError
from facewire_broker.render import Tls


def server_context(files: Tls) -> ssl.SSLContext:
    """Make the broker's context, TLS 1.2 or newer. With `client_ca`, clients need a certificate.

    Raises:
        BrokerError: a file cannot be read or is not PEM, or certificate and key do not match.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(files.cert, files.key, password=_no_password)
        if files.client_ca:
            context.load_verify_locations(files.client_ca)
            context.verify_mode = ssl.CERT_REQUIRED
    except (OSError, ValueError) as exc:
        # (ssl.SSLError is an OSError.) The error does not name the file.
        raise BrokerError(f"TLS with {files.cert}, {files.key}{', ' + files.client_ca if files.client_ca else ''}: {exc}") from exc
    return context


def _no_password() -> str:
    raise ValueError("the key is encrypted; the broker cannot ask for its password")
