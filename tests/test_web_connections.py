"""Hostile connections to the real server, in this process: its clock is an argument."""

import asyncio
import contextlib
import os
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from waiting import WITHIN, wait_until_async

from facewire.topics import Topics
from facewire_mqtt.address import Address
from facewire_platform.store.writer import open_store
from facewire_web import connections
from facewire_web.connections import MAX_CONNECTIONS, REQUEST_WITHIN, TAKEN_BYTES, TAKEN_WITHIN, Patience
from facewire_web.live import Wall
from facewire_web.server import WebServer, WebSettings, web_server

pytestmark = pytest.mark.network
HEALTHZ = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"
IDLE = {
    "silent": b"",
    "head": b"GET /healthz HTTP/1.1\r\nHost: loc",
    "body": b"POST /api/login HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n{",
    "chunked": b"POST /api/login HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n{\r\n",
    "answered": HEALTHZ,
    "pipelined": HEALTHZ + b"GET",
}


class Running:
    """A server that listens, and its connections."""

    def __init__(self, server: WebServer, port: int) -> None:
        self.server, self.port = server, port
        self._writers: list[asyncio.StreamWriter] = []

    async def close(self) -> None:
        for writer in self._writers:
            writer.transport.abort()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    @property
    def connections(self) -> set[Any]:
        return self.server.server_state.connections

    async def open(self, sent: bytes = b"") -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(sent)
        self._writers.append(writer)
        return reader, writer

    async def is_healthy(self) -> bool:
        """Whether a new client is answered."""
        reader, writer = await self.open(HEALTHZ)
        async with asyncio.timeout(WITHIN):
            line = await reader.readline()
        writer.close()
        return line.startswith(b"HTTP/1.1 200")

    def pass_time(self, seconds: float) -> None:
        now = asyncio.get_running_loop().time()
        for connection in list(self.connections):
            connection.end_if_late(now + seconds)


@contextlib.asynccontextmanager
async def running(folder: Path) -> AsyncIterator[Running]:
    open_store(folder / "x.db").close()
    ending, writer = os.pipe()
    wall = Wall()
    server = web_server(WebSettings(folder / "x.db", Address(), Topics()), wall, ending)
    with contextlib.closing(socket.create_server(("127.0.0.1", 0), backlog=2_000)) as bound:
        serving = asyncio.create_task(server.serve(sockets=[bound]))
        while not server.started:
            await asyncio.sleep(0)
        site = Running(server, bound.getsockname()[1])
        try:
            yield site
        finally:
            await site.close()
            os.write(writer, b"x")
            await serving
    os.close(ending)
    os.close(writer)


@pytest.mark.parametrize("sent", IDLE.values(), ids=IDLE.keys())
def test_a_connection_without_a_whole_request_ends(tmp_path: Path, sent: bytes) -> None:
    async def run() -> None:
        async with running(tmp_path) as site:
            reader, _ = await site.open(sent)
            await wait_until_async(lambda: site.connections)
            if HEALTHZ in sent:
                assert (await reader.readline()).startswith(b"HTTP/1.1 200")
            site.pass_time(REQUEST_WITHIN - 1)
            assert site.connections
            site.pass_time(REQUEST_WITHIN + 1)
            await wait_until_async(lambda: not site.connections)
            with contextlib.suppress(ConnectionError):
                await reader.read()  # to its end

    asyncio.run(run())


def test_thousand_idle_connections_keep_nobody_out(tmp_path: Path) -> None:
    """600 of them gave everybody 503, and never ended."""

    async def run() -> None:
        async with running(tmp_path) as site:
            idle = [await site.open(sent) for _ in range(200) for sent in [*IDLE.values()][:5]]
            for _ in range(10):
                assert await site.is_healthy()
            assert len(site.connections) <= MAX_CONNECTIONS
            assert len(idle) == 1_000

    asyncio.run(run())


def test_the_client_with_most_idle_connections_makes_room() -> None:
    class Held:
        """The part of a connection that the code asks about."""

        def __init__(self, host: str, since: float, *, due: bool = True) -> None:
            self.host, self.since, self.is_request_due, self.aborted = host, since, due, False
            self.transport = self

        def abort(self) -> None:
            self.aborted = True

    honest, busy = Held("a", 1.0), Held("b", 0.0, due=False)
    flood = [Held("b", 2.0 + number) for number in range(3)]
    open_now: set[Any] = {honest, busy, *flood}
    for _ in range(2):
        connections.make_room(open_now)
    assert [one.aborted for one in (honest, busy, *flood)] == [False, False, True, True, False]
    assert len(open_now) == 3
    connections.make_room({busy})
    assert not busy.aborted


def test_a_client_that_takes_its_answer_slowly_has_time_and_one_that_does_not_has_not() -> None:
    patience = Patience(0.0)
    left, now = 10 * TAKEN_BYTES, 0.0
    while left > 0:
        assert not patience.is_over(now, left, request_due=True)
        left, now = left - TAKEN_BYTES, now + TAKEN_WITHIN - 1
    assert not patience.is_over(now, 0, request_due=True)
    assert not patience.is_over(now, 100, request_due=False)
    assert not patience.is_over(now + TAKEN_WITHIN - 1, 99, request_due=False)
    assert patience.is_over(now + TAKEN_WITHIN, 98, request_due=False)


def test_a_client_that_reads_nothing_of_a_stream_ends(tmp_path: Path) -> None:
    async def run() -> None:
        async with running(tmp_path) as site:
            reader, writer = await site.open(b"GET /api/stream HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert (await reader.readline()).startswith(b"HTTP/1.1 200")
            writer.transport.pause_reading()  # type: ignore[attr-defined]
            (connection,) = site.connections
            while not connection.transport.get_write_buffer_size():
                connection.transport.write(b"x" * 100_000)
            site.pass_time(0)
            site.pass_time(TAKEN_WITHIN + 1)
            await wait_until_async(lambda: not site.connections)

    asyncio.run(run())


def test_a_head_that_is_too_long_and_a_web_socket_are_refused(tmp_path: Path) -> None:
    upgrade = b"GET /api/stream HTTP/1.1\r\nHost: localhost\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n"

    async def run() -> None:
        async with running(tmp_path) as site:
            reader, writer = await site.open(b"GET / HTTP/1.1\r\nHost: localhost\r\n")
            with contextlib.suppress(ConnectionError):
                for _ in range(1_000):
                    writer.write(b"Cookie: " + b"a" * 1_000 + b"\r\n")
                    await writer.drain()
            with contextlib.suppress(ConnectionError):
                assert b" 400 " in await reader.readline()
            reader, writer = await site.open(upgrade)
            assert b" 200 " in await reader.readline()
            assert all(connection.conn is not None for connection in site.connections)
            writer.close()
            assert await site.is_healthy()

    asyncio.run(run())
