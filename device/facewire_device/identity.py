"""Identities: random ones for stores and runs, and the machine's own.

With the machine's identity a store notices that its card was cloned (docs/contract.md, Device,
rule 7).
"""

import contextlib
import hashlib
import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import Final

#: The first that exists counts. A board's serial number cannot be cloned. /etc/machine-id is cloned
#: with its card, but some machines have nothing else. Files that only root may read are left out,
#: because the identity must not depend on the user who runs the process.
SOURCES: Final = (Path("/sys/firmware/devicetree/base/serial-number"), Path("/proc/device-tree/serial-number"), Path("/etc/machine-id"))


def new_id() -> str:
    """A new epoch or boot: 16 random hex digits."""
    return secrets.token_hex(8)


def machine_identity(sources: Sequence[Path] = SOURCES) -> str | None:
    """A name for this machine, 16 hex digits; None if no source exists."""
    for source in sources:
        with contextlib.suppress(OSError):
            text = source.read_bytes().strip(b"\0\n ")
            if text:
                return hashlib.sha256(text).hexdigest()[:16]
    return None
