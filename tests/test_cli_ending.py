"""A signal at a chosen moment, in every command that has no end of its own.

A hook sends the signal when the process enters a function.
"""

import fcntl
import itertools
import os
import re
import signal
import subprocess
import sys
import termios
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import pytest
from broker_engines import free_port
from facewire_process import Running
from mqtt_probe import Probe, publish
from waiting import wait_until

from facewire.messages import Status, decode
from facewire.topics import Topics
from facewire_broker import embedded
from facewire_cli.ending import Ending
from facewire_mqtt.address import Address

#: Argument 1 names functions. When the main thread enters the first of them, the process gets the
#: signal of argument 2; then the second …
HOOKED: Final = """
import os, signal, sys
points, number = sys.argv.pop(1).split(","), int(sys.argv.pop(1))
def look(frame, event, _):
    if event == "call" and points and frame.f_code.co_qualname == points[0]:
        print("signal in", points.pop(0), file=sys.stderr, flush=True)
        os.kill(os.getpid(), number)
sys.setprofile(look)
from facewire_cli.main import main
main()
"""
TOPICS: Final = Topics()
SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)


def signalled_in(points: str, number: int, *words: str | Path, stdin: bool = False) -> Running:
    """A command that gets a signal as it enters each of some functions."""
    return Running(*words, stdin=stdin, command=[sys.executable, "-P", "-c", HOOKED, points, str(number)])


def ends_well(running: Running, points: str, code: int = 0) -> str:
    assert running.wait() == code, running.text
    assert [*re.findall(r"signal in (\S+)", running.text)] == points.split(",")
    assert "Traceback" not in running.text
    assert "internal error" not in running.text
    return running.text


def waiting_bytes(pipe: Any) -> int:
    """How much has been written to a pipe and not read."""
    return int.from_bytes(fcntl.ioctl(pipe, termios.FIONREAD, bytes(4)), sys.byteorder)


def last_status(address: Address, device: str) -> Status | None:
    """The messages that the broker retains."""
    with Probe(address, "looks") as probe:
        probe.subscribe((TOPICS.of(device, "status"), 1))
        probe.ping()
    statuses = [message for got in probe.inbox if isinstance(message := decode("status", got.payload), Status)]
    return statuses[0] if statuses else None


DEVICE: Final = (
    "Agent.__init__",
    "Agent.__enter__",
    "Agent.start",
    "Connection.start",
    "Agent.wait_connected",
    "Agent.stop,Connection.close",
    "Agent.__enter__,Service.stopping,Agent.__exit__",
)
REPLAY: Final = ("Agent.__init__", "Agent.start", "Recorder.__enter__", "_send", "Recorder.record_all", "Recorder.record_all,Agent.stop")
BROKER: Final = ("allow_many_files", "Broker.__init__", "Broker.start", "Broker.start,Broker.shutdown", "_set_at,Service.stopping")
PLATFORM: Final = ("Worker.__init__", "Worker.run", "Worker.turn", "Worker.turn,Receiver.close", "Receiver.close")
WEB: Final = ("listen", "serve_web", "create_app", "WebServer.__init__", "WebServer._end")
TAIL: Final = ("Output.__init__", "Connection.start", "Connection.start,Connection.close", "Follower.rows")


def by_turns(points: Sequence[str]) -> list[tuple[str, int]]:
    """Each with one of the two signals."""
    return list(zip(points, itertools.cycle(SIGNALS), strict=False))


@pytest.mark.process
class TestEnding:
    """The thing itself, in this process's main thread."""

    @pytest.fixture
    def ending(self) -> Iterator[Ending]:
        before = {number: signal.getsignal(number) for number in SIGNALS}
        with Ending() as ending:
            yield ending
        for number, handler in before.items():
            signal.signal(number, handler)

    def test_another_thread_ends_the_wait(self) -> None:
        ending = Ending()
        assert not ending.wait(0)
        threading.Thread(target=ending.announce).start()
        assert ending.wait(10)
        assert ending.wait(0)
        assert not ending.asked

    def test_a_signal_is_noted_and_raises_nothing(self, ending: Ending) -> None:
        for number in SIGNALS:
            os.kill(os.getpid(), number)
            assert ending.asked
            assert ending.wait(0)

    def test_after_a_failure_the_signals_are_what_they_were(self) -> None:
        before = [signal.getsignal(number) for number in SIGNALS]
        with pytest.raises(ZeroDivisionError), Ending():
            raise ZeroDivisionError
        assert [signal.getsignal(number) for number in SIGNALS] == before

    def test_a_thousand_announcements_do_not_block(self) -> None:
        ending = Ending()
        for _ in range(100_000):
            ending.announce()
        assert ending.wait(0)

    def test_a_descriptor_is_read_until_the_end_comes(self) -> None:
        reader, writer = os.pipe()
        ending = Ending()
        os.write(writer, b"x")
        assert ending.readable(reader)
        os.close(writer)
        assert os.read(reader, 9) == b"x"
        assert ending.readable(reader)
        assert os.read(reader, 9) == b""
        ending.announce()
        assert not ending.readable(reader)
        os.close(reader)

    def test_a_write_is_interrupted_and_what_follows_is_not(self, ending: Ending) -> None:
        with pytest.raises(BrokenPipeError), ending.unread():
            os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)

    def test_after_a_signal_nothing_is_written(self, ending: Ending) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(BrokenPipeError), ending.unread():
            raise AssertionError("entered")


