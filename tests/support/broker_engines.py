"""The brokers that the acceptance suites run against: ours, Mosquitto, and amqtt's own ("stock").

FACEWIRE_BROKERS=ours,mosquitto,stock chooses them. By default stock is not among them, because it
fails most tests, slowly.
"""

import asyncio
import contextlib
import getpass
import os
import shutil
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from waiting import wait_until

from facewire.topics import Topics
from facewire_broker import embedded
from facewire_broker.authentication import UsersAuthenticator
from facewire_broker.credentials import UsersFile
from facewire_broker.embedded import Embedded
from facewire_broker.limits import BrokerLimits
from facewire_broker.mosquitto import free_port as free_port
from facewire_broker.mosquitto import run_as, write_files
from facewire_broker.render import Site, render_mosquitto
from facewire_mqtt.address import Address

ENGINES = os.environ.get("FACEWIRE_BROKERS", "ours,mosquitto").split(",")
MOSQUITTO = shutil.which("mosquitto", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")

_NEEDS_MOSQUITTO = [pytest.mark.mosquitto, pytest.mark.skipif(MOSQUITTO is None, reason="Mosquitto is not installed")]
PARAMETERS = [pytest.param(name, marks=_NEEDS_MOSQUITTO if name == "mosquitto" else []) for name in ENGINES]


def wait_for_port(port: int, timeout: float = 10.0) -> None:
    """Wait until something listens on a loopback port."""

    def answers() -> bool:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            return False
        return True

    wait_until(answers, timeout, interval=0.02)


@contextmanager
def mosquitto(folder: Path, config: str) -> Iterator[Address]:
    """Mosquitto with a configuration; {port} in it becomes a free port."""
    port = free_port()
    file = folder / "mosquitto.conf"
    file.write_text(config.replace("{port}", str(port)))
    with _mosquitto(file, port) as address:
        yield address


@contextmanager
def _mosquitto(file: Path, port: int) -> Iterator[Address]:
    assert MOSQUITTO
    with subprocess.Popen([MOSQUITTO, "-c", str(file)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            wait_for_port(port)
            yield Address(port=port)
        finally:
            process.terminate()


@contextmanager
def stock() -> Iterator[Address]:
    """amqtt's own broker, to see a test fail."""
    from amqtt.broker import Broker

    port, started = free_port(), threading.Event()
    plugins: dict[str, Any] = {"amqtt.plugins.authentication.AnonymousAuthPlugin": {"allow_anonymous": True}}

    async def serve() -> None:
        await Broker({"listeners": {"default": {"type": "tcp", "bind": f"127.0.0.1:{port}"}}, "plugins": plugins}).start()
        started.set()
        await asyncio.Event().wait()

    threading.Thread(target=asyncio.run, args=(serve(),), daemon=True).start()
    started.wait(10)
    yield Address(port=port)


@contextmanager
def anonymous(engine: str, folder: Path) -> Iterator[Address]:
    """An anonymous broker on loopback: every client may do everything."""
    if engine == "ours":
        with embedded.running() as address:
            yield address
    elif engine == "stock":
        with stock() as address:
            yield address
    else:
        with mosquitto(
            folder, f"user {getpass.getuser()}\nlistener {{port}} 127.0.0.1\nallow_anonymous true\nmax_qos 1\nset_tcp_nodelay true\n"
        ) as address:
            yield address


@contextmanager
def with_users(engine: str, folder: Path, users: UsersFile) -> Iterator[Address]:
    """A broker with users: ours reads the file, Mosquitto reads files rendered from it."""
    if engine == "ours":
        with embedded.running(authenticator=UsersAuthenticator(users, Topics())) as address:
            yield address
        return
    port = free_port()
    site = Site(users.load(), Topics().prefix, "127.0.0.1", port, str(folder), run_as=run_as())
    write_files(render_mosquitto(site), folder)
    with _mosquitto(folder / "mosquitto.conf", port) as address:
        yield address


@contextmanager
def limited(**limits: Any) -> Iterator[Embedded]:
    """Our broker, anonymous, with other limits."""
    with contextlib.closing(Embedded(limits=BrokerLimits(**limits))) as embedded_broker:
        yield embedded_broker


def counted(embedded_broker: Embedded, name: str) -> int:
    """The value of one of its counters."""
    return embedded_broker.call(lambda broker: broker.hub.counters[name])
