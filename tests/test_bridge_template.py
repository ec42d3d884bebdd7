"""The template of a new family, docs/bridge_template.py: it works, and it is short."""

import importlib.util
import json
from pathlib import Path
from types import ModuleType
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from facewire.events import event_from_source
from facewire_bridge.record import Poison, Record

PATH = Path(__file__).parent.parent / "docs" / "bridge_template.py"
SAID = {"no": 120, "at": "2025-11-25 15:00:07", "who": "417", "name": "Ana Cruz", "score": 0.91, "pass": True, "late": False}
ZONE = ZoneInfo("Asia/Shanghai")


@pytest.fixture
def template() -> ModuleType:
    spec = importlib.util.spec_from_file_location("bridge_template", PATH)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_it_has_less_than_a_hundred_lines() -> None:
    assert len(PATH.read_text().splitlines()) < 100


def test_a_post_becomes_a_record(template: ModuleType) -> None:
    record = template.read_post(json.dumps(SAID).encode(), ZONE)
    assert isinstance(record, Record)
    assert (record.key, record.number, record.realtime) == ("120", 120, True)
    event = event_from_source(record.event)
    assert (event.timestamp, event.identity_id, event.person_type) == (1764054007000, "417", 1)


@pytest.mark.parametrize("change", [{"pass": False}, {"late": True}, {"late": None}])
def test_what_is_refused_or_late_is_history_only(template: ModuleType, change: dict[str, Any]) -> None:
    assert not template.read_post(json.dumps(SAID | change).encode(), ZONE).realtime


@pytest.mark.parametrize(("body", "number"), [(b"noise", None), (b"[]", None), (json.dumps(SAID | {"at": 3}).encode(), 120)])
def test_poison_has_its_number_if_that_can_be_read(template: ModuleType, body: bytes, number: int | None) -> None:
    found = template.read_post(body, ZONE)
    assert isinstance(found, Poison)
    assert found.number == number
