"""Photographs are taken out of events and stored by their hashes in a bounded folder."""

import base64
import errno
import hashlib
import json
import os
from pathlib import Path
from typing import Any

import pytest

from facewire import codec
from facewire.errors import StoreError
from facewire.photographs import Photograph, take_out
from facewire_device import photo_folder
from facewire_device.photo_folder import PhotoFolder, photos_of

JPEG = b"\xff\xd8\xff\xe0\0\x10JFIF" + bytes(range(256))


def named(data: bytes, kind: str = "image/jpeg") -> dict[str, Any]:
    return {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data), "kind": kind}


def text(data: bytes) -> str:
    return base64.b64encode(data).decode()


@pytest.mark.parametrize(
    "value", [JPEG, text(JPEG), text(JPEG).rstrip("="), f"data:image/jpeg;base64,{text(JPEG)}", base64.encodebytes(JPEG).decode()]
)
def test_a_photograph_is_known_by_how_it_begins_in_whatever_field(value: Any) -> None:
    fields, photographs = take_out({"a": {"b": [{"anything": value}]}, "score": 1})
    assert fields == {"a": {"b": [{"anything": named(JPEG)}]}, "score": 1}
    assert photographs == [Photograph(named(JPEG)["sha256"], "image/jpeg", JPEG)]


def test_a_field_for_photographs_holds_one_even_in_an_unknown_format() -> None:
    data = bytes(300)
    assert take_out({"spot_pic": text(data)})[0] == {"spot_pic": named(data, "application/octet-stream")}


def test_large_bytes_or_base64_are_taken_out_whatever_they_are() -> None:
    data = os.urandom(300_000)
    fields, photographs = take_out({"x": data, "ext_data": {"y": text(data)}})
    assert fields == {"x": named(data, "application/octet-stream"), "ext_data": {"y": named(data, "application/octet-stream")}}
    assert [photograph.data for photograph in photographs] == [data, data]
    assert len(codec.pack(fields)) < 300


@pytest.mark.parametrize(
    "fields",
    [
        {"reg_pic": "", "spot_pic": "/9j/4AAQSkZJRg...", "photo": "x"},
        {"note": "BM" + "a" * 100, "token": text(bytes(200)), "identity_name": "x" * 20_000 + "!"},
        {"recognize_face_attr": {"feature_base64_str": text(os.urandom(2048))}},
        {"n": None, "t": True, "f": 0.5, "b": b"short"},
    ],
)
def test_nothing_else_is_taken_out(fields: dict[str, Any]) -> None:
    assert take_out(fields) == (fields, [])


def test_the_shapes_of_boxes_are_left_as_they_are() -> None:
    # Their photographs are cut.
    for path in (Path(__file__).parent / "data" / "boxes").glob("*.json"):
        shape = json.loads(path.read_text())
        assert take_out(shape) == (shape, [])


@pytest.mark.parametrize(
    ("begin", "kind"),
    [(b"\x89PNG\r\n\x1a\n", "image/png"), (b"RIFF\0\0\0\0WEBP", "image/webp"), (b"GIF89a", "image/gif"), (b"BM\0\0", "image/bmp")],
)
def test_formats_are_told_apart(begin: bytes, kind: str) -> None:
    data = begin + bytes(100)
    assert take_out({"x": text(data)})[1][0].kind == kind


def photograph(size: int = 100, number: int = 0) -> Photograph:
    data = number.to_bytes(4, "big") + bytes(size - 4)
    return Photograph(hashlib.sha256(data).hexdigest(), "image/jpeg", data)


def test_a_photograph_is_kept_once_and_found_by_its_hash(tmp_path: Path) -> None:
    store = tmp_path / "x.db"
    folder = PhotoFolder(photos_of(store))
    assert folder.read(photograph().sha256) is None
    folder.keep([photograph(), photograph()])
    assert PhotoFolder(tmp_path / "x.db.photos").read(photograph().sha256) == photograph().data
    assert [path.name for path in folder.path.glob("*/*")] == [photograph().sha256]


def test_the_oldest_make_room(tmp_path: Path) -> None:
    folder = PhotoFolder(tmp_path / "photos", limit_bytes=1000)
    for number in range(25):
        one = photograph(100, number)
        folder.keep([one])
        os.utime(next(folder.path.glob(f"*/{one.sha256}")), ns=(number, number))
        assert sum(path.stat().st_size for path in folder.path.glob("*/*")) <= 1000
    assert folder.read(photograph(100, 24).sha256)
    assert folder.read(photograph(100, 0).sha256) is None


def test_a_folder_that_takes_nothing_says_so(tmp_path: Path) -> None:
    (tmp_path / "photos").write_text("a file")
    with pytest.raises(StoreError, match="photos: Not a directory"):
        PhotoFolder(tmp_path / "photos").keep([photograph()])


def test_a_photograph_that_the_disk_does_not_take_is_lost_by_name(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "photos").write_text("a file")
    PhotoFolder(tmp_path / "photos").keep_or_lose([photograph()])
    assert f"photograph lost sha256={photograph().sha256}" in caplog.text


def test_on_a_full_disk_the_oldest_make_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = PhotoFolder(tmp_path / "photos")
    for number in range(10):
        folder.keep([photograph(100, number)])
        os.utime(next(folder.path.glob(f"*/{photograph(100, number).sha256}")), ns=(number, number))
    write = photo_folder._write_durably

    def full(place: Path, data: bytes) -> None:
        if len(list(folder.path.glob("??/*"))) > 8:
            raise OSError(errno.ENOSPC, "No space left on device")
        write(place, data)

    monkeypatch.setattr(photo_folder, "_write_durably", full)
    folder.keep([photograph(100, 99)])
    assert folder.read(photograph(100, 99).sha256)
    assert folder.read(photograph(100, 0).sha256) is None
    assert folder.read(photograph(100, 9).sha256)
