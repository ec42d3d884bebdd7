"""`facewire device` as real processes, as a recognition process and a supervisor see it."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from device_events import events, line
from device_platform import platform_on
from facewire_process import Running
from waiting import WITHIN

from facewire.messages import Batch, Match
from facewire_broker import embedded
from facewire_device.store import open_store
from facewire_mqtt import Address

pytestmark = [pytest.mark.network, pytest.mark.process]

FACEWIRE = str(Path(sys.executable).with_name("facewire"))
#: As on a box, which has no psycopg: peewee imports it if it is installed, and it takes 11 MB.
ON_A_BOX = [sys.executable, "-P", "-c", "import sys; sys.modules['psycopg'] = None; from facewire_cli.main import main; main()"]


def call(*args: object, given: str | bytes = b"", code: int = 0) -> subprocess.CompletedProcess[bytes]:
    """Run `facewire device …` to its end."""
    content = given.encode() if isinstance(given, str) else given
    done = subprocess.run([FACEWIRE, "device", *map(str, args)], input=content, capture_output=True, timeout=60, check=False)
    assert done.returncode == code, done.stderr.decode()
    assert b"Traceback" not in done.stderr, done.stderr.decode()
    return done


def rows(done: subprocess.CompletedProcess[bytes]) -> list[dict[str, Any]]:
    return [json.loads(text) for text in done.stdout.splitlines()]


class Agent(Running):
    """A running `facewire device run`."""

    def __init__(self, *args: object) -> None:
        super().__init__("device", "run", "--id", "d", *map(str, args), stdin=True, command=ON_A_BOX)

    def wait(self, within: float = WITHIN) -> int:
        code = super().wait(within)
        assert "Traceback" not in self.text, self.text
        return code


@pytest.fixture
def broker() -> Iterator[Address]:
    with embedded.running() as address:
        yield address


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "s.db"


@pytest.fixture
def start(broker: Address, store: Path) -> Iterator[Callable[..., Agent]]:
    with ExitStack() as stack:

        def start(*args: object) -> Agent:
            return stack.enter_context(Agent("-p", broker.port, "--store", store, *args))

        yield start


Start = Callable[..., Agent]


# record


def test_record_prints_the_identity_of_each_event_once_it_is_durable(store: Path) -> None:
    first = rows(call("record", "--store", store, line(1), line(2), "-o", "json"))
    assert [row["seq"] for row in first] == [1, 2]
    again = rows(call("record", "--store", store, "-o", "json", given=line(3) + "\r\n\n" + line(4)))
    assert [(row["epoch"], row["seq"]) for row in again] == [(first[0]["epoch"], 3), (first[0]["epoch"], 4)]


def test_record_reports_each_bad_line_or_argument_records_the_others_and_fails(store: Path) -> None:
    done = call("record", "--store", store, given=line(1) + "\nbad\n" + line(2) + "\n", code=1)
    assert b"\nline 2 skipped: " in done.stderr
    assert [row["seq"] for row in rows(done)] == [1, 2]
    done = call("record", "--store", store, "{}", line(3), code=1)
    assert done.stderr.startswith(b"line 1 skipped: timestamp is missing")
    assert [row["seq"] for row in rows(done)] == [3]


def test_record_answers_each_event_before_the_next_one_arrives(store: Path) -> None:
    command = [FACEWIRE, "device", "record", "--store", str(store), "-o", "json"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin
        assert process.stdout
        for seq in (1, 2):
            process.stdin.write(line() + "\n")
            process.stdin.flush()
            assert json.loads(process.stdout.readline())["seq"] == seq
    assert process.returncode == 0


@pytest.mark.parametrize("command", [["record"], ["status"], ["run", "--id", "d"]])
def test_a_foreign_file_is_a_clear_error_for_every_command(store: Path, command: list[str]) -> None:
    store.write_bytes(b"foreign")
    done = call(*command, "--store", store, given=line(), code=1)
    assert b"s.db: is not an SQLite database, so not a device store" in done.stderr
    assert store.read_bytes() == b"foreign"
    assert [file.name for file in store.parent.iterdir()] == [store.name], "nothing is left beside it"


def test_replay_names_a_folder_that_it_cannot_make_and_a_file_that_is_no_text(tmp_path: Path) -> None:
    source, badges = tmp_path / "events.jsonl", tmp_path / "badges.csv"
    source.write_text(line() + "\n")
    badges.write_bytes(b"\xff\xfe")
    for file, stores, said in (
        (source, source / "stores", f"{source}/stores: this folder cannot be made: Not a directory"),
        (badges, tmp_path, f"{badges}: not UTF-8"),
    ):
        done = subprocess.run([FACEWIRE, "replay", file, "-d", "q", "--stores", stores], capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (1, f"Error: {said}\n")


# status


def test_status_shows_the_state_of_a_store(store: Path) -> None:
    with open_store(store, capacity=100) as opened:
        opened.assign_device("gate")
        opened.append(events(1000, 1119))
        epoch = opened.ring().epoch
    (row,) = rows(call("status", "--store", store, "-o", "json"))
    assert {name: row[name] for name in ("device", "epoch", "head", "oldest", "cursor", "lag", "dropped", "capacity")} == {
        "device": "gate",
        "epoch": epoch,
        "head": 120,
        "oldest": 21,
        "cursor": 0,
        "lag": 120,
        "dropped": 20,
        "capacity": 100,
    }
    assert row["rate"] == 1000.0
    assert row["full_in"] == 0


@pytest.mark.parametrize(
    ("count", "budget"),
    [(2, "outage budget unknown"), (5, "ring full in 3 h 0 m at this rate"), (11, "ring full: each new event overwrites")],
)
def test_status_shows_how_long_an_outage_may_last(store: Path, count: int, budget: str) -> None:
    with open_store(store, capacity=10) as opened:
        for number in range(count):
            opened.append([events(1, 1)[0]._replace(timestamp=number * 2_160_000)])
    shown = call("status", "--store", store, "-o", "pretty").stdout.decode()
    assert re.sub(r"\b3h\b", "3 h 0 m", shown).splitlines()[-1].startswith(budget)


def test_status_of_a_missing_store_fails_and_creates_none(store: Path) -> None:
    assert b"there is no store" in call("status", "--store", store, code=1).stderr
    assert not store.exists()


# run: what it refuses


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["--period", "10"], "period of 10 s is below the limit of 20 s"),
        (["--batch", "101"], "batch of 101 events is not from 1 to the contract's limit of 100"),
        (["--batch", "0"], "batch of 0 events"),
        (["--catch-up", "0"], "catch-up of 0 batches a period is below the limit of 1"),
        (["--capacity", "0"], "capacity of 0 events is not from 1"),
        (["--capacity", "99999999999999999999"], "capacity of 99999999999999999999 events is not from 1"),
        (["--threshold", "nan"], "threshold of nan is not a finite number"),
        (["--id", "a/b"], "a/b"),
        (["--source", "/nonexistent"], "/nonexistent"),
        (["--source", "/etc"], "/etc"),
    ],
)
def test_a_wrong_option_is_refused_with_value_and_limit_and_creates_no_store(store: Path, args: list[str], said: str) -> None:
    done = call("run", "--id", "d", "--store", store, *args, code=2)
    assert said in " ".join(done.stderr.decode().split())
    assert not store.exists()


def test_a_closed_standard_input_is_an_error(store: Path) -> None:
    shell = f"exec {FACEWIRE} device record --store {store} <&-"
    done = subprocess.run(["sh", "-c", shell], capture_output=True, timeout=30, check=False)
    assert done.returncode == 1
    assert b"standard input is closed" in done.stderr


def test_a_second_agent_on_a_store_is_refused(start: Start, store: Path) -> None:
    first = start()
    first.wait_for("connected")
    assert b"another agent runs on this store" in call("run", "--id", "d", "--store", store, code=1).stderr
    assert first.end(signal.SIGTERM) == 0


def test_a_damaged_store_is_refused_or_set_aside(start: Start, store: Path) -> None:
    with open_store(store) as opened:
        opened.append(events(1, 300, note="x" * 50))
    os.truncate(store, store.stat().st_size // 2)
    assert b"--set-aside-damaged" in call("run", "--id", "d", "--store", store, code=1).stderr
    agent = start("--set-aside-damaged")
    agent.wait_for("connected")
    assert agent.end(signal.SIGTERM) == 0
    assert store.with_name("s.db.damaged-1").exists()


# run: sources and ends


def test_a_source_is_recorded_published_and_acked_and_bad_lines_are_numbered(
    start: Start, broker: Address, tmp_path: Path, store: Path
) -> None:
    source = tmp_path / "source"
    source.write_bytes("\r\n".join([line(1, 0.9), "", "noise", *(line(number) for number in range(2, 151))]).encode())
    with platform_on(broker, acks=True) as platform:
        agent = start("--threshold", 0.8, "--catch-up", 10, "--source", source, "--exit-when-acked")
        agent.wait_for("line 3 skipped: ")
        agent.wait_for("source ended: 150 events recorded, 1 line skipped")
        assert agent.wait() == 0
        heard = platform.drain()
    assert [message.event.timestamp for message in heard if isinstance(message, Match)] == [1]
    stored = [item.timestamp for message in heard if isinstance(message, Batch) for item in message.events]
    assert stored == list(range(1, 151))
    (row,) = rows(call("status", "--store", store, "-o", "json"))
    assert (row["device"], row["head"], row["cursor"], row["lag"]) == ("d", 150, 150, 0)


def test_standard_input_is_read_as_it_arrives_and_the_agent_keeps_running_at_its_end(start: Start, broker: Address) -> None:
    with platform_on(broker, acks=True) as platform:
        agent = start("--threshold", 0.8, "--source", "-")
        agent.wait_for("connected")
        for number in (1, 2):
            agent.write_lines(line(number, 0.9))
            assert platform.wait(Match)[0].event.timestamp == number
        agent.close_stdin()
        agent.wait_for("source ended: 2 events recorded")
        assert agent.process.poll() is None
        assert agent.end(signal.SIGTERM) == 0


def test_a_named_pipe_without_a_writer_does_not_block_the_agent(start: Start, tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    agent = start("--source", pipe)
    agent.wait_for("connected")
    with pipe.open("w") as writer:
        writer.write(line())
    agent.wait_for("source ended: 1 event recorded")
    assert agent.end(signal.SIGINT) == 0


def test_a_named_pipe_that_nobody_opens_does_not_block_the_end(start: Start, tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    agent = start("--source", pipe)
    agent.wait_for("connected")
    assert agent.end(signal.SIGTERM) == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize(
    ("args", "code"), [([], 0), (["--source", "-"], 0), (["--exit-when-acked"], 130), (["--source", "-", "--exit-when-acked"], 130)]
)
def test_a_signal_ends_an_agent_but_interrupts_work_that_has_an_end(
    start: Start, number: signal.Signals, args: list[str], code: int
) -> None:
    agent = start(*args)
    agent.wait_for("connected")
    assert agent.end(number) == code
    assert "device stopped" in "".join(agent.log[-2:])


def test_an_agent_without_a_broker_records_and_ends_with_code_0(store: Path) -> None:
    with Agent("-p", 1, "--store", store, "--threshold", 0.8, "--source", "-") as agent:
        agent.write_lines(line(1, 0.9))
        agent.close_stdin()
        agent.wait_for("source ended: 1 event recorded")
        assert agent.end(signal.SIGTERM) == 0
        assert "matches_published=0 matches_missed=1" in agent.log[-1]


def test_while_the_disk_is_full_the_source_waits(start: Start, store: Path) -> None:
    agent = start("--source", "-", "--threshold", 0.8)
    agent.wait_for("connected")
    limit = f"--pid={agent.process.pid}"
    subprocess.run(["prlimit", limit, f"--fsize={store.stat().st_size}:"], check=True)
    agent.write_lines(*(line(number, note="x" * 1_000) for number in range(1, 101)))
    agent.wait_for("source waits: ")
    subprocess.run(["prlimit", limit, "--fsize=unlimited:"], check=True)
    agent.close_stdin()
    agent.wait_for("source ended: 100 events recorded")
    assert agent.end(signal.SIGTERM) == 0
    with open_store(store) as opened:
        assert opened.ring().head == 100


def test_an_event_that_another_process_records_is_a_match_at_once(start: Start, broker: Address, store: Path) -> None:
    with platform_on(broker, acks=True) as platform:
        agent = start("--threshold", 0.8)
        agent.wait_for("connected")
        call("record", "--store", store, line(7, 0.9))
        assert platform.wait(Match)[0].event.timestamp == 7, "before the next period"
        assert agent.end(signal.SIGTERM) == 0


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads /proc")
def test_a_busy_agent_uses_less_than_40_mb_of_memory(start: Start, broker: Address) -> None:
    with platform_on(broker, acks=True) as platform:
        agent = start("--threshold", 0.5, "--source", "-", "--catch-up", 100)
        agent.wait_for("connected")
        agent.write_lines(*(line(number, 0.9, note="x" * 200) for number in range(3_000)))
        platform.wait(Batch, lambda batch: batch.cursor >= 3_000)
        status = Path(f"/proc/{agent.process.pid}/status").read_text()
        found = re.search(r"VmHWM:\s+(\d+) kB", status)
        assert found
        assert int(found[1]) < 40 * 1024
        assert agent.end(signal.SIGTERM) == 0
