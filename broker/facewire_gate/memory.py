"""A file in which a gate remembers the matches that it acted on, across its restarts.

Without it, a gate that restarts within seconds would act on a repeated match a second time.

    slot 0  {"n": 4096, "device": "lobby-1", "epoch": "9c…", "seq": 17} ␠␠␠ ⏎   192 bytes each
    slot 1  {"n": 1, …}                                                         the oldest is next

Each match is on the disk before the gate acts on it. A slot that a power cut left half written is
skipped: the gate had not acted on that match.
"""

import contextlib
import fcntl
import json
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

from facewire.errors import BrokerError

log = logging.getLogger(__name__)

#: Matches that it remembers: far more than a gate acts on while a match is fresh.
SLOTS: Final = 4_096
_SLOT_BYTES: Final = 192


class Acted(NamedTuple):
    """A match that was acted on."""

    device: str
    epoch: str
    seq: int


class Memory:
    """The file. One gate at a time may have it.

    Args:
        path: the file; it is made if it does not exist, for its owner only.

    Raises:
        BrokerError: it cannot be opened, or another gate has it.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        except OSError as exc:
            raise BrokerError(f"{path}: {exc.strerror}") from exc
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self.before = self._read()
        except OSError as exc:
            os.close(self._file)
            raise BrokerError(
                f"{path}: another gate has this file" if isinstance(exc, BlockingIOError) else f"{path}: {exc.strerror}"
            ) from exc

    def _read(self) -> list[Acted]:
        """The remembered matches, the oldest first."""
        found = dict(self._slots(os.pread(self._file, SLOTS * _SLOT_BYTES, 0)))
        self._count = max(found, default=-1) + 1
        return [found[number] for number in sorted(found)]

    def _slots(self, data: bytes) -> Iterator[tuple[int, Acted]]:
        for at in range(0, len(data), _SLOT_BYTES):
            with contextlib.suppress(ValueError, KeyError, TypeError):
                slot = json.loads(data[at : at + _SLOT_BYTES])
                if all(isinstance(slot[name], int) for name in ("n", "seq")):
                    yield slot["n"], Acted(str(slot["device"]), str(slot["epoch"]), slot["seq"])

    def add(self, acted: Acted) -> None:
        """Remember a match, durably, before it is acted on.

        If it cannot be written, say so and go on: a full disk must not lock a door.
        """
        text = json.dumps({"n": self._count, **acted._asdict()}).encode()
        try:
            os.pwrite(self._file, text.ljust(_SLOT_BYTES - 1) + b"\n", self._count % SLOTS * _SLOT_BYTES)
            os.fdatasync(self._file)
        except OSError as exc:
            log.warning("match not remembered path=%s error=%s", self._path, exc.strerror)
        self._count += 1

    def close(self) -> None:
        """Release the file. May be called twice."""
        file, self._file = self._file, -1
        if file >= 0:
            os.close(file)
