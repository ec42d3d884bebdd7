"""A gate that restarts remembers what it acted on, whatever happened to its file."""

import os
import stat
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from facewire.errors import BrokerError
from facewire_gate.memory import SLOTS, Acted, Memory


def remembered(path: Path) -> list[Acted]:
    memory = Memory(path)
    memory.close()
    return memory.before


def test_added_matches_are_there_after_a_restart_the_oldest_first(tmp_path: Path) -> None:
    path, expected = tmp_path / "acted", [Acted("lobby-1", "e" * 16, seq) for seq in range(10)]
    assert remembered(path) == []
    for acted in expected:
        memory = Memory(path)  # a restart for each
        memory.add(acted)
        memory.close()
        memory.close()
    assert remembered(path) == expected
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_the_file_is_bounded_and_the_oldest_give_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fdatasync", lambda _: None)  # 5,000 of them take a minute on some disks
    path, memory = tmp_path / "acted", Memory(tmp_path / "acted")
    for seq in range(5_000):
        memory.add(Acted("d" * 64, "e" * 16, 2**62 + seq))
    memory.close()
    assert path.stat().st_size == SLOTS * 192
    assert [acted.seq - 2**62 for acted in remembered(path)] == list(range(5_000 - SLOTS, 5_000))


@settings(max_examples=50)
@given(noise=st.binary(max_size=400), at=st.integers(0, 800), cut=st.integers(0, 1_000))
def test_a_damaged_file_costs_at_most_what_was_damaged(tmp_path_factory: pytest.TempPathFactory, noise: bytes, at: int, cut: int) -> None:
    path = tmp_path_factory.mktemp("memory") / "acted"
    memory = Memory(path)
    for seq in range(5):
        memory.add(Acted("lobby-1", "e" * 16, seq))
    memory.close()
    data = path.read_bytes()
    path.write_bytes((data[:at] + noise + data[at + len(noise) :])[:cut])
    whole = {n for n in range(5) if path.read_bytes()[n * 192 : n * 192 + 192] == data[n * 192 : n * 192 + 192]}
    assert whole <= {acted.seq for acted in remembered(path)}


@pytest.mark.parametrize(
    "slot", [b"null", b"[]", b"1", b'{"n": "1"}', b'{"n": 1, "seq": 1}', b'{"n": 1, "seq": "x", "device": "a", "epoch": "b"}']
)
def test_a_slot_of_another_form_is_skipped(tmp_path: Path, slot: bytes) -> None:
    (tmp_path / "acted").write_bytes(slot.ljust(191) + b"\n")
    assert remembered(tmp_path / "acted") == []


def test_one_gate_at_a_time_has_the_file_and_it_follows_no_link(tmp_path: Path) -> None:
    memory = Memory(tmp_path / "acted")
    with pytest.raises(BrokerError, match="another gate"):
        Memory(tmp_path / "acted")
    memory.close()
    (tmp_path / "link").symlink_to(tmp_path / "acted")
    for path in (tmp_path / "link", tmp_path / "nowhere" / "acted", tmp_path):
        with pytest.raises(BrokerError, match=path.name):
            Memory(path)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no full device to write to")
def test_a_full_disk_is_said_and_locks_no_door(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    memory = Memory(tmp_path / "acted")
    memory.close()
    memory._file = os.open("/dev/full", os.O_RDWR)  # a disk cannot be filled here
    memory.add(Acted("lobby-1", "e" * 16, 1))
    memory.close()
    assert "match not remembered" in caplog.text
