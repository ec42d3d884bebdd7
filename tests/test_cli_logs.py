import contextlib
import io
import json
import logging
import os
import re
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from broker_engines import free_port
from facewire_process import Running

from facewire_cli.logs import MAX_LOGGED, JsonFormatter, Sparing, TextFormatter, split
from facewire_cli.output import visible

NAME = "Zaphod Ünderwood"


def record(message: object, *args: object, **more: Any) -> logging.LogRecord:
    return logging.LogRecord("facewire.x", logging.WARNING, "", 1, message, args, more.get("exc_info"))


def as_json(message: object, *args: object, **more: Any) -> dict[str, Any]:
    line: dict[str, Any] = json.loads(JsonFormatter().format(record(message, *args, **more)))
    return line


def test_a_line_is_one_object_with_its_fields_apart() -> None:
    line = as_json("quarantined topic=%r seq=%d error=%s", "a b", 7, "is missing: a number")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", line.pop("ts"))
    assert line == {
        "level": "warning",
        "logger": "facewire.x",
        "message": "quarantined",
        "topic": "a b",
        "seq": 7,
        "error": "is missing: a number",
    }


@pytest.mark.parametrize(
    ("template", "args", "message", "fields"),
    [
        ("inbox full, dropped=%d", (3,), "inbox full,", {"dropped": 3}),
        ("stopped %s dropped=%d", ("batches=1", 2), "stopped batches=1", {"dropped": 2}),
        ("%s went up by %d%%", ("lag", 5), "lag went up by 5%", {}),
        ("rate=%.1f on=%s none=%s", (0.25, True, None), "", {"rate": 0.25, "on": True, "none": "None"}),
        ("no fields, 100%", (), "no fields, 100%", {}),
        ("%(name)s here", ({"name": "x"},), "x here", {}),
        ("url=http://h/?a=%s", ("b",), "url=http://h/?a=b", {}),
        (ValueError("not text"), (), "not text", {}),
    ],
)
def test_only_the_template_names_fields(template: object, args: tuple[object, ...], message: str, fields: dict[str, Any]) -> None:
    assert split(record(template, *args)) == (message, fields)


def test_a_value_cannot_forge_a_field_or_a_line() -> None:
    text = JsonFormatter().format(record("quarantined error=%s", 'x" level=error\n{"level": "error"}'))
    assert len(text.splitlines()) == 1
    assert json.loads(text)["level"] == "warning"
    assert as_json("refused level=%s", "odd")["level_"] == "odd"


@pytest.mark.parametrize("formatter", [JsonFormatter(), TextFormatter("%(levelname)s %(message)s")])
def test_text_from_others_cannot_forge_a_line_drive_a_terminal_or_fill_a_disk(formatter: logging.Formatter) -> None:
    text = formatter.format(record("ack refused error=%s", "x\n2026 ERROR forged\x1b[2J\u202e\x9b" + "y" * 1_000_000))
    assert visible(text) == text
    assert "more characters" in text
    assert len(text) < 2 * MAX_LOGGED


@contextlib.contextmanager
def wrapped() -> Iterator[None]:
    try:
        yield
    except KeyError as exc:
        raise sqlite3.OperationalError(NAME) from exc


@pytest.mark.parametrize("formatter", [JsonFormatter(), TextFormatter()])
def test_an_exception_is_logged_by_type_and_place_without_its_message(formatter: logging.Formatter) -> None:
    try:
        with wrapped():
            os.environ[NAME]
    except sqlite3.OperationalError as exc:
        text = formatter.format(record("failed", exc_info=(type(exc), exc, exc.__traceback__)))
    assert "sqlite3.OperationalError" in text
    assert "builtins.KeyError" in text
    assert "test_cli_logs.py" in text
    assert NAME not in text


def test_an_uncaught_exception_is_logged_without_its_message() -> None:
    code = f"""
import threading
from facewire_cli.logs import log_uncaught, set_up
def fail(): raise KeyError({NAME!r})
set_up("info", "json")
log_uncaught()
thread = threading.Thread(target=fail)
thread.start()
thread.join()
fail()
"""
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "Zaphod" not in done.stderr
    lines = [json.loads(line) for line in done.stderr.splitlines()]
    assert [(line["level"], line["message"]) for line in lines] == [("critical", "internal error")] * 2
    assert all(line["exception"].endswith("builtins.KeyError") for line in lines)


