"""Identities: of a store or a run, made at random; of the machine, found, so that a store on a cloned card is noticed.

The machine is docs/contract.md, Device, rule 7.
"""

import contextlib
import hashlib
import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import Final

#: First found counts. A board's serial number cannot be cloned; /etc/machine-id is cloned with its card, but all that
#: some machines have. What only root may read is left out: the identity must not change with who asks.
SOURCES: Final = (Path("/sys/firmware/devicetree/base/serial-number"), Path("/proc/device-tree/serial-number"), Path("/etc/machine-id"))


def new_id() -> str:
    """A new epoch or boot: 16 random hex digits."""
    return secrets.token_hex(8)


def machine_identity(sources: Sequence[Path] = SOURCES) -> str | None:
    """A name for this machine, 16 hex digits; None where nothing tells."""
    for source in sources:
        with contextlib.suppress(OSError):
            text = source.read_bytes().strip(b"\0\n ")
            if text:
                return hashlib.sha256(text).hexdigest()[:16]
    return None
