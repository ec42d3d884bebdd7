"""Folders that a user named: one must be there, or can be made."""

import os
from pathlib import Path

from facewire.errors import FacewireError
from facewire_system.failures import reason_of


def make_folder(folder: Path, mode: int = 0o777) -> None:
    """Make a folder and those above it, if they are missing. Raises `FacewireError`, names it."""
    try:
        folder.mkdir(mode, parents=True, exist_ok=True)
    except OSError as exc:
        raise FacewireError(f"{folder}: this folder cannot be made: {reason_of(exc)}") from exc


def not_made(file: Path, exc: OSError) -> str:
    """Why a file that the user did not name cannot be opened; names the folder if it is missing."""
    if os.path.lexists(file):
        return f"{file}: {reason_of(exc)}"
    return f"{file.parent}: cannot make {file.name} in it: {reason_of(exc)}"


def missing_folder(path: Path) -> str:
    """The problem if a file's folder is missing, else nothing: a system call names the file."""
    return "" if path.parent.is_dir() else f"there is no folder {path.parent}"
