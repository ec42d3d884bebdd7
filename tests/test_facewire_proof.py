"""The class of proof of a bridged device, as people read it."""

from typing import Any

import pytest

from facewire.proof import describe_proof


@pytest.mark.parametrize(
    ("status", "text"),
    [
        ({}, None),
        ({"proof": "proven", "unexplained": 0}, "proven"),
        ({"proof": "proven", "unexplained": 3}, "proven, 3 unexplained"),
        ({"proof": "proven", "proof_at": 1_764_054_000_000}, "proven since 2025-11-25T07:00:00Z"),
        ({"proof": "reconciled"}, "not reconciled yet"),
        ({"proof": "reconciled", "proof_at": 1_764_054_000_999, "unexplained": 2}, "reconciled until 2025-11-25T07:00:00Z, 2 unexplained"),
        ({"proof": "best effort", "unexplained": 0}, "best effort"),
        ({"proof": "reconciled", "proof_at": 2**62}, f"reconciled until {2**62} ms"),
        ({"proof": "something newer"}, "something newer"),
    ],
)
def test_it_says_what_is_known(status: dict[str, Any], text: str | None) -> None:
    assert describe_proof(status) == text
