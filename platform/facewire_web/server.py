"""The web server, in a process of its own: whoever looks at the page takes nothing from ingest but the machine's idle time.

    platform run ── starts, starts again ──▶ web process: uvicorn ─ HTTP ─ browsers
         │                                        ├─ its own session with the broker, for the live wall
         └── listening socket, bound once ────────┘  its own connections to the database, reading only

The socket belongs to the parent: where nothing can listen is known at once, and while the server is started again browsers
wait in the backlog instead of being refused. The server ends with its parent, also one that was killed.
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
from facewire_web.live import Wall, run_wall

log = logging.getLogger(__name__)

#: Answers under way have this long to end, s; streams end at once.
GRACE: Final = 3
#: After which the process is killed, s.
END_WITHIN: Final = 6.0
#: Connections at a time; streams are fewer (`live.MAX_READERS`).
MAX_CONNECTIONS: Final = 512
#: The wait before the server is started again doubles from the first to the second of these, s; it begins anew after a life of `LONG`.
RESTART_WAIT: Final = (1.0, 30.0)
LONG: Final = 60.0
#: Of the process beside a worker: where the machine has not enough for both, ingest comes first.
NICE: Final = 10


@dataclass(frozen=True, slots=True)
class WebSettings:
    """What a web server is about.

    Attributes:
        database: read, never written.
        address: the broker of the live wall; the credential needs to subscribe `match`, and `status` if it may.
        topics: where the devices publish.
        token: what clients must show; None for a loopback address alone.
    """

    database: Location
    address: Address
    topics: Topics
    token: str | None = field(default=None, repr=False)


def listen(host: str, port: int, token: str | None) -> socket.socket:
    """Bind the address to serve on.

    Raises:
        ValueError: others can reach it, and there is no token; or the token is none (`Access`).
        OSError: nothing can listen there.
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
    logging.getLogger("uvicorn").setLevel(max(logging.WARNING, logging.getLogger().level))
    asyncio.run(_serve(web, bound, ending))


async def _serve(web: WebSettings, bound: socket.socket, ending: int) -> None:
    wall = Wall()
    config = uvicorn.Config(
        create_app(web.database, wall, Access(web.token)),
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        limit_concurrency=MAX_CONNECTIONS,
        timeout_graceful_shutdown=GRACE,
    )
    async with asyncio.TaskGroup() as both:
        feeding = both.create_task(run_wall(wall, web.address, web.topics))
        await _Server(config, wall, ending).serve(sockets=[bound])
        feeding.cancel()


class _Server(uvicorn.Server):
    """Ends when a descriptor can be read, and its streams with it: uvicorn would wait for them."""

    def __init__(self, config: uvicorn.Config, wall: Wall, ending: int) -> None:
        super().__init__(config)
        self._wall, self._ending = wall, ending
        asyncio.get_running_loop().add_reader(ending, self._end)

    def capture_signals(self) -> contextlib.AbstractContextManager[None]:  # type: ignore[override]  # a generator's, in uvicorn
        # uvicorn would raise the signal again when all is done.
        return contextlib.nullcontext()

    def _end(self) -> None:
        asyncio.get_running_loop().remove_reader(self._ending)
        self.should_exit = True
        self._wall.close()


class WebProcess:
    """A web server in a process of its own; started again when it dies, until `close`.

    Args:
        web: what it is about.
        bound: where it listens.
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
        """A new process; None where there is to be none any more."""
        with self._lock:
            if self._stopping.is_set():
                return None
            # Not forked: the parent has threads, and what they hold would be held for ever in the copy.
            self._process = multiprocessing.get_context("spawn").Process(
                target=_run, args=self._arguments, name="facewire web", daemon=True
            )
            self._process.start()
            return self._process


def _run(web: WebSettings, bound: socket.socket, level: int, formatter: logging.Formatter | None) -> None:
    """The process; it logs as its parent does."""
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
