"""Runs the connection to the broker in a second process, so that the worker only stores.

    paho's thread ── messages ──▶ Inbox ──▶ main thread ◀── exchange ──▶ Receiver, in the
                                     paho ◀── acks ──┘                   worker's process

The process may die at any time: a message that it holds is not acked yet. It ends when its worker
does, even if the worker is killed.
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

from facewire_mqtt import Address, Connection, Disconnected, Publication, Received
from facewire_platform.intake.decoder import pack
from facewire_platform.intake.inbox import Delivery, Inbox
from facewire_platform.store.rows import Rows

#: An exchange without messages or news ends after this long, s.
LOOK_EVERY: Final = 0.5
#: A process that does not answer for this long is killed, s.
PATIENCE: Final = 10.0
#: The wait before a process that failed is replaced, s.
RETRY: Final = 1.0


class Subscriber(NamedTuple):
    """The session with the broker, and the form in which batches are wanted."""

    address: Address
    client_id: str
    subscriptions: Sequence[tuple[str, int]]
    rows: type[Rows]


class Receiver:
    """The process, replaced if it fails, and the worker's socket to it. For one thread."""

    def __init__(self, subscriber: Subscriber) -> None:
        self._subscriber = subscriber
        self._process: _Process | None = None
        #: Earliest start of the next process, monotonic, s.
        self._not_before = 0.0

    @property
    def address(self) -> Address:
        """The broker."""
        return self._subscriber.address

    def exchange(self, publications: list[Publication], most: int) -> Delivery:
        """Publish, then take messages and news. Returns after `LOOK_EVERY` if there are none.

        Args:
            publications: lost if there is no connection.
            most: take no more messages than this. If it is 0, return the news at once.
        """
        try:
            return self._running().exchange(publications, most)
        except (OSError, EOFError) as exc:
            self._not_before = time.monotonic() + RETRY
            self._end(0.0)
            return Delivery([], [Disconnected(f"receiver failed: {str(exc) or type(exc).__name__}")], 0, 0.0)

    def close(self, publications: list[Publication]) -> None:
        """Publish, then end the connection and the process."""
        if self._process is not None:
            with contextlib.suppress(OSError):
                self._process.pipe.send((publications, None))
            self._end(PATIENCE)

    def _running(self) -> "_Process":
        if self._process is None:
            time.sleep(max(0.0, self._not_before - time.monotonic()))
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
            self._process = subprocess.Popen(  # noqa: S603  # this module
                [sys.executable, "-P", "-m", __name__, str(theirs.fileno())],
                pass_fds=(theirs.fileno(),),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                start_new_session=True,  # its worker handles Ctrl-C
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
    """Sends log records to the worker, without the parts that cannot be pickled."""

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
    connection = Connection(subscriber.address, subscriber.client_id, subscriber.subscriptions, inbox.put, quiet=True)
    connection.start()
    last: Publication | None = None
    try:
        most: int | None = 0
        while most is not None:
            publications, most = pipe.recv()
            if most is None and publications:
                last = publications.pop()  # its PUBACK shows that all before it have arrived
            for publication in publications:
                connection.publish(publication)
            if most is not None:
                pipe.send(inbox.take(most, LOOK_EVERY))
    finally:
        connection.close(last)


def _pack(message: Received, rows: type[Rows]) -> bytes | None:
    return pack(message.payload, rows) if message.topic.endswith("/history") else None


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    with contextlib.suppress(EOFError, ConnectionError):  # if the worker was killed
        _serve(Pipe(int(sys.argv[1])))
