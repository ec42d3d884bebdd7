"""For gates and greeters: iterate over the matches that you may act on.

    from facewire_gate import fresh_matches

    with fresh_matches(Address("broker", username="gate-1", password=...)) as matches:
        for fresh in matches:
            open_door(fresh.match.event.identity_id)

`freshness` decides (pure), `matches` receives. docs/consumers.md explains how.
"""

from facewire_gate.freshness import Limits
from facewire_gate.matches import FreshMatch, fresh_matches, fresh_matches_async

__all__ = ["FreshMatch", "Limits", "fresh_matches", "fresh_matches_async"]
