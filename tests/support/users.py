"""Real users of the system, each a process that works for a test under their ids."""

import contextlib
import importlib
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import pytest
from device_events import event
from platform_model import batch
from platform_store import store_batches

import facewire_cli.main
from facewire_device.store import Store, open_store
from facewire_device.store_file import lock_for_agent
from facewire_platform.store import writer

#: The agent's user, which owns the folder and has its own group; another one in this group.
AGENT: Final = 61_001
RECORDER: Final = 61_002

# Before a process becomes another user, who may have no access to the libraries.
for _where, *_ in facewire_cli.main.COMMANDS.values():
    importlib.import_module(str(_where).partition(":")[0])

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(["facewire_device_cli.device", "pytest"])


class User:
    """A process of a user. Each method runs there, and raises here what it raises there."""

    def __init__(self, uid: int, groups: tuple[int, ...] = (), umask: int = 0o022) -> None:
        self._ours, theirs = _context.Pipe()
        self._process = _context.Process(target=_serve, args=(theirs, uid, groups, umask))
        self._process.start()
        theirs.close()

    def ask(self, work: Callable[..., Any], *args: Any) -> Any:
        """The result of a module's function; as first argument it is given what this user keeps."""
        self._ours.send((work, args))
        result = self._ours.recv()
        if isinstance(result, Exception):
            raise result
        return result

    def open(self, path: Path) -> None:
        self.ask(_open, path)

    def append(self, number: int) -> int:
        """Record an event; returns its seq."""
        seq: int = self.ask(_append, number)
        return seq

    def close(self) -> None:
        self.ask(_close)

    def command(self, *arguments: str) -> int:
        """The exit code of a `facewire` command."""
        code: int = self.ask(_command, arguments)
        return code

    def open_platform(self, path: Path) -> None:
        self.ask(_open_platform, path)

    def store_batch(self, seq: int) -> None:
        self.ask(_store_batch, seq)

    def lock(self, path: Path) -> None:
        self.ask(_lock, path)

    def kill(self) -> None:
        if (pid := self._process.pid) is not None and self._process.is_alive():
            os.kill(pid, signal.SIGKILL)
        self._process.join()
        self._ours.close()


@contextlib.contextmanager
def shared_folder(mode: int) -> Iterator[Path]:
    """A folder of the agent's user, which every user can reach."""
    if os.geteuid() != 0:
        pytest.skip("only root can become other users")
    with TemporaryDirectory(dir="/tmp") as name:  # pytest's folders are for root alone
        Path(name).chmod(0o711)
        folder = Path(name) / "state"
        folder.mkdir()
        os.chown(folder, AGENT, AGENT)
        folder.chmod(mode)
        yield folder


@contextlib.contextmanager
def new_users() -> Iterator[Callable[..., User]]:
    """Makes users, whose processes end with the block."""
    with contextlib.ExitStack() as made:

        def new(*args: Any, **options: Any) -> User:
            user = User(*args, **options)
            made.callback(user.kill)
            return user

        yield new


def _serve(pipe: Any, uid: int, groups: tuple[int, ...], umask: int) -> None:
    os.setgroups(groups)
    os.setgid(uid)
    os.setuid(uid)
    os.umask(umask)
    opened: dict[str, Any] = {}
    with contextlib.suppress(EOFError):
        while True:
            work, args = pipe.recv()
            try:
                pipe.send(work(opened, *args))
            except Exception as exc:  # noqa: BLE001  # raised in the test
                pipe.send(exc)


def _open(opened: dict[str, Any], path: Path) -> None:
    opened["store"] = open_store(path)


def _append(opened: dict[str, Any], number: int) -> int:
    store: Store = opened["store"]
    return store.append([event(number)]).last


def _close(opened: dict[str, Any]) -> None:
    opened.pop("store").close()


def _lock(opened: dict[str, Any], path: Path) -> None:
    opened["lock"] = lock_for_agent(path)


def _command(_opened: dict[str, Any], arguments: tuple[str, ...]) -> int:
    sys.argv = ["facewire", *arguments]
    try:
        facewire_cli.main.main()
    except SystemExit as exc:
        return int(exc.code or 0)
    return 0


def _open_platform(opened: dict[str, Any], path: Path) -> None:
    opened["store"] = writer.open_store(path)


def _store_batch(opened: dict[str, Any], seq: int) -> None:
    store_batches(opened["store"], batch(seq - 1, seq, seq))
