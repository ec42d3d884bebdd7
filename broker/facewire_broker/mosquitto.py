"""Mosquitto as a child process, with our users and rules."""

import asyncio
import contextlib
import getpass
import logging
import os
import shutil
import signal
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Final

from facewire.errors import BrokerError
from facewire_broker.credentials import Users, UsersFile
from facewire_broker.following import Follower
from facewire_broker.render import SECRET_FILES, Rendered, Site, render_mosquitto
from facewire_system.folders import make_folder, not_made

log = logging.getLogger(__name__)

#: Seconds to wait for it to listen, between two checks of the users file, and for it to end.
START_TIMEOUT: Final = 10.0
POLL_INTERVAL: Final = 1.0
STOP_TIMEOUT: Final = 4.0


def write_files(rendered: Rendered, folder: Path) -> None:
    """Write rendered files. Only their owner can read those that hold hashes.

    Raises:
        FacewireError: one cannot be written.
    """
    make_folder(folder)
    for name, text in rendered.files.items():
        try:
            _write(folder / name, text)
        except OSError as exc:
            raise BrokerError(not_made(folder / name, exc)) from exc


def _write(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}.new")
    temporary.unlink(missing_ok=True)
    with open(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600 if path.name in SECRET_FILES else 0o644), "w") as file:  # noqa: PTH123  # with a mode
        file.write(text)
    temporary.replace(path)


def find_mosquitto() -> str:
    """Return the path of Mosquitto. Debian puts it in a folder that only root has in its PATH.

    Raises:
        BrokerError: it is not installed.
    """
    path = shutil.which("mosquitto", path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/usr/local/sbin")
    if path is None:
        raise BrokerError("Mosquitto is not installed (Debian: apt install mosquitto)")
    return path


def free_port(host: str = "127.0.0.1") -> int:
    """Return a port that is free at the moment. Mosquitto cannot choose one itself."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with contextlib.closing(socket.create_server((host, 0), family=family)) as taken:
        port: int = taken.getsockname()[1]
        return port


class Mosquitto:
    """One Mosquitto, from start to stop.

    Args:
        users: the users file; Mosquitto follows its changes.
        site: makes the configuration for the current users.
        patience: seconds that it runs on with the old users if the file cannot be read again.
    """

    def __init__(self, users: UsersFile, site: Callable[[Users], Site], patience: float) -> None:
        self._users, self._site, self._patience = users, site, patience

    async def run(self, listening: Callable[[Site], None], stopping: asyncio.Event) -> None:
        """Start it, keep its users up to date, stop it.

        Raises:
            BrokerError: Mosquitto is not installed, ended by itself, or was stopped because the
                users could not be read for too long.
        """
        follower = Follower(self._users.version, self._render, self._patience)
        site = follower.first
        child = await asyncio.create_subprocess_exec(find_mosquitto(), "-c", f"{site.folder}/mosquitto.conf")
        ended, stopped = asyncio.ensure_future(child.wait()), asyncio.ensure_future(stopping.wait())
        try:
            await self._until_it_listens(site, ended)
            listening(site)
            while not (await asyncio.wait({ended, stopped}, timeout=POLL_INTERVAL, return_when=asyncio.FIRST_COMPLETED))[0]:
                self._follow(follower, child)
            if ended.done() and not stopping.is_set():
                raise BrokerError(f"Mosquitto ended with code {child.returncode}")
        finally:
            stopped.cancel()
            await self._stop(child, ended)

    def _render(self) -> Site:
        site = self._site(self._users.load())
        write_files(render_mosquitto(site), Path(site.folder))
        return site

    def _follow(self, follower: Follower[Site], child: asyncio.subprocess.Process) -> None:
        """Write the files again. On SIGHUP Mosquitto reads them and disconnects removed users."""
        site = follower.poll(asyncio.get_running_loop().time())
        if site is not None:
            log.info("users reloaded count=%d", len(site.users))
            with contextlib.suppress(ProcessLookupError):
                child.send_signal(signal.SIGHUP)
        elif follower.is_blind:
            # It could serve nobody but the old users; those that were removed among them.
            raise BrokerError(f"{self._users.path}: not readable for {self._patience:g} s, so Mosquitto was stopped")

    async def _until_it_listens(self, site: Site, ended: "asyncio.Future[int]") -> None:
        deadline = asyncio.get_running_loop().time() + START_TIMEOUT
        while True:
            try:
                _, writer = await asyncio.open_connection(site.host, site.port)
            except OSError:
                if ended.done():
                    raise BrokerError(f"Mosquitto ended with code {ended.result()}; see its own message above") from None
                if asyncio.get_running_loop().time() > deadline:
                    raise BrokerError(f"Mosquitto does not listen on {site.host}:{site.port} after {START_TIMEOUT:g} s") from None
                await asyncio.sleep(0.05)
            else:
                writer.close()
                return

    async def _stop(self, child: asyncio.subprocess.Process, ended: "asyncio.Future[int]") -> None:
        if child.returncode is None:
            child.terminate()
            _, left = await asyncio.wait({ended}, timeout=STOP_TIMEOUT)
            if left:
                child.kill()
                await ended


def run_as() -> str | None:
    """The system user for Mosquitto, or None for its default.

    Root's Mosquitto would switch to a user that cannot read our files, so we tell it to stay root.
    """
    return getpass.getuser() if os.geteuid() == 0 else None
