import datetime as dt
import io
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result

from facewire.endpoint import Endpoint
from facewire.moments import MAX_SECONDS, parse_moment
from facewire.topics import Topics
from facewire_cli.options import DEVICE, ENDPOINT, MOMENT, SECONDS, connection_options, moment_type, output_option
from facewire_mqtt import Address

NOW_MS = 1_764_000_000_000


def ask(*args: str, stdin: str | None = None) -> tuple[Result, dict[str, Any]]:
    got: dict[str, Any] = {}

    @click.command(context_settings={"help_option_names": ["--help"]})
    @connection_options
    @output_option
    @click.option("--since", type=moment_type(lambda: NOW_MS / 1000))
    @click.option("-W", "--wait", type=SECONDS)
    @click.option("-d", "--device", type=DEVICE)
    def command(**given: Any) -> None:
        got.update(given)

    return CliRunner().invoke(command, args, input=stdin), got


def refused(*args: str, stdin: str | None = None) -> str:
    result, got = ask(*args, stdin=stdin)
    assert (result.exit_code, got) == (2, {}), result.output
    return " ".join(result.stderr.split())


def test_without_options_the_broker_is_on_this_machine_and_a_pipe_gets_json() -> None:
    _, got = ask()
    assert got == {"address": Address("127.0.0.1", 1883), "topics": Topics(), "output": "json", "since": None, "wait": None, "device": None}


def test_letters_are_those_of_mosquitto_sub() -> None:
    _, got = ask(
        *["-h", "broker.lan", "-p", "1999", "-u", "ops", "-P", "secret", "--root", "a/b", "-o", "csv", "-W", "2m", "-d", "lobby-1"]
    )
    assert got["address"] == Address("broker.lan", 1999, "ops", "secret")
    assert (got["topics"], got["output"], got["wait"], got["device"]) == (Topics("a/b"), "csv", 120.0, "lobby-1")


def test_help_is_the_long_option_only() -> None:
    result, _ = ask("--help")
    assert result.exit_code == 0
    assert "-h, --host" in result.output


def test_a_number_is_called_one() -> None:
    assert "Invalid value for '-p' / '--port': 'x' is not a valid integer." in refused("-p", "x")


def test_root_with_a_wildcard_is_refused_by_name() -> None:
    assert "'--root': root 'a/#' is not 1 to 128" in refused("--root", "a/#")


def test_port_is_refused_with_its_limits() -> None:
    assert "70000 is not in the range 1<=x<=65535" in refused("-p", "70000")


@pytest.mark.parametrize("option", ["--host", "--username"])
@pytest.mark.parametrize("text", ["", "a\0b", "x" * 65_536])
def test_a_text_that_mqtt_cannot_carry_is_refused_at_once(option: str, text: str) -> None:
    assert f"'{option}'" in refused(option, text)


def test_password_is_never_shown_when_refused() -> None:
    assert "tops3cret" not in refused("-u", "ops", "-P", "tops3cret\0")


def test_password_file_gives_its_first_line(tmp_path: Path) -> None:
    path = tmp_path / "password"
    path.write_bytes("pässword \r\nrest".encode())
    _, got = ask("-u", "ops", "--password-file", str(path))
    assert got["address"] == Address("127.0.0.1", 1883, "ops", "pässword ")


def test_password_comes_from_stdin_with_a_dash() -> None:
    _, got = ask("-u", "ops", "--password-file", "-", stdin="secret\n")
    assert got["address"] == Address("127.0.0.1", 1883, "ops", "secret")


@pytest.mark.parametrize(
    ("content", "reason"), [(b"", "its first line is empty"), (b"\nx", "its first line is empty"), (b"\xff", "not UTF-8")]
)
def test_password_file_without_a_password_is_refused(tmp_path: Path, content: bytes, reason: str) -> None:
    path = tmp_path / "password"
    path.write_bytes(content)
    assert reason in refused("-u", "ops", "--password-file", str(path))


def test_options_that_contradict_each_other_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("x")
    assert "not both" in refused("-u", "ops", "-P", "x", "--password-file", str(path))
    assert "needs a --username" in refused("-P", "x")
    assert "--key needs its --cert" in refused("--key", str(path))


def test_a_bad_tls_file_is_refused_before_anything_starts(tmp_path: Path) -> None:
    path = tmp_path / "ca.pem"
    path.write_text("no certificate")
    assert str(path) in refused("--cafile", str(path)).replace(" ", "")
    assert "_ssl.c" not in refused("--cafile", str(path))
    assert "it is no PEM, or the key is encrypted" in refused("--cert", str(path))


