"""Whether a device is online, pure. A late will must not undo a newer session.

See docs/contract.md, Status.
"""

from typing import Final

#: So many boots of a device are remembered. A will or status of an earlier one is not expected.
REMEMBERED: Final = 16


def seen(boots: tuple[str, ...], boot: str) -> tuple[str, ...]:
    """The boots of a device, oldest first, after a message of `boot`.

    A boot that was seen before does not become the newest again.
    """
    return boots if boot in boots else (*boots, boot)[-REMEMBERED:]


def counts(boots: tuple[str, ...], boot: str, *, online: bool) -> bool:
    """Whether a status of `boot` tells the present state, given the boots seen before it.

    A will never makes its boot the newest; any other message of an unknown boot does.
    """
    return boot == boots[-1] if boot in boots else online or not boots
