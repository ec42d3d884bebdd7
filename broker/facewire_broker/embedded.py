"""A broker beside other code, in its own thread and event loop: for tests and small programs."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from facewire.errors import BrokerError
from facewire_broker.broker import Broker
from facewire_mqtt.address import Address

T = TypeVar("T")


class Embedded:
    """A running broker in its own thread; `close` ends it.

    Args:
        listen: the address; by default a free port on loopback.
        options: those of `Broker`.

    Raises:
        BrokerError: it cannot listen on the address.
    """

    def __init__(self, listen: Address | None = None, **options: Any) -> None:
        self._listen = listen or Address(port=0)
        self._options = options
        self._ready = threading.Event()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="broker", daemon=True)
        self._thread.start()
        self._ready.wait()
        if self._error is not None:
            raise self._error

    @property
    def address(self) -> Address:
        """The address for clients."""
        return self.broker.address

    def call(self, function: Callable[[Broker], T], timeout: float = 5.0) -> T:
        """Run a function on the broker's thread and return its result."""

        async def run() -> T:
            return function(self.broker)

        return asyncio.run_coroutine_threadsafe(run(), self._loop).result(timeout)

    def close(self, timeout: float = 6.0) -> None:
        """Shut the broker down. May be called twice."""
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._stopping.set)
            self._thread.join(timeout)

    def _run(self) -> None:
        try:
            asyncio.run(self._serve())
        except BrokerError as exc:
            self._error = exc
        finally:
            self._ready.set()

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._stopping = asyncio.Event()
        self.broker = Broker(self._listen, **self._options)
        await self.broker.start()
        self._ready.set()
        await self._stopping.wait()
        await self.broker.shutdown()


@contextmanager
def running(port: int = 0, **options: Any) -> Iterator[Address]:
    """Run an anonymous broker on loopback during a `with` block; give its address."""
    embedded = Embedded(Address(port=port), **options)
    try:
        yield embedded.address
    finally:
        embedded.close()
