"""A Mosquitto that tests may kill, restart and stop."""

import getpass
import signal
import subprocess
from pathlib import Path

import pytest
from broker_engines import MOSQUITTO, free_port, wait_for_port

from facewire_mqtt import Address

ANONYMOUS = "allow_anonymous true"


class Mosquitto:
    """One Mosquitto on one loopback port; tests may start it again and again.

    Args:
        folder: holds its configuration.
        config: lines besides those of the listener.
    """

    def __init__(self, folder: Path, config: str = ANONYMOUS) -> None:
        if MOSQUITTO is None:
            pytest.skip("Mosquitto is not installed (apt-get install mosquitto)")
        self.port = free_port()
        self.address = Address(port=self.port)
        self._file = folder / f"mosquitto-{self.port}.conf"
        # If root starts it, it would switch to a user that cannot read our files.
        self._file.write_text(f"user {getpass.getuser()}\nset_tcp_nodelay true\nlistener {self.port} 127.0.0.1\n{config}\n")
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self._process = subprocess.Popen([str(MOSQUITTO), "-c", str(self._file)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        wait_for_port(self.port)

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def stop(self) -> None:
        """Suspend it: its sockets still accept bytes, but nothing answers."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)
