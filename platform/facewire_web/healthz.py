"""Whether the database can be read: one look serves all who ask, for anybody may."""

import asyncio
import logging
from typing import Final

from facewire.errors import StoreError
from facewire_platform.history.queries import History
from facewire_platform.store.drivers import Location

log = logging.getLogger(__name__)

#: A look is good for this long, s.
GOOD_FOR: Final = 1.0


class Health:
    """Looks at one database, on one thread at most."""

    def __init__(self, database: Location) -> None:
        self._database = database
        self._looking: asyncio.Task[bool] | None = None
        self._good_until = 0.0

    async def is_readable(self) -> bool:
        """Whether it can be read now, or could be a moment ago."""
        now = asyncio.get_running_loop().time()
        if self._looking is None or (self._looking.done() and now >= self._good_until):
            self._looking = asyncio.create_task(self._look())
        return await asyncio.shield(self._looking)

    async def _look(self) -> bool:
        try:
            await asyncio.to_thread(lambda: History(self._database).close())
        except StoreError as exc:
            log.error("unhealthy error=%s", exc)  # noqa: TRY400  # an outage, no bug of ours
            return False
        else:
            return True
        finally:
            self._good_until = asyncio.get_running_loop().time() + GOOD_FOR
