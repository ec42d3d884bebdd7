"""Whether a device is online, pure: a will that comes late must not undo a newer session (docs/contract.md, Status)."""

from typing import Final

#: Boots remembered of a device; a will or status later than this many restarts is not to be expected.
REMEMBERED: Final = 16


def seen(boots: tuple[str, ...], boot: str) -> tuple[str, ...]:
    """The boots of a device, oldest first, after a message of `boot`; a boot seen before does not become the newest again."""
    return boots if boot in boots else (*boots, boot)[-REMEMBERED:]


def counts(boots: tuple[str, ...], boot: str, *, online: bool) -> bool:
    """Whether a status of `boot` says how the device is now, given the boots seen before it.

    A will never makes its boot the newest; any other message of an unknown boot does.
    """
    return boot == boots[-1] if boot in boots else online or not boots
