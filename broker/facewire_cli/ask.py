"""Runs another facewire command and reads its rows: the way from one side to another."""

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from typing import Any, Final

import click

from facewire.errors import FacewireError

#: This command line. -P: the working directory may hold a folder `platform/`.
FACEWIRE: Final = (sys.executable, "-P", "-m", "facewire_cli")


def rows_of(*words: str) -> Iterator[dict[str, Any]]:
    """Run a command that writes JSON Lines, and yield each row when it is written.

    Raises:
        click.UsageError: the command refused its arguments (exit code 2); says why.
        FacewireError: the command failed; quotes its last line.
    """
    with tempfile.TemporaryFile("w+") as notices:
        with subprocess.Popen([*FACEWIRE, *words], stdout=subprocess.PIPE, stderr=notices, text=True, encoding="utf-8") as process:  # noqa: S603  # ourselves
            assert process.stdout is not None  # noqa: S101  # it is a pipe
            yield from map(json.loads, process.stdout)
        if process.returncode:
            notices.seek(0)
            said = notices.read().strip()
            reason = said.splitlines()[-1].removeprefix("Error: ") if said else f"exit code {process.returncode}"
            raise click.UsageError(reason) if process.returncode == 2 else FacewireError(f"facewire {words[0]}: {reason}")
