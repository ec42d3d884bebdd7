"""The template of a new family, docs/bridge_template.py: it works, and it is short."""

import http.client
import importlib
import json
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from bridge_scene import Stores, http_bridge, write_settings

from facewire.events import event_from_source
from facewire_bridge import Box, Poison, Post, Record
from facewire_bridge.push_source import PushSource
from facewire_bridge.settings import read_settings
from facewire_broker import embedded

PATH = Path(__file__).parent.parent / "docs" / "bridge_template.py"
SAID = {"no": 120, "at": "2025-11-25 15:00:07", "who": "417", "name": "Ana Cruz", "score": 0.91, "pass": True, "late": False}
BOX = Box(ZoneInfo("Asia/Shanghai"))


@pytest.fixture
def template(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(PATH.parent)
    monkeypatch.delitem(sys.modules, "bridge_template", raising=False)
    return importlib.import_module("bridge_template")


def read(template: ModuleType, body: bytes) -> Record | Poison:
    [(found, raw)] = template.FAMILY.read(Post("record", "application/json", body), BOX)
    assert raw == body
    record: Record | Poison = found
    return record


def test_it_has_less_than_a_hundred_lines() -> None:
    assert len(PATH.read_text().splitlines()) < 100


def test_it_imports_only_from_the_face_of_the_package() -> None:
    assert re.findall(r"facewire_bridge\S*", PATH.read_text()) == ["facewire_bridge"]


def test_a_post_becomes_a_record(template: ModuleType) -> None:
    record = read(template, json.dumps(SAID).encode())
    assert isinstance(record, Record)
    assert (record.key, record.number, record.realtime) == ("120", 120, True)
    event = event_from_source(record.event)
    assert (event.timestamp, event.identity_id, event.person_type) == (1764054007000, "417", 1)


@pytest.mark.parametrize("change", [{"pass": False}, {"late": True}, {"late": None}])
def test_a_record_that_is_refused_or_late_is_history_only(template: ModuleType, change: dict[str, Any]) -> None:
    record = read(template, json.dumps(SAID | change).encode())
    assert isinstance(record, Record)
    assert not record.realtime


@pytest.mark.parametrize(("body", "number"), [(b"noise", None), (b"[]", None), (json.dumps(SAID | {"at": 3}).encode(), 120)])
def test_poison_has_its_number_if_that_can_be_read(template: ModuleType, body: bytes, number: int | None) -> None:
    found = read(template, body)
    assert isinstance(found, Poison)
    assert found.number == number


@pytest.mark.network
def test_nothing_but_the_module_is_needed(template: ModuleType, tmp_path: Path) -> None:
    with embedded.running() as broker:
        tables = '[http]\nlisten = "127.0.0.1:0"\n[http.device.door-1]\nid = "b"\nfamily = "bridge_template"\nzone = "UTC"\n'
        path = write_settings(tmp_path, broker, tables)
        with http_bridge(path) as bridge:
            for no, at in ((1, "10:00:00"), (3, "10:00:02"), (3, "10:00:02"), (1, "10:05:00")):
                assert _post(bridge.port, json.dumps(SAID | {"no": no, "at": f"2025-11-25 {at}"}).encode()) == (200, b'{"result": 0}')
            assert _post(bridge.port, b"noise")[0] == 200
            (source,) = bridge.sources
            assert isinstance(source, PushSource)
            assert (source.describe()["proof"], source.describe()["unexplained"]) == ("proven", 0)
            assert source.describe()["proof_at"] is not None
        stores = Stores(read_settings(path))
    # The counter began anew: the hole before is named, and a number that comes again is another
    # record's.
    assert [event["source_id"] for event in stores.events("door-1")] == ["post:1/1", "post:1/3", "post:2/1"]
    assert stores.head("door-1") == 5


def _post(port: int, body: bytes) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("POST", "/my-boxes/b/record", body)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()
