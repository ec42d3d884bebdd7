"""Which reasons for having no connection are news: each change of reason, once. Pure."""

from typing import Final

#: A reason that comes back after so long, s, is news again. Two that alternate, as of a name with
#: two addresses, are not.
NEWS_AFTER: Final = 600.0
#: A text that differs each time takes no more memory than this many.
_MOST: Final = 20


class Reasons:
    """The reasons of one outage after another."""

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
