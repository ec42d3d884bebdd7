"""An event with large photographs, through the command line and the recorder."""

import base64
import hashlib
import json
import os
import subprocess
from pathlib import Path
from typing import Any

from device_events import line
from facewire_process import FACEWIRE

from facewire import codec
from facewire_device.photo_folder import PhotoFolder, photos_of
from facewire_device.recorder import Recorder
from facewire_device.store import open_store

PICTURES = {name: os.urandom(300_000) for name in ("reg_pic", "spot_pic", "recognize_face")}
ENCODED: dict[str, Any] = {name: base64.b64encode(data).decode() for name, data in PICTURES.items()}
NAMED: dict[str, Any] = {
    name: {"sha256": hashlib.sha256(data).hexdigest(), "bytes": 300_000, "kind": "application/octet-stream"}
    for name, data in PICTURES.items()
}


def check(path: Path, count: int) -> None:
    with open_store(path) as store:
        rows = [codec.unpack(packed) for _, packed in store.events_above(0, -1.0)]
    assert len(rows) == count
    for row in rows:
        assert {name: row[name] for name in PICTURES} == NAMED
    folder = PhotoFolder(photos_of(path))
    assert {name: folder.read(named["sha256"]) for name, named in NAMED.items()} == PICTURES


def test_the_recorder_keeps_them_beside_the_store(tmp_path: Path) -> None:
    path = tmp_path / "x.db"
    with Recorder(lambda: open_store(path)) as recorder:
        recorder.record(json.loads(line(1, 0.5, **ENCODED)))
    check(path, 1)


def test_so_does_the_command(tmp_path: Path) -> None:
    path = tmp_path / "x.db"
    lines = f"{line(1, 0.5, **ENCODED)}\n{line(2, 0.5, **ENCODED)}\n"
    done = subprocess.run(
        [*FACEWIRE, "device", "record", "--store", path, "-o", "json"], input=lines, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert [json.loads(row)["seq"] for row in done.stdout.splitlines()] == [1, 2]
    check(path, 2)
