"""The web server as the processes that it is: how it begins, and how it ends."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from broker_engines import free_port
from click.testing import CliRunner
from facewire_process import Running
from processes import children
from shown_commands import blocks, typed_with_jobs
from waiting import WITHIN, wait_until
from web_site import Site

from facewire_cli.main import cli
from facewire_platform.store.writer import open_store
from facewire_web.server import listen

pytestmark = [pytest.mark.network, pytest.mark.process]

TOKEN = "correct-horse-battery"  # noqa: S105  # of a test


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with Site(tmp_path_factory.mktemp("site")) as site:
        yield site
    # All has been read by now. Our logs give tracebacks without their first line.
    assert 'File "' not in site.platform.text


@contextlib.contextmanager
def streaming(url: str) -> Iterator[Iterator[str]]:
    """The lines of a stream, from the one on that says that it is open."""
    with httpx.stream("GET", f"{url}api/stream", timeout=WITHIN) as answer:
        assert answer.headers["content-type"] == "text/event-stream"
        lines = in_time(answer.iter_lines())
        assert next(lines) == "event: hello"
        yield lines


def in_time(lines: Iterator[str]) -> Iterator[str]:
    """Lines until `WITHIN` has passed. Signs of life never end, so a missing line must fail."""
    deadline = time.monotonic() + WITHIN
    for line in lines:
        assert time.monotonic() < deadline
        yield line


def web_servers(pid: int) -> list[int]:
    """The web server of a worker; multiprocessing has a helper of its own."""
    return children(pid, "spawn_main")


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_a_match_comes_through_the_stream_with_its_verdict(site: Site) -> None:
    with streaming(site.url) as lines:
        event = site.match("gate-1", identity_name="Ada")
        line = next(line for line in lines if event["identity_name"] in line)
        assert '"reason":null' in line
        site.match("gate-1", identity_name="Charles", timestamp=1)
        line = next(line for line in lines if "Charles" in line)
        assert '"reason":"late"' in line


def test_a_streamed_match_is_also_stored_and_found(site: Site) -> None:
    event = site.match("gate-2", identity_id="g2")

    def stored() -> Any:
        return httpx.get(f"{site.url}api/events", params={"person": "g2"}).json()["events"]

    wait_until(lambda: bool(stored()), WITHIN)
    (row,) = stored()
    assert (row["device"], row["timestamp"]) == ("gate-2", event["timestamp"])


def test_a_killed_web_server_starts_again_at_the_same_address(site: Site) -> None:
    (before,) = web_servers(site.platform.process.pid)
    os.kill(before, signal.SIGKILL)
    site.platform.wait_for("web server died, starting it again in 1 s: exit code -9")
    assert httpx.get(f"{site.url}healthz", timeout=WITHIN).status_code == 200
    assert web_servers(site.platform.process.pid) != [before]
    site.wait_until_live()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_web_server_ends_its_streams_and_then_itself(tmp_path: Path, number: int) -> None:
    with Site(tmp_path) as site, streaming(site.url) as lines:
        (web,) = web_servers(site.platform.process.pid)
        assert site.platform.end(number) == 0
        # A stream that was cut off, after uvicorn's grace, would be an error here.
        assert list(lines)[-1] == ""
        assert not is_alive(web)
        assert 'File "' not in site.platform.text
        assert "died" not in site.platform.text


def test_the_web_server_ends_if_its_platform_is_killed(tmp_path: Path) -> None:
    with Site(tmp_path) as site:
        wait_until(lambda: bool(web_servers(site.platform.process.pid)), WITHIN)
        (web,) = web_servers(site.platform.process.pid)
        assert httpx.get(f"{site.url}healthz", timeout=WITHIN).status_code == 200
        site.platform.process.kill()
        wait_until(lambda: not is_alive(web), WITHIN)


def test_a_web_server_alone_serves_a_platform_that_runs_elsewhere(site: Site, tmp_path: Path) -> None:
    (tmp_path / "token").write_text(TOKEN + "\n")
    options = ("--database", f"sqlite:///{site.database}", "--listen", "0.0.0.0:0", "--token-file", tmp_path / "token")
    with Running("platform", "web", "-p", str(site.port), *options) as web:
        url = web.find(r"web page at http://0\.0\.0\.0:(\d+)/")[1]
        asked = httpx.get(f"http://127.0.0.1:{url}/api/devices", timeout=WITHIN)
        assert asked.status_code == 401
        asked = httpx.get(f"http://127.0.0.1:{url}/api/devices", headers={"authorization": f"Bearer {TOKEN}"}, timeout=WITHIN)
        assert asked.status_code == 200
        assert web.end() == 0
        assert TOKEN not in web.text


def refused(*arguments: str | Path) -> tuple[int, str]:
    done = CliRunner().invoke(cli, ["platform", *map(str, arguments)])
    return done.exit_code, done.output


@pytest.mark.parametrize("command", [("run", "--web"), ("web", "--listen")])
def test_an_address_that_others_can_reach_needs_a_token(tmp_path: Path, command: tuple[str, str]) -> None:
    code, text = refused(*command, "0.0.0.0:0", "--database", f"sqlite:///{tmp_path}/x.db")
    assert code == 2
    assert "others can reach 0.0.0.0, so they need a token" in text
    assert "token-file" in text


@pytest.mark.parametrize("token", ["", "short\n", "\xff" * 20])
def test_an_invalid_token_file_is_refused(tmp_path: Path, token: str) -> None:
    (tmp_path / "token").write_text(token)
    code, text = refused("web", "--listen", "127.0.0.1:0", "--token-file", tmp_path / "token")
    assert code == 2
    assert "token" in text


def test_a_token_without_a_page_is_refused(tmp_path: Path) -> None:
    (tmp_path / "token").write_text(TOKEN)
    code, text = refused("run", "--database", f"sqlite:///{tmp_path}/x.db", "--web-token-file", tmp_path / "token")
    assert (code, "--web-token-file needs --web" in text) == (2, True)


def test_a_platform_without_a_page_imports_none_of_its_libraries() -> None:
    loaded = "import sys, facewire_platform_cli.run; print({'fastapi', 'uvicorn', 'pydantic'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-P", "-c", loaded], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


def test_the_page_names_the_package_that_is_not_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    monkeypatch.delitem(sys.modules, "facewire_web.server")
    code, text = refused("web", "--listen", "127.0.0.1:0", "--database", f"sqlite:///{tmp_path}/x.db")
    assert (code, "the page needs uvicorn: pip install 'facewire[platform]'" in text) == (1, True), text


def test_an_address_in_use_is_named(tmp_path: Path) -> None:
    with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as taken:
        where = f"127.0.0.1:{taken.getsockname()[1]}"
        code, text = refused("web", "--listen", where, "--database", f"sqlite:///{tmp_path}/x.db")
    assert (code, f"cannot listen on {where}: Address already in use\n" in text) == (1, True)


def test_the_commands_of_the_documentation_work(tmp_path: Path) -> None:
    page = (Path(__file__).parent.parent / "docs" / "web.md").read_text(encoding="utf-8")
    (script,) = blocks(page)
    for port in ("1883", "8080", "8081"):
        script = script.replace(port, str(free_port()))
    script = f"{script}\nkill %3; wait %3\nkill %2; wait %2\nkill %1; wait %1\n"
    printed = typed_with_jobs(script, tmp_path, 3 * WITHIN)
    assert '"database":true' in printed
    assert '{"events":[],"next":null}' in printed
    assert '"devices":[]' in printed
    assert 'File "' not in printed


def test_the_web_server_starts_without_a_broker_and_reports_it(tmp_path: Path) -> None:
    open_store(tmp_path / "x.db").close()
    with Running("platform", "web", "-p", "1", "--listen", "127.0.0.1:0", "--database", f"sqlite:///{tmp_path}/x.db") as web:
        url = web.find(r"web page at (http://\S+/)")[1]
        with streaming(url) as lines:
            line = next(line for line in lines if line.startswith("data:") and "refused" in line.lower() and '"up":false' in line)
            assert "reason" in line
        assert httpx.get(f"{url}healthz").json() == {"database": True, "broker": False}


def test_a_stream_that_nobody_reads_does_not_delay_others(site: Site) -> None:
    with contextlib.closing(socket.create_connection(("127.0.0.1", int(site.url.rpartition(":")[2].strip("/"))))) as stuck:
        stuck.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        stuck.sendall(b"GET /api/stream HTTP/1.1\r\nHost: localhost\r\n\r\n")
        for number in range(300):
            site.match("gate-3", identity_name="x" * 2_000, identity_id=str(number))
        with streaming(site.url) as lines:
            site.match("gate-3", identity_name="the last one")
            assert next(line for line in lines if "the last one" in line)


@pytest.mark.parametrize(
    "junk",
    [
        b"\x00" * 100 + b"\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"a" * 200_000 + b"\r\n\r\n",
        b"GET / HTTP/1.0\r\n\r\n",
        b"GET /\xff HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"POST /api/login HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999999999\r\n\r\n{",
    ],
    ids=["noise", "large", "nameless", "path", "unfinished"],
)
def test_junk_does_no_harm(site: Site, junk: bytes) -> None:
    """Nor does it leave a traceback: see the fixture."""
    address = ("127.0.0.1", int(site.url.rpartition(":")[2].strip("/")))
    with contextlib.closing(socket.create_connection(address)) as junkie, contextlib.suppress(ConnectionError):
        junkie.sendall(junk)
        assert httpx.get(f"{site.url}healthz").status_code == 200


def test_the_socket_is_bound_at_once(tmp_path: Path) -> None:
    with contextlib.closing(listen("::1", 0, None)) as bound:
        assert bound.family == socket.AF_INET6
        with contextlib.closing(socket.create_connection(bound.getsockname()[:2], 5)):
            pass
