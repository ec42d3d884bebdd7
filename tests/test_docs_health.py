"""The commands of docs/health.md work, and it names every metric."""

import re
from pathlib import Path
from typing import Final

import pytest
from broker_engines import anonymous
from platform_model import BOOT, EPOCH, batch
from shown_commands import play

from facewire.codec import pack
from facewire.messages import BadEvent, Status
from facewire_platform.health.metrics import PlatformMetrics
from facewire_platform.health.readings import Readings
from facewire_platform.intake.counters import Counters
from facewire_platform.store.writer import Message, open_store

PAGE: Final = (Path(__file__).parent.parent / "docs" / "health.md").read_text(encoding="utf-8")


@pytest.fixture
def database(tmp_path: Path) -> Path:
    """A platform's database; its one device has a bad event in quarantine."""
    bad = BadEvent(2, "odd", pack({"seq": 2, "timestamp": 1, "score": 0.5, "identity_id": "", "identity_name": "", "person_type": 1}))
    with open_store(tmp_path / "platform.db") as store:
        store.store([Message("lobby-1", batch(0, 2, 1, bad=(bad,)), 1)])
        said = Status(BOOT, True, 1_700_000_010_000, EPOCH, head=2, oldest=1, cursor=2, period=20.0, capacity=100, dropped=0)
        store.store([Message("lobby-1", said, 1)])
    return tmp_path / "platform.db"


@pytest.mark.network
@pytest.mark.process
def test_the_commands_of_the_page_work_one_after_the_other(database: Path, tmp_path: Path) -> None:
    with anonymous("ours", tmp_path) as address:
        *_, quarantine = play(PAGE, database.parent, {"1883": str(address.port)})
    assert "odd" in quarantine
    assert "stored" in quarantine


def test_every_metric_of_the_page_exists_and_every_metric_is_on_the_page(database: Path) -> None:
    with open_store(database) as store:  # fewer than three events show no rate
        store.store([Message("lobby-2", batch(0, 5, 1, 2, 3, 4, 5), 1)])
        said = Status(BOOT, True, 1_700_000_010_000, EPOCH, head=5, oldest=1, cursor=5, period=20.0, capacity=100, dropped=0)
        store.store([Message("lobby-2", said, 1)])
    text = PlatformMetrics(Readings(database), Counters()).text().decode()
    families = set(re.findall(r"^# TYPE (facewire_\w+)", text, re.MULTILINE))
    samples = set(re.findall(r"^(facewire_\w+)", text, re.MULTILINE))
    alerts = set(re.findall(r"\bfacewire_[a-z_]+[a-z]\b", PAGE.partition("```yaml")[2].partition("```")[0]))
    assert alerts <= samples
    for family in families:
        group, _, rest = family.removeprefix("facewire_").partition("_")
        assert f"_{rest}" in PAGE if rest else family in PAGE, family
        assert f"facewire_{group}" in PAGE