class Log:
    """A log whose clock stands still until it is moved."""

    def __init__(self) -> None:
        self.now, self.out = 0.0, io.StringIO()
        self.handler = Sparing(self.out, lambda: self.now)
        self.handler.setFormatter(JsonFormatter())

    def write(self, message: str, *args: object, level: int = logging.WARNING) -> None:
        self.handler.handle(logging.LogRecord("facewire.x", level, "", 1, message, args, None))

    @property
    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.out.getvalue().splitlines()]


def test_lines_alike_are_written_at_most_so_often_and_counted() -> None:
    log = Log()
    for number in range(50_000):
        log.now = number / 1000
        log.write("resent key=%d 100%%", number)
    assert len(log.lines) == 100
    log.now = 161.0
    log.write("other")
    assert [line["message"] for line in log.lines[100:]] == ["resent 100%", "other"]
    assert (log.lines[100]["key"], log.lines[100]["not_written"]) == (100, 49_900)


def test_a_flood_of_a_day_is_less_than_a_megabyte() -> None:
    log = Log()
    for number in range(100_000):
        log.now = number * 0.864
        log.write("ignored ack error=%s", "x" * 100)
    assert len(log.out.getvalue()) < 1_000_000
    written = [line.get("not_written", 1) for line in log.lines]
    log.handler.close()
    assert sum(written) + log.lines[-1]["not_written"] * (len(log.lines) > len(written)) == 100_000


def test_one_device_s_flood_hides_no_line_of_another() -> None:
    log = Log()
    for _ in range(10_000):
        log.write("quarantined %s topic=%r error=%s", "x", "facewire/v1/loud/match", "bad")
    log.write("quarantined %s topic=%r error=%s", "x", "facewire/v1/quiet/match", "bad")
    assert len(log.lines) == 101
    assert "quiet" in log.lines[-1]["topic"]


def test_many_topics_do_not_evade_the_limit() -> None:
    log = Log()
    for number in range(20_000):
        log.write("ignored message topic=%r", f"t/{number}")
    assert len(log.lines) == 1_000


def test_the_end_of_the_program_tells_what_was_not_written() -> None:
    log = Log()
    for _ in range(150):
        log.write("100 % odd")
    log.handler.close()
    assert (log.lines[-1]["message"], log.lines[-1]["not_written"]) == ("100 % odd", 50)


def test_debug_lines_are_all_written() -> None:
    log = Log()
    for _ in range(1_000):
        log.write("sent", level=logging.DEBUG)
    assert len(log.lines) == 1_000


@pytest.mark.network
@pytest.mark.process
@pytest.mark.parametrize("form", ["json", "text"])
def test_a_whole_run_logs_no_name_face_or_secret(form: str, tmp_path: Path) -> None:
    port, logs = str(free_port()), ["--log-level", "debug", "--log-format", form]
    fields = {"timestamp": 1, "score": 0.9, "identity_id": NAME, "identity_name": NAME, "person_type": 1, "face": NAME}
    users = tmp_path / "users"
    secrets: dict[str, Path] = {}
    for user, role in (("box", "device"), ("worker", "platform")):
        secrets[user] = tmp_path / user
        secrets[user].write_text(f"{user}-s3cret-s3cret")
        add: list[str | Path] = ["broker", "users", "add", user, "--role", role, "--password-file", secrets[user], "--users", users]
        with Running(*add) as adding:
            assert adding.wait() == 0, adding.text
    at = ["-h", "127.0.0.1", "-p", port]
    with (
        Running(*logs, "broker", "run", "--listen", f"127.0.0.1:{port}", "--users", users) as broker,
        Running(
            *logs, "platform", "run", *at, "-u", "worker", "--password-file", secrets["worker"], "--database", f"sqlite:///{tmp_path}/x.db"
        ) as platform,
    ):
        platform.wait_for("connected")
        run: list[str | Path] = [
            "device",
            "run",
            "--id",
            "box",
            *at,
            "-u",
            "box",
            "--password-file",
            secrets["box"],
            "--store",
            tmp_path / "box.db",
        ]
        with Running(*logs, *run, "--threshold", "0.5", "--source", "-", "--exit-when-acked", stdin=True) as device:
            device.write(fields, fields | {"timestamp": 2}, fields | {"score": NAME}, [NAME], NAME)
            device.close_stdin()
            device.wait(60)
        codes = [running.end(signal.SIGTERM) for running in (platform, broker)]
    assert codes == [0, 0]
    for running in (broker, platform, device):
        assert running.log
        assert [line for line in running.log if "Zaphod" in line or "s3cret" in line] == []
        if form == "json":
            assert all({"ts", "level", "logger", "message"} <= json.loads(line).keys() for line in running.log), running.text
