import io
from dataclasses import replace
from typing import Any

import pytest
from rich.console import Console

from facewire_cli.demo import Verdict, proof

KEPT = Verdict("lobby-1", recorded=5, stored=5, duplicates=0, gaps=0, watermark=5, head=5)


def test_every_event_stored_once_is_kept() -> None:
    assert KEPT.is_complete


@pytest.mark.parametrize("wrong", [{"stored": 4}, {"duplicates": 1}, {"gaps": 1}, {"watermark": 4}, {"head": 6}, {"recorded": 6}])
def test_any_difference_is_not_kept_and_shown(wrong: dict[str, Any]) -> None:
    verdict = replace(KEPT, **wrong)
    assert not verdict.is_complete
    console = Console(width=100, file=io.StringIO(), record=True)
    console.print(proof([KEPT, verdict]))
    assert "FAILED" in console.export_text()
