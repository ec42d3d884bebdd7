"""Decodes batches in a process of its own, as storing them is enough for one core of Python.

    Decoder ── payloads ──▶ process ── packed batches ──▶ Decoder, unpack

It does the usual only, and keeps nothing: what it cannot decode, or was decoding when it died, its worker reads itself. It ends
when its worker does, however that ends.
"""

import contextlib
import gc
import marshal
import signal
import socket
import struct
import subprocess
import sys
from multiprocessing.connection import Connection
from typing import Any, Final

import facewire_platform.rows
from facewire.messages import Batch, decode_batch
from facewire_platform.rows import Rows

#: A process that says nothing for so long is given up, s.
PATIENCE: Final = 10.0
#: Later versions of marshal look for what occurs twice, which takes longer than the rest.
MARSHAL_VERSION: Final = 2


class Decoder:
    """The process, and our end of the socket to it. For one thread.

    Args:
        rows: the form in which batches are to be given.

    Raises:
        OSError: it cannot be started.
    """

    def __init__(self, rows: type[Rows]) -> None:
        ours, theirs = socket.socketpair()
        with ours, theirs:
            for option in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
                ours.setsockopt(socket.SOL_SOCKET, option, struct.pack("@ll", int(PATIENCE), round(PATIENCE % 1 * 1e6)))
            self._process = subprocess.Popen(  # noqa: S603  # ourselves
                [sys.executable, "-P", "-m", __name__, str(theirs.fileno()), rows.__name__],
                pass_fds=(theirs.fileno(),),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                start_new_session=True,  # Ctrl-C is for its worker
            )
            self._connection = Connection(ours.detach())

    def decode(self, payloads: list[bytes]) -> list[bytes | None]:
        """Decode batches. For each payload what `unpack` takes, or None: read it yourself, it is no batch, or an unusual one.

        Raises:
            OSError, EOFError: the process is dead or stuck; close this, and make another.
        """
        self._connection.send_bytes(marshal.dumps(payloads, MARSHAL_VERSION))
        packed: list[bytes | None] = _load(self._connection.recv_bytes())
        return packed

    def close(self) -> None:
        """End the process."""
        self._connection.close()
        self._process.kill()
        self._process.wait()


def unpack(packed: bytes, rows: type[Rows]) -> Batch:
    """The batch, its events as rows."""
    epoch, boot, after, cursor, head, oldest, events = _load(packed)
    return Batch(epoch, boot, after, cursor, head, oldest, rows(events))


def _pack(payload: bytes, rows: type[Rows]) -> bytes | None:
    try:
        batch = decode_batch(payload, rows.from_maps)
    except Exception:  # noqa: BLE001  # whoever reads it then says what is wrong with it
        return None
    if not isinstance(batch.events, Rows):  # the codec does not vouch for it
        return None
    keys = (batch.epoch, batch.boot, batch.after, batch.cursor, batch.head, batch.oldest)
    return marshal.dumps((*keys, batch.events.packed), MARSHAL_VERSION)


def _load(packed: bytes) -> Any:
    return marshal.loads(packed)  # noqa: S302  # from the same program, through a socket that nobody else has


def _serve(connection: Connection, rows: type[Rows]) -> None:
    with contextlib.suppress(EOFError, ConnectionError):
        while True:
            payloads = _load(connection.recv_bytes())
            connection.send_bytes(marshal.dumps([_pack(payload, rows) for payload in payloads], MARSHAL_VERSION))


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    gc.disable()  # what is decoded holds no cycles
    _serve(Connection(int(sys.argv[1])), getattr(facewire_platform.rows, sys.argv[2]))
