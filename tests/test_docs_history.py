"""The commands of docs/history.md work."""

import json
from pathlib import Path
from typing import Final

import pytest
from platform_model import batch, event
from platform_store import store_batches
from shown_commands import blocks, typed

from facewire_platform.store.writer import open_store

PAGE: Final = (Path(__file__).parent.parent / "docs" / "history.md").read_text(encoding="utf-8")


@pytest.mark.process
def test_the_commands_of_the_page_work_one_after_the_other(tmp_path: Path) -> None:
    with open_store(tmp_path / "platform.db") as store:
        at = 1_764_054_000_000  # 2025-11-25T07:00Z
        seen = (event(seq)._replace(timestamp=at + seq, identity_id=who) for seq, who in enumerate(("666666", "7", "7"), 1))
        store_batches(store, batch(0, 3, *seen), device="lobby-1")
    done = typed("\n".join(blocks(PAGE)), tmp_path)
    assert "Traceback" not in done.stderr
    assert done.stdout.count('"record": "attendance"') == 2
    assert len((tmp_path / "attendance.csv").read_text().splitlines()) == 3
    assert json.loads((tmp_path / "666666.json").read_text())["count"] == 1
    assert {"666666.zip", "november.parquet"} <= {path.name for path in tmp_path.iterdir()}
    assert "column files are up to date: 3 events" in done.stderr
    assert len((tmp_path / "events.csv").read_text().splitlines()) == 4
    assert len((tmp_path / "lobby-1.jsonl").read_text().splitlines()) == 3
    assert done.stdout.count('"dry_run": true') == 1
    assert done.stdout.count('"dry_run": false') == 2
