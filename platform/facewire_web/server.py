"""The web server, in a process of its own: it takes only idle time from ingest.

    platform run ── starts, starts again ──▶ web process: uvicorn ─ HTTP ─ browsers
         │                                        │  its own session with the broker
         └── listening socket, bound once ────────┘  its own connections to the database, read only

The socket belongs to the parent. So an address that cannot be bound is an error at once, and
browsers wait in the backlog while the server starts again. The server ends with its parent, even
if the parent is killed.
"""

import asyncio
import contextlib
import logging
import multiprocessing
import multiprocessing.connection
import os
import signal
import socket
import threading
import time
from dataclasses import dataclass, field
from multiprocessing.context import SpawnProcess
from typing import Final

import uvicorn

from facewire.topics import Topics
from facewire_mqtt.address import Address, is_loopback
from facewire_platform.store.drivers import Location
from facewire_web.access import Access
from facewire_web.api import create_app
from facewire_web.connections import MAX_HEAD_BYTES, Connection
from facewire_web.live import Wall, run_wall

log = logging.getLogger(__name__)

#: Time for open answers to end, s; streams end at once.
GRACE: Final = 3
#: The process is killed after this time, s.
END_WITHIN: Final = 6.0
#: The wait before the server starts again doubles from the first value to the second, s; it
#: begins anew if the server lived for `LONG`.
RESTART_WAIT: Final = (1.0, 30.0)
LONG: Final = 60.0
#: Late connections end after so many ticks of uvicorn's, each of 0.1 s.
TICKS: Final = 10
#: Niceness of the process beside a worker: if the machine is too busy for both, ingest comes first.
NICE: Final = 10


@dataclass(frozen=True, slots=True)
class WebSettings:
    """The settings of a web server.

    Attributes:
        database: read, never written.
        address: the broker of the live wall; its credential must be able to subscribe to `match`,
            and should be to `status`.
        topics: where the devices publish.
        token: the token that clients must show; None only with a loopback address.
    """

    database: Location
    address: Address
    topics: Topics
    token: str | None = field(default=None, repr=False)


def listen(host: str, port: int, token: str | None) -> socket.socket:
    """Bind the address.

    Raises:
        ValueError: others can reach it and there is no token, or `Access` refuses the token.
        OSError: the address cannot be bound.
    """
    Access(token)
    if token is None and not is_loopback(host):
        raise ValueError(f"others can reach {host}, so they need a token")
    family, _, _, _, where = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    bound = socket.create_server(where[:2], family=family)
    shown, port = bound.getsockname()[:2]
    log.info("web page at http://%s:%d/", f"[{shown}]" if ":" in shown else shown, port)
    return bound


def serve_web(web: WebSettings, bound: socket.socket, ending: int) -> None:
    """Serve until the descriptor `ending` can be read, in the main thread."""
    # It warns of each bad request, so that anybody could fill the log.
    logging.getLogger("uvicorn").setLevel(max(logging.ERROR, logging.getLogger().level))
    asyncio.run(_serve(web, bound, ending))


async def _serve(web: WebSettings, bound: socket.socket, ending: int) -> None:
    wall = Wall()
    async with asyncio.TaskGroup() as both:
        feeding = both.create_task(run_wall(wall, web.address, web.topics))
        await web_server(web, wall, ending).serve(sockets=[bound])
        feeding.cancel()


def web_server(web: WebSettings, wall: Wall, ending: int) -> "WebServer":
    """A server that is not started yet. It ends when the descriptor `ending` can be read."""
    config = uvicorn.Config(
        create_app(web.database, wall, Access(web.token)),
        http=Connection,
        ws="none",
        h11_max_incomplete_event_size=MAX_HEAD_BYTES,
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=GRACE,
    )
    return WebServer(config, wall, ending)


class WebServer(uvicorn.Server):
    """Ends when a descriptor can be read, and its streams with it: uvicorn would wait for them."""

    def __init__(self, config: uvicorn.Config, wall: Wall, ending: int) -> None:
        super().__init__(config)
        self._wall, self._ending = wall, ending
        asyncio.get_running_loop().add_reader(ending, self._end)

    def capture_signals(self) -> contextlib.AbstractContextManager[None]:  # type: ignore[override]  # a generator's, in uvicorn
        # uvicorn would raise the signal again when all is done.
        return contextlib.nullcontext()

    async def on_tick(self, counter: int) -> bool:
        if counter % TICKS == 0:
            now = asyncio.get_running_loop().time()
            for connection in list(self.server_state.connections):
                if isinstance(connection, Connection):
                    connection.end_if_late(now)
        return await super().on_tick(counter)

    def _end(self) -> None:
        asyncio.get_running_loop().remove_reader(self._ending)
        self.should_exit = True
        self._wall.close()


class WebProcess:
    """A web server in a separate process, which starts again if it dies, until `close`.

    Args:
        web: its settings.
        bound: the socket on which it listens.
    """

    def __init__(self, web: WebSettings, bound: socket.socket) -> None:
        root = logging.getLogger()
        self._arguments = (web, bound, root.level, root.handlers[0].formatter if root.handlers else None)
        self._bound = bound
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._process: SpawnProcess | None = None
        self._thread = threading.Thread(target=self._supervise, name="web", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        """End it, within `END_WITHIN`."""
        with self._lock:
            self._stopping.set()
        if self._process is not None:
            self._process.terminate()
            self._thread.join(END_WITHIN)
            if self._thread.is_alive():
                self._process.kill()
        self._thread.join()
        self._bound.close()

    def __enter__(self) -> "WebProcess":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _supervise(self) -> None:
        wait = first = RESTART_WAIT[0]
        while process := self._start():
            began = time.monotonic()
            process.join()
            if self._stopping.is_set():
                return
            wait = first if time.monotonic() - began > LONG else wait
            log.error("web server died, starting it again in %g s: exit code %s", wait, process.exitcode)
            self._stopping.wait(wait)
            wait = min(2 * wait, RESTART_WAIT[1])

    def _start(self) -> SpawnProcess | None:
        """A new process; None after `close`."""
        with self._lock:
            if self._stopping.is_set():
                return None
            # Spawned, not forked: a fork would keep the locks of the parent's threads for ever.
            self._process = multiprocessing.get_context("spawn").Process(
                target=_run, args=self._arguments, name="facewire web", daemon=True
            )
            self._process.start()
            return self._process


def _run(web: WebSettings, bound: socket.socket, level: int, formatter: logging.Formatter | None) -> None:
    """The main function of the process; it logs like its parent."""
    os.nice(NICE)
    handler = logging.StreamHandler()
    handler.setFormatter(formatter)
    logging.basicConfig(level=level, handlers=[handler])
    # Ctrl-C on a terminal reaches both processes; the parent decides.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    ending, writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    signal.set_wakeup_fd(writer)
    signal.signal(signal.SIGTERM, lambda *_: None)  # the descriptor says it
    threading.Thread(target=_end_with_parent, args=(writer,), name="parent", daemon=True).start()
    serve_web(web, bound, ending)


def _end_with_parent(writer: int) -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        multiprocessing.connection.wait([parent.sentinel])
        os.write(writer, b"\0")