def test_an_impossible_device_name_is_refused() -> None:
    assert "device 'a/b' is not 1 to 64" in refused("-d", "a/b")


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("30", 30.0), ("30s", 30.0), ("1.5", 1.5), ("500ms", 0.5), ("5m", 300.0), ("2h", 7200.0), ("7d", 604_800.0), ("0", 0.0)],
)
def test_duration_gives_seconds(text: str, seconds: float) -> None:
    assert SECONDS.convert(text, None, None) == seconds


@pytest.mark.parametrize("text", ["", "s", "-1", "nan", "inf", "1e9", "5 m", "1h30m", "٣", "9" * 400, f"{int(MAX_SECONDS) + 1}"])
def test_a_bad_duration_is_refused_with_the_limit(text: str) -> None:
    with pytest.raises(click.BadParameter, match="is not a duration up to 3660d"):
        SECONDS.convert(text, None, None)


def test_values_of_a_settings_file_are_taken_as_they_are() -> None:
    assert SECONDS.convert(2.5, None, None) == 2.5
    assert MOMENT.convert(dt.datetime(2026, 11, 23, 8, tzinfo=dt.UTC), None, None) == 1_795_420_800_000
    assert MOMENT.convert(1_795_420_800_000, None, None) == 1_795_420_800_000


@pytest.mark.parametrize(
    ("text", "at_ms"),
    [
        ("90s", NOW_MS - 90_000),
        ("10m", NOW_MS - 600_000),
        ("2h", NOW_MS - 7_200_000),
        ("7d", NOW_MS - 604_800_000),
        ("0s", NOW_MS),
        ("1764000000001", 1_764_000_000_001),
        ("-5", -5),
        ("2026-11-23T08:00:00.123Z", 1_795_420_800_123),
        ("2026-11-23T08:00:00.1239+00:00", 1_795_420_800_123),
        ("1969-12-31T23:59:59.999Z", -1),
    ],
)
def test_moment_gives_milliseconds_utc(text: str, at_ms: int) -> None:
    assert parse_moment(text, NOW_MS) == at_ms


def test_moment_without_a_zone_is_local_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "Asia/Shanghai")
    time.tzset()
    try:
        assert parse_moment("2026-11-23", NOW_MS) == parse_moment("2026-11-22T16:00Z", NOW_MS)
        assert parse_moment("2026-11-23 08:00", NOW_MS) == parse_moment("2026-11-23T00:00Z", NOW_MS)
    finally:
        monkeypatch.undo()
        time.tzset()


@pytest.mark.parametrize("text", ["", "yesterday", "2026-13-01", "9" * 19, "9" * 30, "1.5", "0001-01-01", "10 m", "٣m", "99999999d"])
def test_a_bad_moment_is_refused(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "Asia/Shanghai")
    time.tzset()
    try:
        with pytest.raises(ValueError, match=r"is not a (moment|duration)"):
            parse_moment(text, NOW_MS)
    finally:
        monkeypatch.undo()
        time.tzset()


def test_output_is_pretty_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    got: list[str] = []

    @click.command()
    @output_option
    def command(output: str) -> None:
        got.append(output)

    monkeypatch.setattr(sys, "stdout", Terminal())
    command.main([], standalone_mode=False)
    assert got == ["pretty"]


def test_options_load_no_heavy_library() -> None:
    code = "import sys, facewire_cli.options, facewire_cli.output; print(sorted({'paho', 'rich', 'peewee', 'amqtt'} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=os.environ)
    assert done.stdout == "[]\n"


@pytest.mark.parametrize(
    ("text", "host", "port"), [("127.0.0.1:8080", "127.0.0.1", 8080), ("[::1]:0", "::1", 0), ("gate.example:65535", "gate.example", 65535)]
)
def test_an_endpoint_is_read_and_written_alike(text: str, host: str, port: int) -> None:
    assert ENDPOINT.convert(text, None, None) == Endpoint(host, port)
    assert str(Endpoint(host, port)) == text


@pytest.mark.parametrize("text", ["", "8080", ":8080", "host:", "host:65536", "::1:80", "a b:80", "host:-1", "http://host:80"])
def test_a_bad_endpoint_is_named(text: str) -> None:
    with pytest.raises(click.BadParameter, match="is not HOST:PORT"):
        ENDPOINT.convert(text, None, None)
