"""Faults of a disk in real processes (faults.c): death at each step, an errno, a delay.

Run as a program, it is the process of `die_at_each_step`.
"""

import atexit
import ctypes
import functools
import importlib
import itertools
import logging
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from tempfile import mkdtemp
from typing import Final

import pytest

SOURCE: Final = Path(__file__).with_name("faults.c")


@functools.cache
def _library() -> Path:
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler is installed")
    folder = Path(mkdtemp(prefix="facewire-faults-"))
    atexit.register(shutil.rmtree, folder)
    built = folder / "faults.so"
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", built, SOURCE], check=True)
    return built


def faulty(folder: Path, settings: Path | None = None) -> dict[str, str]:
    """The environment of a process whose files in `folder` have the faults in `settings`."""
    return {**os.environ, "LD_PRELOAD": str(_library()), "FAULTS_FOLDER": str(folder), "FAULTS_FILE": str(settings or "")}


def die_at_each_step(
    folder: Path, work: Callable[[Path], object], before: Callable[[Path], object] = Path.exists, *, halves: bool = True
) -> list[Path]:
    """Run `work` in processes that die at the first, second, … change of a file below `folder`.

    Args:
        folder: where each process gets a folder of its own.
        work: is given the path of a store in it; a function of a module in this folder, as is
            `before`.
        before: is given the same first, and never dies.
        halves: die in the middle of each write too.

    Returns:
        The stores, one for each death.
    """
    command = [sys.executable, __file__, str(folder), str(1 + halves), work.__module__, work.__name__, before.__name__]
    subprocess.run(command, env=faulty(folder) | {"PYTHONPATH": str(SOURCE.parent)}, check=True)
    stores = sorted(died.with_name("store.db") for died in folder.glob("*/died"))
    assert stores, "no process died"
    return stores


def _die_at_each_step(root: Path, ways: int, work: Callable[[Path], object], before: Callable[[Path], object]) -> None:
    library = ctypes.CDLL(os.environ["LD_PRELOAD"])
    logging.disable()
    for step, half in ((step, half) for step in itertools.count(1) for half in range(ways)):
        path = root / f"{step:03}-{half}" / "store.db"
        path.parent.mkdir()
        if not (child := os.fork()):
            before(path)
            library.faults_kill_at(ctypes.c_long(step), half)
            work(path)
            os._exit(0)
        status = os.waitpid(child, 0)[1]
        if status == 0:
            return
        assert os.WIFSIGNALED(status), status
        assert os.WTERMSIG(status) == signal.SIGKILL, status
        path.with_name("died").touch()


if __name__ == "__main__":
    module = importlib.import_module(sys.argv[3])
    _die_at_each_step(Path(sys.argv[1]), int(sys.argv[2]), *(getattr(module, name, Path.exists) for name in sys.argv[4:]))
