"""`facewire broker run` as a process."""

import contextlib
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

FACEWIRE = str(Path(sys.executable).with_name("facewire"))


class Listening(NamedTuple):
    host: str
    port: int
    #: Lines on standard error, up to the one that names the address.
    lines: tuple[str, ...] = ()


@contextmanager
def broker_process(*arguments: str, command: Sequence[str] = ()) -> Iterator[tuple[subprocess.Popen[str], Listening]]:
    """A broker process, once it listens. `command` runs it, if given."""
    with subprocess.Popen([*command, FACEWIRE, "broker", "run", *arguments], stderr=subprocess.PIPE, text=True) as running:
        try:
            assert running.stderr is not None
            lines = []
            for line in running.stderr:
                lines.append(line)
                if match := re.fullmatch(r"listening address=\[?([^\]]+)\]?:(\d+)\n", line):
                    break
            else:
                raise AssertionError("it ended without listening")
            yield running, Listening(match[1], int(match[2]), tuple(lines))
        finally:
            # Not killed at once: a Mosquitto that it started would live on.
            running.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                running.wait(6)
            running.kill()
