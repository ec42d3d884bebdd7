"""TLS for the embedded broker: the context, and a transport between the socket and a stream.

asyncio's own TLS keeps a read buffer of 256 KiB for each connection from accept on, and hands a
connection over only after its handshake, so nobody could count those before. Ours reads all sockets
into the buffer that the streams share, and a stream counts, bounds and times its connection from
accept on.

    socket ─▶ incoming ─▶ handshake, one step in a turn ─▶ decrypted ─▶ Stream
    socket ◀─ outgoing ◀──────────────────────────────────  encrypted ◀─ Stream
"""

import asyncio
import contextlib
import ssl
from typing import Any, Final

from facewire.errors import BrokerError
from facewire_broker.render import Tls
from facewire_broker.stream import Stream, Streams
from facewire_system.failures import reason_of

#: First byte of a TLS handshake.
_HANDSHAKE: Final = 0x16
#: Bytes of a handshake that may wait for their turn. A chain of certificates has 3 to 10 KB.
_HANDSHAKE_BYTES: Final = 64 * 1024


def server_context(files: Tls) -> ssl.SSLContext:
    """Make the broker's context, TLS 1.2 or newer. With `client_ca`, clients need a certificate.

    Raises:
        BrokerError: a file cannot be read or is not PEM, or certificate and key do not match.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    # A handshake costs us more than the client: no second one in the same connection.
    context.options |= ssl.OP_NO_RENEGOTIATION
    try:
        context.load_cert_chain(files.cert, files.key, password=_no_password)
        if files.client_ca:
            context.load_verify_locations(files.client_ca)
            context.verify_mode = ssl.CERT_REQUIRED
    except (OSError, ValueError) as exc:
        # (ssl.SSLError is an OSError.) The error does not name the file.
        reason = reason_of(exc) if isinstance(exc, OSError) else exc
        raise BrokerError(f"TLS with {files.cert}, {files.key}{', ' + files.client_ca if files.client_ca else ''}: {reason}") from exc
    return context


def _no_password() -> str:
    raise ValueError("the key is encrypted; the broker cannot ask for its password")


class TlsTransport(asyncio.Transport, asyncio.BufferedProtocol):
    """A stream's transport, and the protocol of the socket below it.

    Args:
        stream: gets decrypted bytes; its writes are encrypted.
        context: ours.
        streams: whose buffer and turns it uses.
    """

    def __init__(self, stream: Stream, context: ssl.SSLContext, streams: Streams) -> None:
        super().__init__()
        self._stream, self._context, self._streams = stream, context, streams
        #: Made when the client sends its first bytes: a client that sends none costs no TLS.
        self._tls: ssl.SSLObject | None = None
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._is_open = self._is_queued = self._is_held = False

    # -- the socket's side ------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)  # noqa: S101  # asyncio's promise, for mypy
        self._socket = transport
        self._stream.connection_made(self)

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._streams.buffer

    def buffer_updated(self, nbytes: int) -> None:
        data = self._streams.buffer[:nbytes]
        if self._tls is None:
            if data[0] != _HANDSHAKE:
                self._stream.disconnect("tls", f"first byte is 0x{data[0]:02x}, not of a TLS handshake")
                return
            self._tls = self._context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        self._incoming.write(data)
        if self._is_open:
            self._decrypt()
        elif self._incoming.pending > _HANDSHAKE_BYTES:
            self._stream.disconnect("tls", f"handshake of over {_HANDSHAKE_BYTES} bytes")
        else:
            self._later()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stream.connection_lost(exc)
        # We and the stream refer to one another, and a garbage collection may be far away.
        self._tls, self._incoming, self._outgoing = None, ssl.MemoryBIO(), ssl.MemoryBIO()

    def pause_writing(self) -> None:
        self._stream.pause_writing()

    def resume_writing(self) -> None:
        self._stream.resume_writing()

    def _later(self) -> None:
        """Go on in a later turn: a signature takes 1 ms, and there may be a thousand clients."""
        if not self._is_queued:
            self._is_queued = True
            self._streams.next_turn(self._go_on)

    def _go_on(self) -> None:
        self._is_queued = False
        if self._tls is None or self._socket.is_closing():
            return
        if not self._is_open:
            self._shake_hands(self._tls)
        if self._is_open:
            self._decrypt()

    def _shake_hands(self, tls: ssl.SSLObject) -> None:
        try:
            tls.do_handshake()
            self._is_open = True
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLError as exc:
            self._flush()  # the alert that says why
            self._stream.disconnect("tls", f"handshake failed: {exc.reason}")
            return
        self._flush()

    def _decrypt(self) -> None:
        tls, buffer = self._tls, self._streams.buffer
        while tls is not None and not self._is_held and not self._socket.is_closing():
            try:
                # Into the same buffer: the bytes that were read into it are in `_incoming` by now.
                size: int = tls.read(len(buffer), buffer)  # type: ignore[assignment]  # a number, as a buffer is given
            except ssl.SSLWantReadError:
                break
            except ssl.SSLError as exc:
                self._stream.disconnect("tls", f"{exc.reason}")
                break
            if not size:
                self._socket.close()  # the client said that this is the end
                break
            self._stream.buffer_updated(size)
        self._flush()

    def _flush(self) -> None:
        if self._outgoing.pending and not self._socket.is_closing():
            self._socket.write(self._outgoing.read())

    # -- the stream's side ------------------------------------------------------------------------

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        if name == "peercert":
            return self._tls.getpeercert() if self._tls is not None and self._is_open else default
        return self._socket.get_extra_info(name, default)

    def is_closing(self) -> bool:
        return self._socket.is_closing()

    def write(self, data: Any) -> None:
        if self._tls is None or not self._is_open:
            return
        try:
            self._tls.write(data)
        except ssl.SSLError:  # the client has ended with an alert
            self.abort()
        else:
            self._flush()

    def pause_reading(self) -> None:
        self._is_held = True
        self._socket.pause_reading()

    def resume_reading(self) -> None:
        if self._is_held:
            self._is_held = False
            self._socket.resume_reading()
            if self._incoming.pending or (self._tls is not None and self._tls.pending()):
                self._later()

    def close(self) -> None:
        if self._tls is not None and self._is_open:
            with contextlib.suppress(ssl.SSLError):  # the client's own end has not come; we do not wait for it
                self._tls.unwrap()
            self._flush()
        self._socket.close()

    def abort(self) -> None:
        self._socket.abort()
