"""Has the connection to the broker in a process of its own, so that the worker's does nothing but store.

    paho's thread ── messages, decoded ──▶ Inbox ──▶ main thread ◀── exchange ──▶ Receiver, in the worker's process
                                              paho ◀── acks ──┘

It keeps nothing that matters: what was not stored when it dies was not acked. It ends when its worker does, however that ends.
"""

import contextlib
import logging
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Sequence
from multiprocessing.connection import Connection as Pipe
from typing import Final, NamedTuple

from facewire_mqtt.connection import Address, Connection, Disconnected, Publication, Received
from facewire_platform.intake.decoder import pack
from facewire_platform.intake.inbox import Delivery, Inbox
from facewire_platform.store.rows import Rows

#: An exchange that has nothing to give ends after this long, s.
LOOK_EVERY: Final = 0.5
#: A process that says nothing for so long is given up, s.
PATIENCE: Final = 10.0
#: One that has failed is followed by another after this long, s.
RETRY: Final = 1.0


class Subscriber(NamedTuple):
    """Whom the broker is to see, and in what form batches are wanted."""

    address: Address
    client_id: str
    subscriptions: Sequence[tuple[str, int]]
    rows: type[Rows]


class Receiver:
    """The process, and our end of the socket to it; after it has failed, another. For one thread."""

    def __init__(self, subscriber: Subscriber) -> None:
        self._subscriber = subscriber
        self._process: _Process | None = None
        #: When it may be started, monotonic, s.
        self._from = 0.0

    def exchange(self, publications: list[Publication], most: int) -> Delivery:
        """Publish, and take what came, at once or after LOOK_EVERY.

        Args:
            publications: those are lost for which there is no connection.
            most: so many messages; with 0 news only, which are not waited for.
        """
        try:
            return self._running().exchange(publications, most)
        except (OSError, EOFError) as exc:
            self._from = time.monotonic() + RETRY
            self._end(0.0)
            return Delivery([], [Disconnected(f"receiver failed: {str(exc) or type(exc).__name__}")], 0, 0.0)

    def close(self, publications: list[Publication]) -> None:
        """Publish, and end the connection and the process."""
        if self._process is not None:
            with contextlib.suppress(OSError):
                self._process.pipe.send((publications, None))
            self._end(PATIENCE)

    def _running(self) -> "_Process":
        if self._process is None:
            time.sleep(max(0.0, self._from - time.monotonic()))
            self._process = _Process()
            self._process.pipe.send((self._subscriber, logging.getLogger().getEffectiveLevel()))
        return self._process

    def _end(self, patience: float) -> None:
        if self._process is not None:
            self._process.end(patience)
            self._process = None


class _Process:
    def __init__(self) -> None:
        ours, theirs = socket.socketpair()
        with ours, theirs:
            for option in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
                ours.setsockopt(socket.SOL_SOCKET, option, struct.pack("@ll", int(PATIENCE), round(PATIENCE % 1 * 1e6)))
            self._process = subprocess.Popen(  # noqa: S603  # ourselves
                [sys.executable, "-P", "-m", __name__, str(theirs.fileno())],
                pass_fds=(theirs.fileno(),),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                start_new_session=True,  # Ctrl-C is for its worker
            )
            self.pipe = Pipe(ours.detach())

    def exchange(self, publications: list[Publication], most: int) -> Delivery:
        self.pipe.send((publications, most))
        delivery: Delivery = self.pipe.recv()
        return delivery

    def end(self, patience: float) -> None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(patience)
        self.pipe.close()
        self._process.kill()
        self._process.wait()


class _ForWorker(logging.Handler):
    """Gives what is logged here to the worker, without what cannot be sent."""

    def __init__(self, inbox: Inbox) -> None:
        super().__init__()
        self._inbox = inbox

    def emit(self, record: logging.LogRecord) -> None:
        args = [arg if isinstance(arg, int | float) else str(arg) for arg in record.args or ()]
        if record.exc_info and record.exc_info[0]:
            record.msg = f"{record.msg} error=%s"
            args.append(record.exc_info[0].__name__)
        record.args, record.exc_info = tuple(args), None
        self._inbox.put(record)


def _serve(pipe: Pipe) -> None:
    subscriber, level = pipe.recv()
    inbox = Inbox(lambda message: _pack(message, subscriber.rows))
    logging.basicConfig(level=level, handlers=[_ForWorker(inbox)])
    connection = Connection(subscriber.address, subscriber.client_id, subscriber.subscriptions, inbox.put)
    connection.start()
    try:
        most: int | None = 0
        while most is not None:
            publications, most = pipe.recv()
            for publication in publications:
                connection.publish(publication)
            if most is not None:
                pipe.send(inbox.take(most, LOOK_EVERY))
    finally:
        connection.close()


def _pack(message: Received, rows: type[Rows]) -> bytes | None:
    return pack(message.payload, rows) if message.topic.endswith("/history") else None


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    with contextlib.suppress(EOFError, ConnectionError):  # the worker was killed
        _serve(Pipe(int(sys.argv[1])))
