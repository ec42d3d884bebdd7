"""TLS for the embedded broker."""

import ssl

from facewire.errors import BrokerError
from facewire_broker.render import Tls


def server_context(files: Tls) -> ssl.SSLContext:
    """TLS 1.2 or newer; with a client authority, only for who shows a certificate of it.

    Raises:
        BrokerError: a file cannot be read, or is no PEM, or certificate and key are no pair.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(files.cert, files.key, password=_no_password)
        if files.client_ca:
            context.load_verify_locations(files.client_ca)
            context.verify_mode = ssl.CERT_REQUIRED
    except (OSError, ValueError) as exc:
        # ssl.SSLError is an OSError; of a missing file it names nothing.
        raise BrokerError(f"TLS with {files.cert}, {files.key}{', ' + files.client_ca if files.client_ca else ''}: {exc}") from exc
    return context


def _no_password() -> str:
    raise ValueError("the key is encrypted, and nobody is there to ask for its password")