@pytest.mark.network
@pytest.mark.process
class TestCommands:
    @pytest.mark.parametrize(("points", "number"), by_turns(DEVICE))
    def test_a_device(self, tmp_path: Path, points: str, number: int) -> None:
        words = ("device", "run", "--id", "d", "--store", tmp_path / "s.db", "--source", "-")
        with embedded.running() as address, signalled_in(points, number, *words, "-p", str(address.port), stdin=True) as running:
            if points.startswith("Agent.stop"):
                running.wait_for("connected")
                running.process.send_signal(number)
            assert "device stopped" in ends_well(running, points)
            status = last_status(address, "d")
            assert status is None or not status.online

    @pytest.mark.parametrize("points", ["Agent.__enter__", "Agent.wait_acked"])
    def test_a_device_with_exit_when_acked_is_interrupted_with_130(self, tmp_path: Path, points: str) -> None:
        words = ("device", "run", "--id", "d", "--store", tmp_path / "s.db", "--exit-when-acked", "-p", str(free_port()))
        with signalled_in(points, signal.SIGINT, *words) as running:
            assert "device stopped" in ends_well(running, points, code=130)

    @pytest.fixture
    def replay(self, tmp_path: Path) -> Sequence[str | Path]:
        """A replay lasts as long as its recording: here a day."""
        event = '{"timestamp": %d, "score": 0.9, "identity_id": "7", "identity_name": "Ada", "person_type": 1}\n'
        (tmp_path / "day.jsonl").write_text(event % 1_764_000_000_000 + event % 1_764_086_400_000)
        return "replay", tmp_path / "day.jsonl", "-d", "d", "--stores", tmp_path / "stores"

    def test_a_replay_ends_when_an_agent_fails(self, replay: Sequence[str | Path]) -> None:
        failing = "from facewire_cli.main import main\nfrom facewire_device.uploader import Uploader\nUploader.poll = None\nmain()\n"
        command = [sys.executable, "-P", "-c", failing]
        with embedded.running() as address, Running(*replay, "-p", str(address.port), command=command) as running:
            assert running.wait() == 1
        assert "Error: the agent has failed: TypeError(" in running.text

    @pytest.mark.parametrize(("points", "number"), by_turns(REPLAY))
    def test_a_replay(self, replay: Sequence[str | Path], points: str, number: int) -> None:
        with embedded.running() as address, signalled_in(points, number, *replay, "-p", str(address.port)) as running:
            assert "device stopped" in ends_well(running, points, code=130)
            status = last_status(address, "d")
            assert status is None or not status.online

    def test_a_connected_device_says_goodbye_on_a_signal(self, tmp_path: Path) -> None:
        words = ("device", "run", "--id", "d", "--store", tmp_path / "s.db")
        with embedded.running() as address, Running(*words, "-p", str(address.port)) as running:
            running.wait_for("agent connected")
            assert running.end(signal.SIGTERM) == 0
            assert (status := last_status(address, "d")) is not None
            assert not status.online

    @pytest.mark.parametrize(("points", "number"), by_turns(BROKER))
    def test_a_broker(self, points: str, number: int) -> None:
        with signalled_in(points, number, "broker", "run", "--listen", "127.0.0.1:0") as running:
            if "Service.stopping" in points:
                running.wait_for("listening")
            text = ends_well(running, points)
        assert "listening" in text
        assert "stopped address=" in text

    @pytest.mark.parametrize(("points", "number"), by_turns(PLATFORM))
    def test_a_platform(self, tmp_path: Path, points: str, number: int) -> None:
        words = ("platform", "run", "--database", f"sqlite:///{tmp_path / 'p.db'}")
        with embedded.running() as address, signalled_in(points, number, *words, "-p", str(address.port)) as running:
            if points == "Receiver.close":
                running.wait_for("connected")
                running.process.send_signal(number)
            assert "worker stopped" in ends_well(running, points)

    @pytest.mark.parametrize(("points", "number"), by_turns(WEB))
    def test_a_page(self, tmp_path: Path, points: str, number: int) -> None:
        database = f"sqlite:///{tmp_path / 'p.db'}"
        words = ("platform", "web", "--database", database, "--listen", "127.0.0.1:0", "-p", str(free_port()))
        with signalled_in(points, number, *words) as running:
            if points == "WebServer._end":
                running.wait_for("web page at")
                running.process.send_signal(number)
            ends_well(running, points)

    @pytest.mark.parametrize("fresh", [(), ("--fresh",)])
    @pytest.mark.parametrize("points", TAIL)
    def test_a_tail(self, points: str, fresh: tuple[str, ...]) -> None:
        if fresh:
            points = points.replace("Follower", "FreshFollower")
        with embedded.running() as address, signalled_in(points, signal.SIGINT, "tail", "-p", str(address.port), *fresh) as running:
            ends_well(running, points)

    def test_demo_keep_ends_well_on_a_signal(self) -> None:
        quick = "import facewire_cli.demo as demo\nDemo = demo.Demo\nDemo.start = Demo.follow = lambda _: None\n"
        quick += "Demo._port, Demo.verdicts = 1, lambda _: []\n"
        points = "Demo.keep,ExitStack.__exit__"
        with Running("demo", "--keep", command=[sys.executable, "-P", "-c", quick + HOOKED, points, "15"]) as running:
            ends_well(running, points)

    def test_a_tail_that_nobody_reads(self) -> None:
        with embedded.running() as address, Probe(address, "floods") as probe:
            command = [sys.executable, "-P", "-m", "facewire_cli", "tail", "-p", str(address.port), "-o", "json"]
            with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as tail:
                assert tail.stderr is not None
                assert "connected" in tail.stderr.readline()
                for _ in range(200):
                    probe.send(publish(TOPICS.of("d", "match"), b"x" * 1000))
                wait_until(lambda: waiting_bytes(tail.stdout) > 60_000)  # of 65,536: the next row blocks
                tail.send_signal(signal.SIGTERM)
                assert tail.wait(10) == 0
                assert "Traceback" not in tail.stderr.read()
