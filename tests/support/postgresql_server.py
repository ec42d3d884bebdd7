"""A PostgreSQL server that tests may kill and start again. It listens on a Unix socket."""

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

import pytest


def _programs() -> Path | None:
    """The folder of `initdb`, which Debian keeps off the PATH."""
    found = shutil.which("initdb")
    if found:
        return Path(found).resolve().parent
    return max(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda folder: int(folder.parent.name), default=None)


PROGRAMS = _programs()


class PostgreSQL:
    """One cluster, which may be stopped and started again.

    Args:
        settings: `name=value`; by default durability is off, which makes tests fast.
    """

    def __init__(self, settings: Sequence[str] = ("fsync=off",)) -> None:
        if PROGRAMS is None:
            pytest.skip("PostgreSQL is not installed (apt-get install postgresql)")
        # Not below pytest's folder: a socket's path may have 107 bytes, and others cannot enter
        # root's folders.
        self._folder = Path(tempfile.mkdtemp(prefix="fwpg-"))
        self._settings = [f"-c{setting}" for setting in ("listen_addresses=", f"unix_socket_directories={self._folder}", *settings)]
        self._databases = 0
        # PostgreSQL refuses to run as root.
        self._user = "postgres" if os.geteuid() == 0 else None
        if self._user:
            shutil.chown(self._folder, self._user)
        self._data = self._folder / "data"
        self._run("initdb", "-D", self._data, "-U", "facewire", "-A", "trust", "-E", "UTF8", "--no-sync", "--locale=C.UTF-8")
        self.start()

    def start(self) -> None:
        options = " ".join(f"'{setting}'" for setting in self._settings)
        self._run("pg_ctl", "-D", self._data, "-w", "-l", self._folder / "log", "-o", options, "start")

    def stop(self, mode: str = "fast") -> None:
        """Stop it; `immediate` is like a power cut."""
        self._run("pg_ctl", "-D", self._data, "-w", "-m", mode, "stop")

    def new_database(self) -> str:
        """The URL of a new, empty database."""
        self._databases += 1
        name = f"facewire_{self._databases}"
        self._run("createdb", "-h", self._folder, "-U", "facewire", name)
        return f"postgresql://facewire@/{name}?host={self._folder}"

    def close(self) -> None:
        pid = self._data / "postmaster.pid"
        if pid.exists():
            os.kill(int(pid.read_text().split()[0]), signal.SIGQUIT)
        shutil.rmtree(self._folder, ignore_errors=True)

    def _run(self, program: str, *arguments: str | Path) -> None:
        assert PROGRAMS is not None
        as_user = {"user": self._user, "group": pwd.getpwnam(self._user).pw_gid, "extra_groups": []} if self._user else {}
        subprocess.run(
            [PROGRAMS / program, *arguments],
            check=True,
            cwd=self._folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            **as_user,  # type: ignore[call-overload]  # mypy cannot match a mapping to keywords
        )
