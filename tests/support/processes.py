"""The processes that a process started."""

from pathlib import Path


def children(pid: int, command: str = "") -> list[int]:
    """Those with this text in their command line, whichever thread started them."""
    found = [child for task in Path(f"/proc/{pid}/task").iterdir() for child in (task / "children").read_text().split()]
    return [int(child) for child in found if not command or command in Path(f"/proc/{child}/cmdline").read_text()]
