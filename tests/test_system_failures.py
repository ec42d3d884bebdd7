"""The reason of a failure is plain: no line of Python, no tuple, no name of a part of ours."""

import asyncio
import os
import socket
import ssl
from contextlib import closing
from pathlib import Path

import pytest

from facewire_system.failures import reason_of


def failure_of(host: str, port: int) -> OSError:
    with pytest.raises(OSError) as failed:  # noqa: PT011  # its reason is what the tests look at
        asyncio.run(asyncio.wait_for(asyncio.open_connection(host, port), 20))
    return failed.value


@pytest.mark.network
def test_a_refused_connection_of_asyncio_names_no_tuple() -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        port = server.getsockname()[1]
    assert reason_of(failure_of("127.0.0.1", port)) == "Connection refused"


@pytest.mark.network
def test_a_taken_address_of_asyncio_is_in_use() -> None:
    async def listen(port: int) -> None:
        await asyncio.get_running_loop().create_server(asyncio.Protocol, "127.0.0.1", port)

    with closing(socket.create_server(("127.0.0.1", 0))) as server, pytest.raises(OSError, match="attempting to bind") as failed:
        asyncio.run(listen(server.getsockname()[1]))
    assert reason_of(failed.value) == "Address already in use"


def test_several_addresses_that_fail_alike_have_one_reason() -> None:
    several = OSError(
        "Multiple exceptions: [Errno 111] Connect call failed ('::1', 1, 0, 0), [Errno 111] Connect call failed ('127.0.0.1', 1)"
    )
    assert reason_of(several) == "Connection refused"


def test_a_file_that_is_no_certificate_is_called_so(tmp_path: Path) -> None:
    file = tmp_path / "cert.pem"
    file.write_text("nothing")
    with pytest.raises(ssl.SSLError, match="PEM lib") as failed:
        ssl.create_default_context().load_cert_chain(file)
    assert reason_of(failed.value) == "it is no PEM, or the key is encrypted"


@pytest.mark.parametrize(
    ("failure", "reason"),
    [
        (FileNotFoundError(2, "No such file or directory", "x"), os.strerror(2)),
        (socket.gaierror(-2, "Name or service not known"), "Name or service not known"),
        (TimeoutError(), "no answer"),
        (TimeoutError("_ssl.c:989: The handshake operation timed out"), "The handshake operation timed out"),
        (ConnectionError(), "ConnectionError"),
        # Python 3.11.2 has this one where 3.11.7 has the next.
        (ssl.SSLZeroReturnError(6, "TLS/SSL connection has been closed (EOF) (_ssl.c:992)"), "it does not speak TLS"),
        (
            ssl.SSLEOFError(8, "[SSL: UNEXPECTED_EOF_WHILE_READING] EOF occurred in violation of protocol (_ssl.c:1006)"),
            "it does not speak TLS",
        ),
    ],
)
def test_other_failures_have_their_own_words(failure: OSError, reason: str) -> None:
    assert reason_of(failure) == reason
