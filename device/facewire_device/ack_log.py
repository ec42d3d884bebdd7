"""Logs an ack and its outcome."""

import logging

from facewire.messages import Ack
from facewire_device.ring import Ring
from facewire_device.uploader import Adopt, Fork, Ignore, Outcome, Retry

log = logging.getLogger(__name__)


def log_ack(ack: Ack, outcome: Outcome, ring: Ring) -> None:
    """Log an ack; `ring` is the state of the store after its outcome."""
    match outcome:
        case Ignore():
            log.debug("ignored ack key=%d: not the batch in flight", ack.key)
            return
        case Retry(error):
            log.error("platform refused the batch key=%d error=%s", ack.key, error)
            return
        case Adopt(cursor):
            log.debug("acked cursor=%d head=%d", cursor, ring.head)
        case Fork():
            _log_gone(ack, ring)
    if ack.retry_after:
        log.info("platform asks for patience seconds=%.0f", ack.retry_after / 1000)
    for rejected in ack.rejected:
        log.warning("platform quarantined an event seq=%s reason=%s", rejected.seq, rejected.reason)


def _log_gone(ack: Ack, forked: Ring) -> None:
    """Say how many events the platform has that are gone here, for example with the WAL."""
    before = forked.origins[0]
    if ack.cursor > before.last:
        log.warning(
            "store lost its tail epoch=%s head=%d platform_head=%d gone=%d", ack.epoch, before.last, ack.cursor, ack.cursor - before.last
        )
