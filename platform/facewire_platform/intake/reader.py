"""Reads what came: one message, or what is to be kept of one that cannot be read."""

import logging
from typing import NamedTuple

from facewire.errors import BatchRefused, DecodeError, ProtocolError
from facewire.messages import Ack, decode
from facewire.topics import Topics
from facewire_platform.intake.decoder import unpack
from facewire_platform.intake.inbox import Arrived
from facewire_platform.store.rows import Rows
from facewire_platform.store.writer import Taken, Unreadable

log = logging.getLogger(__name__)


class Held(NamedTuple):
    """A message that is not stored yet; a batch that is refused is two of them."""

    arrived: Arrived
    taken: Taken


def read(arrived: Arrived, topics: Topics, rows: type[Rows], now_ms: int) -> list[Held]:
    """Decode a message.

    Args:
        arrived: as it came; it may be anything.
        topics: where the devices publish.
        rows: what was packed is in this form.
        now_ms: platform clock, ms since 1970 UTC.
    """
    device, payload = "", arrived.payload
    try:
        device, kind = topics.parse(arrived.topic)
        message = decode(kind, payload) if arrived.packed is None else unpack(arrived.packed, rows)
        if not isinstance(message, Ack):
            return [Held(arrived, Taken(device, message, now_ms, arrived.retained))]
        reason = "an ack is not for us"
    except BatchRefused as exc:
        return [Held(arrived, Taken(device, message, now_ms)) for message in (Unreadable(arrived.topic, str(exc), payload), exc)]
    except (DecodeError, ProtocolError) as exc:
        reason = str(exc)
    except Exception as exc:
        log.exception("message cannot be read topic=%r", arrived.topic)
        reason = f"internal error: {type(exc).__name__}"
    return [Held(arrived, Taken(device, Unreadable(arrived.topic, reason, payload), now_ms))]
