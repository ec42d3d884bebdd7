"""A Mosquitto that tests may kill, restart, stop and continue."""

import getpass
import signal
import subprocess
from pathlib import Path

import pytest
from broker_engines import MOSQUITTO, free_port, wait_for_port

from facewire_mqtt.connection import Address

ANONYMOUS = "allow_anonymous true"


class Mosquitto:
    """One broker on one loopback port, through any number of lives.

    Args:
        folder: for its configuration.
        config: lines beside those of the listener.
    """

    def __init__(self, folder: Path, config: str = ANONYMOUS) -> None:
        if MOSQUITTO is None:
            pytest.skip("Mosquitto is not installed (apt-get install mosquitto)")
        self.port = free_port()
        self.address = Address(port=self.port)
        self._file = folder / f"mosquitto-{self.port}.conf"
        # Started by root it would become a user who may not read our files.
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
        """It takes bytes, and answers nothing."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)
