"""A hostile broker, or a thief of the platform's credential, against a box's agent process."""

import logging
import re
from pathlib import Path

import pytest
from facewire_process import Running
from mqtt_probe import length, publish, text
from test_gate_matches import Hostile

from facewire.messages import Ack, encode
from facewire.topics import Topics

pytestmark = [pytest.mark.network, pytest.mark.process]

log = logging.getLogger(__name__)

MB = 1024 * 1024
ACK = Topics().of("lobby-1", "ack")
FORGED = encode(Ack("e" * 16, "b" * 16, 7, 7, "store", conflict=1))


def test_a_huge_packet_and_a_flood_of_acks_take_little_memory_and_little_log(tmp_path: Path) -> None:
    with (
        Hostile() as broker,
        Running(
            "device", "run", "--id", "lobby-1", "-p", str(broker.address.port), "--store", tmp_path / "x.db", "--threshold", "1"
        ) as box,
    ):
        assert broker.subscribed.acquire(timeout=20)
        broker.send(b"\x32" + length(220 * MB), text(ACK), b"\x00\x01")
        left = 220 * MB - len(text(ACK)) - 2
        while left:
            piece = bytes(min(left, MB))
            broker.send(piece)
            left -= len(piece)
        assert broker.puback.acquire(timeout=60)
        for number in range(200):
            broker.send(*(publish(ACK, b"%d" % number) + publish(ACK, FORGED) + publish(ACK[:-3] + f"x{number}", b"?") for _ in range(100)))
        broker.send(publish(ACK, FORGED, 1, packet_id=2))
        assert broker.puback.acquire(timeout=60)
        status = Path(f"/proc/{box.process.pid}/status").read_text()
        assert box.end() == 0
    peak, logged = int(re.findall(r"VmHWM:\s+(\d+)", status)[0]) / 1024, sum(map(len, box.log))
    log.info("agent peak_mb=%.0f logged_kb=%.0f", peak, logged / 1024)
    assert peak < 128
    assert logged < MB
    assert any("not_written=" in line for line in box.log)
