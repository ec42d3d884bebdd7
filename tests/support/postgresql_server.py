"""A PostgreSQL that tests may kill and start again; it listens on a socket in a folder of its own."""

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
    """Where `initdb` is; Debian keeps it off the PATH."""
    found = shutil.which("initdb")
    if found:
        return Path(found).resolve().parent
    return max(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda folder: int(folder.parent.name), default=None)


PROGRAMS = _programs()


class PostgreSQL:
    """One cluster, through any number of lives.

    Args:
        settings: `name=value`, beside those that make tests fast; durability is off unless asked for.
    """

    def __init__(self, settings: Sequence[str] = ("fsync=off",)) -> None:
        if PROGRAMS is None:
            pytest.skip("PostgreSQL is not installed (apt-get install postgresql)")
        # Not below pytest's own folder: the path of a socket ends at 107 bytes, and root's folders are closed to others.
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
        """Stop it; `immediate` is as if power had failed."""
        self._run("pg_ctl", "-D", self._data, "-w", "-m", mode, "stop")

    def new_database(self) -> str:
        """The URL of a database that is empty."""
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
