"""A bounded folder of photographs beside a store, each in a file that is named by its SHA-256.

    lobby-1.db.photos/9f/9f86d081884c7d65…

A photograph is written once, durably, before its event is recorded. When the folder is full, the
oldest photographs make room. So a photograph may be lost, and its event still names it; but no
event is ever lost because of a photograph.
"""

import contextlib
import errno
import logging
import os
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from facewire.errors import StoreError
from facewire.photographs import Photograph

log = logging.getLogger(__name__)

#: What a folder holds unless the settings say otherwise, bytes.
DEFAULT_BYTES: Final = 1 << 30
#: Room is made down to this share of the limit, so that it is not made for each photograph.
_DOWN_TO: Final = 0.9


def photos_of(store: Path) -> Path:
    """The folder beside a store."""
    return store.with_name(store.name + ".photos")


class PhotoFolder:
    """The folder; may be used from several threads and processes.

    Args:
        path: the folder; made when the first photograph comes.
        limit_bytes: what it holds at most.
    """

    def __init__(self, path: Path, limit_bytes: int = DEFAULT_BYTES) -> None:
        self.path = path
        self._limit = limit_bytes
        self._lock = threading.Lock()
        self._held: int | None = None

    def keep(self, photographs: Iterable[Photograph]) -> None:
        """Keep photographs, durably.

        Raises:
            StoreError: the disk does not take them.
        """
        try:
            with self._lock:
                for folder in {self._keep(photograph) for photograph in photographs}:
                    if folder is not None:
                        _sync(folder)
        except OSError as exc:
            raise StoreError(f"{self.path}: {exc.strerror or exc}") from exc

    def keep_or_lose(self, photographs: Iterable[Photograph]) -> None:
        """Keep photographs, or lose them if the disk refuses them: their event must not wait."""
        for photograph in photographs:
            try:
                self.keep([photograph])
            except StoreError as exc:
                log.error("photograph lost sha256=%s error=%s", photograph.sha256, exc)  # noqa: TRY400  # expected

    def read(self, sha256: str) -> bytes | None:
        """A photograph; None if it is not here, or no longer."""
        with contextlib.suppress(FileNotFoundError):
            return self._place(sha256).read_bytes()
        return None

    def listed(self) -> list[tuple[int, int, Path]]:
        """Each file in the folder, oldest first: time written (ns since 1970 UTC), size, path."""
        return sorted(self._files())

    def _keep(self, photograph: Photograph) -> Path | None:
        """Keep a photograph but for its name, which is durable once the folder is synced."""
        place = self._place(photograph.sha256)
        if place.exists():
            os.utime(place)  # the picture of an enrolled person comes with each of their events: it is not old
            return None
        self._make_room(len(photograph.data), self._limit)
        try:
            self._write(place, photograph.data)
        except OSError as exc:
            if exc.errno != errno.ENOSPC or not self._held:
                raise
            # The disk is smaller than the limit. Events need room more than old photographs do.
            self._make_room(len(photograph.data), self._held)
            self._write(place, photograph.data)
        self._held = (self._held or 0) + len(photograph.data)
        return place.parent

    def _place(self, sha256: str) -> Path:
        return self.path / sha256[:2] / sha256

    def _make_folder(self, folder: Path) -> None:
        is_first = not self.path.is_dir()
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        _sync(self.path)
        if is_first:
            _sync(self.path.parent)

    def _write(self, place: Path, data: bytes) -> None:
        try:
            _write_durably(place, data)
        except FileNotFoundError:
            self._make_folder(place.parent)
            _write_durably(place, data)

    def _make_room(self, size_bytes: int, limit: int) -> None:
        if self._held is None:
            self._held = sum(size for _, size, _ in self._files())
        if self._held + size_bytes <= limit:
            return
        wanted = limit * _DOWN_TO - size_bytes
        dropped = 0
        for _, size, path in self.listed():
            if self._held <= wanted:
                break
            path.unlink(missing_ok=True)
            self._held -= size
            dropped += 1
        log.warning("photographs dropped folder=%s count=%d limit_bytes=%d", self.path, dropped, limit)

    def _files(self) -> list[tuple[int, int, Path]]:
        """When each was written, its size, where it is."""
        found = []
        for path in self.path.glob("??/*"):
            with contextlib.suppress(FileNotFoundError):
                stat = path.stat()
                found.append((stat.st_mtime_ns, stat.st_size, path))
        return found


def _write_durably(place: Path, data: bytes) -> None:
    new = place.with_name(f"{place.name}.{os.getpid()}.new")
    try:
        # Unbuffered: each call into the system is one more turn for other threads.
        fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        try:
            left = memoryview(data)
            while left:
                left = left[os.write(fd, left) :]
            os.fsync(fd)
        finally:
            os.close(fd)
        new.replace(place)
    except BaseException:
        new.unlink(missing_ok=True)
        raise


def _sync(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
