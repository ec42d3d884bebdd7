"""Reports our state to systemd, for units with Type=notify and WatchdogSec (sd_notify(3)).

    READY=1      at the first turn that can do the work; `systemctl start` waits for it
    WATCHDOG=1   from the loop that does the work, never from a timer, so that systemd restarts a
                 loop that hangs
    STOPPING=1   the process is about to end

Without systemd nothing is sent.
"""

import logging
import os
import socket
import time
from collections.abc import MutableMapping
from typing import Final

log = logging.getLogger(__name__)

#: Signs of life in one watchdog interval; systemd recommends two.
BEATS: Final = 4
#: Give up on a system manager that does not read after this long, s.
SEND_TIMEOUT: Final = 1.0


class Service:
    """This process as a service of systemd.

    Args:
        environ: systemd's variables are taken out of it, because they are not for our children.
    """

    def __init__(self, environ: MutableMapping[str, str] = os.environ) -> None:
        path = environ.pop("NOTIFY_SOCKET", "")
        interval_us, pid = environ.pop("WATCHDOG_USEC", ""), environ.pop("WATCHDOG_PID", "")
        # An abstract address is written with @.
        self._path = "\0" + path[1:] if path.startswith("@") else path
        self._watched = bool(interval_us) and pid in {"", str(os.getpid())}
        self._beat_every = int(interval_us) / 1e6 / BEATS if self._watched else 0.0
        self._beat_at = 0.0
        self._ready = self._stopping = False

    def turn(self, ready: bool = True) -> None:
        """Report a turn of the working loop. Call it often, on one thread.

        Args:
            ready: the loop can do its work now; reported the first time.
        """
        if ready and not self._ready and not self._stopping:
            self._ready = True
            self._send("READY=1")
        if self._watched and (now := time.monotonic()) >= self._beat_at:
            self._beat_at = now + self._beat_every
            self._send("WATCHDOG=1")

    def stopping(self) -> None:
        """Report that the process is about to end."""
        self._stopping = True
        self._send("STOPPING=1")

    def _send(self, state: str) -> None:
        if not self._path:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
                sender.settimeout(SEND_TIMEOUT)
                sender.sendto(state.encode(), self._path)
        except OSError as exc:
            log.warning("systemd not notified state=%s error=%s", state, exc)
