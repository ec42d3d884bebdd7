"""A socket that plays systemd: it receives what services report."""

import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager


class Manager:
    """Systemd's end of NOTIFY_SOCKET."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind("\0" + address[1:] if address.startswith("@") else address)
        self.socket.settimeout(20)

    @classmethod
    @contextmanager
    def in_a_short_folder(cls) -> "Iterator[Manager]":
        """A folder outside pytest's own: the path of a socket ends at 107 bytes."""
        with tempfile.TemporaryDirectory(prefix="fw-notify-") as folder:
            manager = cls(f"{folder}/notify")
            yield manager
            manager.socket.close()

    def next(self) -> str:
        return self.socket.recv(4096).decode()

    def wait_for(self, state: str) -> list[str]:
        """Wait for a message; returns the messages before it."""
        before = []
        while (message := self.next()) != state:
            before.append(message)
        return before

    def heard(self) -> list[str]:
        """The messages that wait already."""
        self.socket.setblocking(False)
        messages = []
        try:
            while True:
                messages.append(self.next())
        except BlockingIOError:
            self.socket.settimeout(20)
        return messages
