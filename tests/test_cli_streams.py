"""Output and notices of real commands whose reader has gone, or whose disk is full."""

import os
import subprocess
from pathlib import Path

import pytest
from facewire_process import FACEWIRE

from facewire_device.store import open_store

pytestmark = pytest.mark.process

FULL = Path("/dev/full")
EVENTS = (
    b'{"timestamp": 1764054000000, "score": 0.9, "identity_id": "7", "identity_name": "Ada", "person_type": 1}\n'
    b"bad\n"
    b'{"timestamp": 1764054001000, "score": 0.1, "identity_id": "", "identity_name": "", "person_type": 4}\n'
)
WORDS = (["--help"], ["--version"], ["config", "show", "device", "run"], ["asyncapi"], ["completion", "bash"])


def facewire(*words: str, folder: Path, given: bytes = b"", **streams: int) -> subprocess.CompletedProcess[bytes]:
    kept = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | streams
    command = [*FACEWIRE, *words]
    return subprocess.run(command, input=given, cwd=folder, timeout=60, check=False, stdout=kept["stdout"], stderr=kept["stderr"])


@pytest.fixture
def full() -> int:
    if not FULL.is_char_device():
        pytest.skip("no /dev/full here")
    return os.open(FULL, os.O_WRONLY)


@pytest.fixture
def unread() -> int:
    reader, writer = os.pipe()
    os.close(reader)
    return writer


@pytest.mark.parametrize("words", WORDS, ids=lambda words: words[0])
def test_a_full_disk_is_an_error_that_names_standard_output(words: list[str], tmp_path: Path, full: int) -> None:
    done = facewire(*words, folder=tmp_path, stdout=full)
    assert (done.returncode, done.stderr) == (1, b"Error: standard output: No space left on device\n")


@pytest.mark.parametrize("words", WORDS, ids=lambda words: words[0])
def test_a_reader_that_has_gone_is_no_error(words: list[str], tmp_path: Path, unread: int) -> None:
    done = facewire(*words, folder=tmp_path, stdout=unread)
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.parametrize("where", ["full", "unread"])
def test_notices_that_nobody_can_read_lose_no_event(where: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    done = facewire("device", "record", "--store", "x.db", folder=tmp_path, given=EVENTS, stderr=request.getfixturevalue(where))
    assert done.returncode == 1  # a line was skipped
    assert len(done.stdout.splitlines()) == 2
    with open_store(tmp_path / "x.db", create=False) as store:
        assert store.ring().head == 2


def test_a_user_whose_secret_cannot_be_shown_is_not_added(tmp_path: Path, full: int) -> None:
    done = facewire("broker", "users", "add", "gate-1", "--role", "consumer", "--users", "users", folder=tmp_path, stdout=full)
    assert done.returncode == 1
    assert facewire("broker", "users", "list", "--users", "users", "-o", "csv", folder=tmp_path).stdout.count(b"gate-1") == 0
