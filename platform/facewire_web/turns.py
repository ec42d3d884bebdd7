"""Whose question is answered next: few at a time, in turn among the clients.

    ask ──▶ waiting, a queue for each client ──▶ begun ──▶ answered ──▶ end: the answer is taken
       └──▶ None: this client, or all together, have too many waiting

A client that asks a hundred questions waits for its own; a client that asks one waits for one of
each other client. A client that takes no answers gets no more of them, and keeps nobody waiting.
All of it belongs to one event loop.
"""

import asyncio
from collections import Counter, OrderedDict, deque
from typing import Final

#: Questions that are begun and not answered. Each may take a thread, a connection to the database,
#: and 160 MB in DuckDB (`columns.engine.MEMORY`).
MAX_RUNNING: Final = 4
#: Questions of one client that are begun, and whose answer it has not taken yet.
MAX_BEGUN_EACH: Final = 2
#: Questions that wait, of one client and of all together.
MAX_WAITING_EACH: Final = 16
MAX_WAITING: Final = 128


class Turn:
    """The turn of one question."""

    def __init__(self, client: str) -> None:
        self.client = client
        #: It is set once the question may be asked.
        self.begun = asyncio.Event()
        #: It is set once there is an answer.
        self.answered = asyncio.Event()


class Turns:
    """Gives turns to the questions of all clients."""

    def __init__(self) -> None:
        #: Begun, by client.
        self._begun: Counter[str] = Counter()
        #: By client, the client whose turn is next first.
        self._waiting: OrderedDict[str, deque[Turn]] = OrderedDict()
        #: Begun and not answered.
        self.running = 0
        #: Questions that were refused.
        self.refused = 0

    @property
    def waiting(self) -> int:
        return sum(map(len, self._waiting.values()))

    def ask(self, client: str) -> Turn | None:
        """A turn, which has to be given to `end`; None if too many wait."""
        if len(self._waiting.get(client, ())) >= MAX_WAITING_EACH or self.waiting >= MAX_WAITING:
            self.refused += 1
            return None
        turn = Turn(client)
        self._waiting.setdefault(client, deque()).append(turn)
        self._begin()
        return turn

    def answer(self, turn: Turn) -> None:
        """There is an answer, which the client may take now."""
        if not turn.answered.is_set():
            turn.answered.set()
            self.running -= 1
            self._begin()

    def end(self, turn: Turn) -> None:
        """The client has taken the answer, or left."""
        if turn.begun.is_set():
            self.answer(turn)
            self._begun -= Counter([turn.client])
        else:
            self._take(turn)
        self._begin()

    def _begin(self) -> None:
        while self.running < MAX_RUNNING:
            client = next((client for client in self._waiting if self._begun[client] < MAX_BEGUN_EACH), None)
            if client is None:
                return
            turn = self._waiting[client][0]
            self._take(turn)
            if client in self._waiting:
                self._waiting.move_to_end(client)
            self._begun[client] += 1
            self.running += 1
            turn.begun.set()

    def _take(self, turn: Turn) -> None:
        queue = self._waiting[turn.client]
        queue.remove(turn)
        if not queue:
            del self._waiting[turn.client]
