"""The `facewire` command as a process that tests may wait for, signal and kill."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, Self

from waiting import WITHIN

FACEWIRE = [sys.executable, "-P", "-m", "facewire_cli"]


class Running:
    """One process; `log` has its lines on stderr.

    Args:
        arguments: of `facewire`.
        stdin: whether it gets one to `write` to.
        command: what to run as `facewire`.
        env: more of its environment.
    """

    def __init__(
        self, *arguments: str | Path, stdin: bool = False, command: Sequence[str] = FACEWIRE, env: Mapping[str, str] = MappingProxyType({})
    ) -> None:
        self.log: list[str] = []
        self._changed, self._ended = threading.Condition(), False
        self.process = subprocess.Popen(
            [*command, *map(str, arguments)],
            stdin=subprocess.PIPE if stdin else subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            text=True,
            env={**os.environ, "PYTHONUNBUFFERED": "1", **env},
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def wait_for(self, text: str, within: float = WITHIN, times: int = 1) -> None:
        """Wait until its log has a text so many times."""
        self._wait_until(lambda: sum(text in line for line in self.log) >= times, within)

    def find(self, pattern: str) -> re.Match[str]:
        """Wait until the log matches a pattern."""
        self._wait_until(lambda: re.search(pattern, self.text) is not None, WITHIN)
        found = re.search(pattern, self.text)
        assert found is not None
        return found

    def write(self, *values: Any) -> None:
        """JSON Lines to its standard input."""
        self.write_lines(*map(json.dumps, values))

    def write_lines(self, *lines: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write("".join(line + "\n" for line in lines))
        self.process.stdin.flush()

    def close_stdin(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()

    @property
    def text(self) -> str:
        return "".join(self.log)

    def end(self, number: int = signal.SIGTERM, within: float = WITHIN) -> int:
        """Send a signal, and give back the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.wait(within)

    def wait(self, within: float = WITHIN) -> int:
        code = self.process.wait(within)
        self._reader.join(within)
        for pipe in (self.process.stdin, self.process.stderr):
            if pipe is not None:
                pipe.close()
        return code

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.end(signal.SIGKILL)

    def _wait_until(self, condition: Callable[[], bool], within: float) -> None:
        with self._changed:
            self._changed.wait_for(lambda: condition() or self._ended, within)
            assert condition(), self.text

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            with self._changed:
                self.log.append(line)
                self._changed.notify_all()
        with self._changed:
            self._ended = True
            self._changed.notify_all()


def ask(*arguments: str | Path) -> list[dict[str, Any]]:
    """The rows that a command prints as JSON Lines."""
    done = subprocess.run([*FACEWIRE, *map(str, arguments), "-o", "json"], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]
