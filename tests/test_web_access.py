import time

import pytest

from facewire.hosts import is_own_name
from facewire_web.access import COOKIE, Access, Refusal

TOKEN = "correct-horse-battery"  # noqa: S105  # of a test


def refused(access: Access, path: str = "/api/events", **headers: str) -> int | None:
    refusal = access.refusal(path, headers)
    assert refusal is None or refusal.error
    return refusal and refusal.status


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:8080", "127.0.0.1", "127.0.0.1:80", "127.9.9.9:1", "[::1]", "[::1]:8080"])
def test_this_machine_has_these_names(host: str) -> None:
    assert is_own_name(host)
    assert refused(Access(), host=host) is None


@pytest.mark.parametrize(
    "host",
    [
        "",
        "evil.example",
        "127.0.0.1.evil.example",
        "localhost.evil.example:8080",
        "0.0.0.0",  # noqa: S104
        "10.0.0.1:8080",
        "::1",
        "[::2]",
        "[::1",
        "2130706433",
    ],
)
def test_a_site_that_points_its_name_at_this_machine_is_refused(host: str) -> None:
    assert not is_own_name(host)
    for path in ("/", "/page/page.js", "/api/stream", "/api/login", "/metrics", "/healthz"):
        assert refused(Access(), path, host=host) == 421
    assert refused(Access(), host=host, authorization=f"Bearer {TOKEN}") == 421


def test_the_token_admits_a_request_with_any_host() -> None:
    access = Access(TOKEN)
    assert refused(access, host="platform.example", authorization=f"Bearer {TOKEN}") is None
    assert refused(access, host="platform.example", authorization=f"bearer  {TOKEN} ") is None
    assert refused(access, cookie=f"other=1; {COOKIE}={access.cookie}") is None


@pytest.mark.parametrize("path", ["/api/events", "/api/stream", "/metrics", "/openapi.json", "/nothing", "/pages", "/api/login/", "/page"])
@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"authorization": TOKEN},
        {"authorization": f"Basic {TOKEN}"},
        {"authorization": "Bearer"},
        {"authorization": f"Bearer {TOKEN}x"},
        {"authorization": "Bearer ünïcode"},
        {"cookie": f"{COOKIE}={TOKEN}"},
        {"cookie": f"{COOKIE}={Access('another-token-entirely').cookie}"},
        {"cookie": f"{COOKIE}="},
        {"cookie": f"{COOKIE}=é; ;;=,"},
        {"host": "localhost"},
    ],
    ids=str,
)
def test_without_the_token_every_request_is_refused(path: str, headers: dict[str, str]) -> None:
    assert refused(Access(TOKEN), path, **headers) == 401


@pytest.mark.parametrize("path", ["/", "/page/page.css", "/page/page.js", "/healthz", "/api/login"])
def test_the_page_itself_needs_no_token(path: str) -> None:
    assert refused(Access(TOKEN), path) is None


def test_without_a_token_no_cookie_and_no_empty_token_stands_for_one() -> None:
    assert not Access().admits("")
    assert refused(Access(), host="evil.example", cookie=f"{COOKIE}={Access().cookie}") == 421


def test_the_cookie_does_not_reveal_the_token_and_belongs_to_it() -> None:
    assert Access(TOKEN).cookie == Access(TOKEN).cookie != Access(TOKEN + "x").cookie
    assert TOKEN not in Access(TOKEN).cookie
    assert TOKEN not in repr(Access(TOKEN))


@pytest.mark.parametrize(
    "token", ["", "short", "x" * 15, "x" * 1_025, "sixteen characters", "fünfzehnundmehrzeichen", "tab\tin-the-middle-of"]
)
def test_an_invalid_token_is_refused_without_being_shown(token: str) -> None:
    with pytest.raises(ValueError, match="token") as raised:
        Access(token)
    assert not token or token not in str(raised.value)


def test_a_refusal_names_the_host_and_what_to_do() -> None:
    assert Access().refusal("/", {"host": "evil.example"}) == Refusal(
        421, "host 'evil.example' does not name this machine; to serve other names use --web-token-file"
    )


@pytest.mark.parametrize("pattern", ['facewire="\\\\', "facewire=x;", ";", "=", 'a="', "\\073", '"\\"', " ", "facewire"])
def test_a_hostile_cookie_costs_next_to_nothing(pattern: str) -> None:
    """60 KB took 6 s by the standard library of a Python without the fix of CVE-2024-7592."""
    access = Access(TOKEN)
    began = time.process_time()
    for _ in range(10):
        assert refused(access, cookie=pattern * (60_000 // len(pattern))) == 401
    assert time.process_time() - began < 5.0
    assert refused(access, cookie=f"a=1;; {COOKIE} = {access.cookie} ;b=2" + pattern * 60_000) is None
