"""The reasons for having no connection: their words, and which are news. Pure."""

from typing import Final

from facewire_mqtt.happenings import Reached

#: A reason that comes back after so long, s, is news again. Two that alternate, as of a name with
#: two addresses, are not.
NEWS_AFTER: Final = 600.0
#: A text that differs each time takes no more memory than this many.
_MOST: Final = 20


def reason_of_end(code: int, reached: Reached, *, tls: bool) -> str:
    """Why a session ended without a word of the broker; `code` is of MQTT 5 (section 2.4)."""
    answered = reached == "broker"
    match code:
        case 0x82:  # Protocol error
            reason = "the broker broke the MQTT protocol" if answered else "the answer is not MQTT 3.1.1"
        case 0x8D:  # Keep Alive timeout
            reason = "the broker answered no ping"
        case _:
            reason = "the broker closed the connection" if answered else "the connection was closed before an answer"
    return reason + doubt(reached, tls=tls)


def doubt(reached: Reached, *, tls: bool) -> str:
    """The end of a reason, if the program at the port may be no broker."""
    if reached != "port":
        return ""
    return f": another port, or {'our certificate (cert)' if tls else 'TLS (cafile)'}?"


class Reasons:
    """The reasons of one outage after another: each change is news once."""

    def __init__(self) -> None:
        self._said: dict[str, float] = {}
        self._last = ""

    def is_news(self, reason: str, now: float) -> bool:
        """Whether to say that there is no connection for this reason. `now`: monotonic seconds."""
        changed = reason != self._last and now - self._said.get(reason, -NEWS_AFTER) >= NEWS_AFTER
        self._last = reason
        if changed:
            self._said = dict(list(self._said.items())[-_MOST:]) | {reason: now}
        return changed

    def connected(self) -> None:
        """The outage is over."""
        self._said.clear()
        self._last = ""
