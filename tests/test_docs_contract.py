"""docs/contract.md: the real codec reads the worked exchange, a real store answers as it says.

The codec's rules about numbers, text and sizes are tested here too.
"""

import itertools
import json
import re
from pathlib import Path
from typing import Any, Final

import pytest
from platform_store import store_batches, store_refused

from facewire.codec import MAX_PAYLOAD_BYTES, Format, pack, unpack
from facewire.errors import BatchRefused, DecodeError
from facewire.messages import Ack, Batch, Match, Status, decode, decode_batch, encode
from facewire_platform.store.writer import Message, Store, open_store

PAGE: Final = (Path(__file__).parent.parent / "docs" / "contract.md").read_text(encoding="utf-8")
DEVICE: Final = "lobby-1"
KINDS: Final = {"match": Match, "history": Batch, "ack": Ack, "status": Status}
#: (topic kind, payload), in the order of the page.
SHOWN: Final = re.findall(r"^```json (\w+)\n(.*?)\n```$", PAGE, re.MULTILINE | re.DOTALL)
#: The batch before an ack with `error`.
REFUSED: Final = {batch for (_, batch), (_, ack) in itertools.pairwise(SHOWN) if '"error"' in ack}


def answer(store: Store, payload: bytes) -> Ack:
    """The platform's answer to a history payload."""
    try:
        batch = decode("history", payload)
    except BatchRefused as refused:
        return store_refused(store, DEVICE, refused)
    assert isinstance(batch, Batch)
    return store_batches(store, batch, device=DEVICE)


def without_words(payload: bytes) -> dict[str, Any]:
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
    assert [without_words(ack) for ack in answers] == [without_words(ack) for ack in shown]
    assert [list(json.loads(ack)) for ack in answers] == [list(json.loads(ack)) for ack in shown]


def read_one(text: str | bytes) -> Batch:
    """A batch of one event, in JSON as it stands or in msgpack."""
    if isinstance(text, bytes):
        fields = unpack(text)
        return decode_batch(pack({**KEYS, "events": [fields]}))
    return decode_batch(json.dumps({**KEYS, "events": []}).replace("[]", f"[{text}]").encode())


KEYS: Final[dict[str, Any]] = {"epoch": "e" * 16, "boot": "b" * 16, "after": 0, "cursor": 1, "head": 1, "oldest": 1}
FIELDS: Final[dict[str, Any]] = {"seq": 1, "timestamp": 1, "score": 0.5, "identity_id": "", "identity_name": "", "person_type": 1}
ONE: Final = json.dumps(FIELDS)


def with_more(more: str) -> str:
    return f"{ONE[:-1]}, {more}}}"


def nested(levels: int) -> str:
    return "[" * levels + "]" * levels


@pytest.mark.parametrize(
    "good",
    [
        with_more('"x": NaN, "y": Infinity'),
        with_more(f'"x": {2**64 - 1}, "y": {-(2**63)}'),
        with_more(f'"timestamp": {1 - 2**63}'),
        with_more(f'"x": {nested(15)}'),
        with_more('"group_name": null, "photo": "/9j/4AAQ"'),
        pack({**FIELDS, "x": {1: 2}, "photo": b"\xff\xd8"}),
    ],
)
def test_an_event_within_the_readings_is_good(good: str | bytes) -> None:
    batch = read_one(good)
    assert (len(batch.events), batch.bad) == (1, ())


@pytest.mark.parametrize(
    ("bad", "seq"),
    [
        (with_more('"score": NaN'), 1),
        (with_more('"score": 1e400'), 1),
        (with_more('"score": true'), 1),
        (with_more('"person_type": 1.0'), 1),
        (with_more(f'"timestamp": {-(2**63)}'), 1),
        (with_more(f'"x": {2**64}'), 1),
        (with_more(f'"x": {nested(16)}'), 1),
        (with_more('"x": "\\ud800"'), 1),
        (with_more('"seq": 1.0'), None),
        (with_more(f'"seq": {2**63}'), None),
        (pack(dict([*FIELDS.items(), (7, 1)])), 1),
    ],
)
def test_an_event_beyond_the_readings_is_bad_alone(bad: str | bytes, seq: int | None) -> None:
    batch = read_one(bad)
    assert (list(batch.events), [one.seq for one in batch.bad]) == ([], [seq])


def test_of_a_key_given_twice_the_last_counts_and_a_score_may_lack_its_fraction() -> None:
    [event] = read_one(with_more('"score": 82')).events
    assert (event.score, type(event.score)) == (82.0, float)


@pytest.mark.parametrize("payload", [b" {}", b"\xef\xbb\xbf{}", pack(KEYS) + b"\x00", pack({1: 2}), b"{" + b" " * MAX_PAYLOAD_BYTES])
def test_bytes_that_are_no_map_of_ours_are_not_decoded(payload: bytes) -> None:
    with pytest.raises(DecodeError):
        decode("history", payload)
