"""Standard output and standard error whose reader may go, or whose disk may be full.

Output is what a command is for, so the first write that fails ends it: with code 0 if the reader
has gone, as `head` does, otherwise with an error. Notices and logs are not, so they end nothing.
"""

import io
import os
import sys
from typing import TYPE_CHECKING, TextIO

import click

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer


def guard_streams() -> None:
    """Replace `sys.stdout` and `sys.stderr` by streams that behave so; one that is closed stays."""
    if sys.stdout is not None:
        sys.stdout = _over(_Output(sys.stdout.fileno(), "wb", closefd=False), sys.stdout)
    if sys.stderr is not None:
        sys.stderr = _over(_Notices(sys.stderr.fileno(), "wb", closefd=False), sys.stderr)


class _Output(io.FileIO):
    def write(self, data: "ReadableBuffer", /) -> int:
        try:
            return super().write(data)
        except OSError as exc:
            # Python flushes again when it ends, and would complain.
            os.dup2(os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC), self.fileno())
            if isinstance(exc, BrokenPipeError):
                raise click.exceptions.Exit(0) from exc
            raise click.ClickException(f"standard output: {exc.strerror}") from exc


class _Notices(io.FileIO):
    def write(self, data: "ReadableBuffer", /) -> int:
        try:
            return super().write(data)
        except OSError:
            return memoryview(data).nbytes


def _over(raw: io.FileIO, before: TextIO) -> TextIO:
    assert isinstance(before, io.TextIOWrapper)  # noqa: S101  # Python's own is one
    before.flush()
    return io.TextIOWrapper(
        io.BufferedWriter(raw), before.encoding, before.errors, line_buffering=before.line_buffering, write_through=before.write_through
    )
