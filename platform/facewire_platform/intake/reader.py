"""Reads a queued message. If it cannot be read, the quarantine gets it."""

import logging

from facewire.errors import BatchRefused, DecodeError, ProtocolError
from facewire.messages import Ack, decode
from facewire.topics import Topics
from facewire_platform.intake.decoder import unpack
from facewire_platform.intake.inbox import Queued
from facewire_platform.store.rows import Rows
from facewire_platform.store.writer import Message, Unreadable

log = logging.getLogger(__name__)


def read(queued: Queued, topics: Topics, rows: type[Rows], now_ms: int) -> list[Message]:
    """Decode a message; a refused batch becomes two, one for the quarantine and one to be answered.

    Args:
        queued: its topic and payload may be anything.
        topics: the topics on which the devices publish.
        rows: the form of a packed batch.
        now_ms: platform clock, ms since 1970 UTC.
    """
    device, payload = "", queued.payload
    try:
        device, kind = topics.parse(queued.topic)
        body = decode(kind, payload) if queued.packed is None else unpack(queued.packed, rows)
        if not isinstance(body, Ack):
            return [Message(device, body, now_ms, queued.retained)]
        reason = "an ack is not for us"
    except BatchRefused as exc:
        return [Message(device, body, now_ms) for body in (Unreadable(queued.topic, str(exc), payload), exc)]
    except (DecodeError, ProtocolError) as exc:
        reason = str(exc)
    except Exception as exc:
        log.exception("message cannot be read topic=%r", queued.topic)
        reason = f"internal error: {type(exc).__name__}"
    return [Message(device, Unreadable(queued.topic, reason, payload), now_ms)]
