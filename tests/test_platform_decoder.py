"""The process that decodes batches: it gives what reading them here gives, or leaves them, and does not outlive its worker."""

import dataclasses
import itertools
import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest
from any_event import EVENTS
from hypothesis import given, settings
from hypothesis import strategies as st
from platform_model import BOOT, EPOCH, batch

import facewire_platform.decoder
import facewire_platform.reader
from facewire import codec
from facewire.codec import Format
from facewire.events import Event
from facewire.messages import Batch, decode_batch, encode
from facewire.topics import Topics
from facewire_mqtt.connection import Received
from facewire_platform.decoder import Decoder, _pack, unpack
from facewire_platform.inbox import Inbox
from facewire_platform.reader import Reader
from facewire_platform.rows import CopyRows, InsertRows, Rows


@pytest.fixture
def decoder() -> Iterator[Decoder]:
    made = Decoder(InsertRows)
    yield made
    made.close()


@settings(deadline=None)
@given(st.sampled_from([InsertRows, CopyRows]), st.lists(EVENTS, max_size=5))
def test_a_batch_is_the_same_as_read_here(rows: type[Rows], events: list[Event]) -> None:
    payload = encode(Batch(EPOCH, BOOT, 0, len(events), 9, 1, tuple(made._replace(seq=seq) for seq, made in enumerate(events, 1))))
    packed = _pack(payload, rows)
    assert packed is not None
    came, here = unpack(packed, rows), decode_batch(payload)
    assert dataclasses.replace(came, events=()) == dataclasses.replace(here, events=())
    assert rows.of(came.events).packed == rows.of(here.events).packed


USUAL = encode(batch(0, 2, 1, 2))
UNUSUAL = {
    "nothing": b"",
    "JSON": encode(batch(0, 1, 1), Format.JSON),
    "a bad event among good ones": USUAL.replace(codec.pack("p"), codec.pack(7), 1),
    "a shape that is wrong": encode(batch(0, 1, 1)).replace(codec.pack("after") + b"\x00", codec.pack("after") + b"\x09"),
    "a status": codec.pack({"boot": BOOT, "online": True, "at": 1}),
    "no msgpack": b"\xc1",
}


@pytest.mark.process
@pytest.mark.parametrize("rows", [InsertRows, CopyRows])
def test_what_is_unusual_it_leaves(rows: type[Rows]) -> None:
    decoder = Decoder(rows)
    packed = decoder.decode([USUAL, *UNUSUAL.values(), USUAL])
    decoder.close()
    assert packed[0] == packed[-1] == _pack(USUAL, rows)
    assert dict(zip(UNUSUAL, packed[1:-1], strict=True)) == dict.fromkeys(UNUSUAL)


@pytest.mark.process
def test_it_is_not_waited_for_when_it_is_dead_or_stuck(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(facewire_platform.decoder, "PATIENCE", 0.05)
    for how, size_bytes in itertools.product((signal.SIGKILL, signal.SIGSTOP), (1, 1_000_000)):  # what the socket holds, and more
        decoder = Decoder(InsertRows)
        decoder._process.send_signal(how)
        with pytest.raises((OSError, EOFError)):
            decoder.decode([bytes(size_bytes)])
        decoder.close()


@pytest.mark.process
def test_it_ends_when_its_worker_is_killed() -> None:
    program = "import time; from facewire_platform.decoder import Decoder; from facewire_platform.rows import InsertRows; d = Decoder(InsertRows); d.decode([b'']); print(d._process.pid, flush=True); time.sleep(99)"
    with subprocess.Popen([sys.executable, "-P", "-c", program], stdout=subprocess.PIPE, text=True) as worker:
        assert worker.stdout is not None
        child = os.pidfd_open(int(worker.stdout.readline()))
        worker.kill()
    assert select.select([child], [], [], 20)[0], "it lives on"
    os.close(child)


@pytest.mark.process
def test_it_hears_no_signal_that_is_for_its_worker(decoder: Decoder) -> None:
    decoder.decode([b""])
    decoder._process.terminate()
    assert os.getsid(decoder._process.pid) != os.getsid(0)
    assert decoder.decode([USUAL]) == [_pack(USUAL, InsertRows)]


def history(seq: int) -> Received:
    return Received("facewire/v1/d/history", encode(batch(seq - 1, seq, seq)), 1, False)


def cursors(reader: Reader, count: int) -> list[int]:
    taken: list[int] = []
    while len(taken) < count:
        for held in reader.take(10.0):
            assert isinstance(held.taken.message, Batch)
            taken.append(held.taken.message.cursor)
    return taken


@pytest.mark.process
def test_a_reader_whose_decoder_dies_reads_on_and_starts_another(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(facewire_platform.reader, "DECODER_RETRY", 0.0)
    inbox = Inbox()
    reader = Reader(inbox, Topics(), InsertRows)
    reader.start()
    inbox.put(history(1))
    assert cursors(reader, 1) == [1]
    first = reader._decoder
    assert first is not None
    first._process.kill()
    first._process.wait()
    for seq in range(2, 102):
        inbox.put(history(seq))
    assert cursors(reader, 100) == list(range(2, 102))
    assert reader._decoder not in {None, first}
    reader.stop()
    assert "decoder failed" in caplog.text


def test_a_reader_does_without_a_decoder_that_cannot_be_started(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    inbox = Inbox()
    reader = Reader(inbox, Topics(), InsertRows)
    reader.start()
    for seq in range(1, 101):
        inbox.put(history(seq))
    assert cursors(reader, 100) == list(range(1, 101))
    reader.stop()
    assert caplog.text.count("decoder failed") == 1
