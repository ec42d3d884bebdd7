"""The worked exchange of docs/contract.md: the real codec reads it, a real store answers as the page says."""

import itertools
import json
import re
from pathlib import Path
from typing import Any, Final

import pytest
from platform_store import store_batches, store_refused

from facewire.codec import Format
from facewire.errors import BatchRefused
from facewire.messages import Ack, Batch, Match, Status, decode, encode
from facewire_platform.store.writer import Message, Store, open_store

PAGE: Final = (Path(__file__).parent.parent / "docs" / "contract.md").read_text(encoding="utf-8")
DEVICE: Final = "lobby-1"
KINDS: Final = {"match": Match, "history": Batch, "ack": Ack, "status": Status}
#: (topic kind, payload), in the order of the page.
SHOWN: Final = re.findall(r"^```json (\w+)\n(.*?)\n```$", PAGE, re.MULTILINE | re.DOTALL)
#: The batch before an ack with `error`.
REFUSED: Final = {batch for (_, batch), (_, ack) in itertools.pairwise(SHOWN) if '"error"' in ack}


def answer(store: Store, payload: bytes) -> Ack:
    """What the platform answers to a history payload."""
    try:
        batch = decode("history", payload)
    except BatchRefused as refused:
        return store_refused(store, DEVICE, refused)
    assert isinstance(batch, Batch)
    return store_batches(store, batch, device=DEVICE)


def told(payload: bytes) -> dict[str, Any]:
    """An ack, without the words that are for people and the store's own name."""
    ack: dict[str, Any] = json.loads(payload)
    if "error" in ack:
        ack["error"] = "..."
    rejected = [{**one, "reason": "..."} for one in ack.get("rejected", ())]
    return ack | {"store": "..."} | ({"rejected": rejected} if rejected else {})


def test_every_example_is_shown_for_a_topic_and_every_topic_has_one() -> None:
    assert {kind for kind, _ in SHOWN} == KINDS.keys()
    assert PAGE.count("\n```json") == len(SHOWN)


@pytest.mark.parametrize(("kind", "payload"), SHOWN)
def test_the_codec_reads_every_example(kind: Any, payload: str) -> None:
    if payload in REFUSED:
        with pytest.raises(BatchRefused):
            decode(kind, payload.encode())
    else:
        assert isinstance(decode(kind, payload.encode()), KINDS[kind])


def test_the_platform_answers_as_the_page_says(tmp_path: Path) -> None:
    answers: list[bytes] = []
    with open_store(tmp_path / "platform.db") as store:
        for kind, payload in SHOWN:
            if kind == "history":
                answers.append(encode(answer(store, payload.encode()), Format.JSON))
            elif kind != "ack":
                message = decode(kind, payload.encode())
                assert isinstance(message, Match | Status)
                store.store([Message(DEVICE, message, 1)])
    shown = [payload.encode() for kind, payload in SHOWN if kind == "ack"]
    assert [told(ack) for ack in answers] == [told(ack) for ack in shown]
    assert [list(json.loads(ack)) for ack in answers] == [list(json.loads(ack)) for ack in shown]
