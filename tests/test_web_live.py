import asyncio
import json
from collections.abc import Iterator
from typing import Any

import pytest
from platform_model import BOOT, EPOCH, event

from facewire.messages import Match
from facewire_web import live
from facewire_web.live import (
    BEAT,
    MAX_READERS,
    MAX_READERS_EACH,
    MAX_SHOWN,
    MAX_TEXT,
    MAX_WAITING,
    MAX_WAITING_BYTES,
    RECENT,
    Reader,
    Wall,
)


def match(seq: int, **extra: Any) -> Match:
    return Match(EPOCH, BOOT, 1, event(seq, **extra))


def show(wall: Wall, *seqs: int, reason: Any = None) -> None:
    for seq in seqs:
        wall.show("box-1", match(seq), reason, 0.25, 5)


def open_reader(wall: Wall, client: str = "") -> Reader:
    reader = wall.open(1, client)
    assert reader is not None
    return reader


def chunks_for(reader: Reader) -> list[bytes]:
    """The chunks that wait for a reader."""
    chunks: list[bytes] = []

    async def read() -> None:
        async for chunk in reader:
            chunks.append(chunk)  # noqa: PERF401  # a comprehension would be lost when it is cancelled

    async def read_waiting() -> None:
        reading = asyncio.create_task(read())
        await asyncio.sleep(0)  # It runs until there is nothing left to read.
        reading.cancel()

    asyncio.run(read_waiting())
    return chunks


def events_for(reader: Reader) -> list[tuple[str, dict[str, Any]]]:
    """Names and data of the events that wait for a reader."""
    return [parse(chunk) for chunk in chunks_for(reader)]


def parse(chunk: bytes) -> tuple[str, dict[str, Any]]:
    name, data, *end = chunk.decode().split("\n")
    assert end == ["", ""]
    return name.removeprefix("event: "), json.loads(data.removeprefix("data: "))


def seqs(state: dict[str, Any]) -> list[int]:
    return [shown["seq"] for shown in state["matches"]]


@pytest.fixture
def wall() -> Iterator[Wall]:
    wall = Wall()
    wall.set_broker(up=True)
    wall.flush(0.0, 1)
    yield wall
    wall.close()


def test_a_reader_gets_past_and_new_matches_each_once(wall: Wall) -> None:
    show(wall, 1, 2)
    wall.flush(1.0, 1)
    show(wall, 3)
    reader = open_reader(wall)
    wall.flush(1.1, 2)
    show(wall, 4)
    wall.flush(1.2, 3)
    (hello, past), (first, new), (second, newer) = events_for(reader)
    assert (hello, first, second) == ("hello", "wall", "wall")
    assert (seqs(past), seqs(new), seqs(newer)) == ([1, 2], [3], [4])
    assert (past["now"], new["now"], newer["now"]) == (1, 2, 3)


def test_fresh_and_refused_are_both_shown_and_counted(wall: Wall) -> None:
    reader = open_reader(wall)
    show(wall, 1, 2)
    show(wall, 3, reason="late")
    wall.flush(1.0, 1)
    _, state = events_for(reader)[-1]
    assert (state["accepted"], state["refused"]) == (2, {"late": 1})
    assert [shown["reason"] for shown in state["matches"]] == [None, None, "late"]


def test_a_card_has_no_vendor_fields_and_no_photograph(wall: Wall) -> None:
    reader = open_reader(wall)
    wall.show("box-1", match(1, photo=b"\xff\xd8", phone="1"), None, 0.1234567, 9)
    wall.flush(1.0, 1)
    (shown,) = events_for(reader)[-1][1]["matches"]
    assert shown.keys() == {"device", "epoch", "sent_at", "received_at", "reason", "age", *event(1)._fields} - {"extra"}
    assert (shown["age"], shown["received_at"]) == (0.123, 9)


def test_line_breaks_in_a_name_do_not_split_an_event_of_the_stream(wall: Wall) -> None:
    reader = open_reader(wall)
    name = "a\n\nevent: hello\ndata: {}\r\u2028\ud800"
    wall.show("box-1", Match(EPOCH, BOOT, 1, event(1)._replace(identity_name=name)), None, 0.0, 1)
    wall.flush(1.0, 1)
    (_, _), (kind, state) = events_for(reader)
    assert kind == "wall"
    assert state["matches"][0]["identity_name"] == name.replace("\ud800", "\\ud800")


def test_a_burst_shows_the_newest_matches_and_counts_the_rest(wall: Wall) -> None:
    reader = open_reader(wall)
    show(wall, *range(1, MAX_SHOWN + 31))
    wall.flush(1.0, 1)
    _, state = events_for(reader)[-1]
    assert (seqs(state), state["skipped"]) == (list(range(31, MAX_SHOWN + 31)), 30)
    late = open_reader(wall)
    assert len(seqs(events_for(late)[0][1])) == min(RECENT, MAX_SHOWN + 30)


def test_a_slow_reader_skips_the_oldest_chunks_and_is_told_how_many(wall: Wall) -> None:
    slow = open_reader(wall)
    for number in range(1, MAX_WAITING + 6):
        show(wall, number * 2, number * 2 + 1)
        wall.flush(float(number), 1)
    (first, skipped), *rest = events_for(slow)
    assert (first, skipped) == ("skipped", {"matches": 10})  # and the hello, which held none
    assert [name for name, _ in rest] == ["wall"] * MAX_WAITING
    assert seqs(rest[-1][1]) == [2 * MAX_WAITING + 10, 2 * MAX_WAITING + 11]
    assert wall.counters.skipped == 10


def test_all_readers_are_given_the_same_bytes(wall: Wall) -> None:
    readers = [open_reader(wall) for _ in range(3)]
    show(wall, 1)
    wall.flush(1.0, 1)
    first, *others = (chunks_for(reader)[-1] for reader in readers)
    assert all(chunk is first for chunk in others)


def test_a_quiet_wall_sends_a_sign_of_life_now_and_then(wall: Wall) -> None:
    reader = open_reader(wall)
    for number, now in enumerate((BEAT - 0.1, BEAT, BEAT + 0.1), 1):
        wall.flush(now, number)
    _, *beats = events_for(reader)
    assert [state["now"] for _, state in beats] == [2]


def test_a_lost_broker_is_announced_at_once(wall: Wall) -> None:
    reader = open_reader(wall)
    wall.set_broker(up=False, reason="connection refused")
    wall.flush(0.2, 1)
    assert events_for(reader)[-1][1]["broker"] == {"up": False, "reason": "connection refused"}
    assert not wall.up


def test_there_is_room_for_so_many_readers_and_again_when_one_leaves(wall: Wall) -> None:
    readers = [open_reader(wall, f"10.0.0.{number}") for number in range(MAX_READERS)]
    assert wall.open(1) is None
    assert wall.counters.refused == 1
    wall.leave(readers[0])
    assert wall.readers == MAX_READERS - 1
    open_reader(wall)


def test_one_client_leaves_room_for_others(wall: Wall) -> None:
    for _ in range(MAX_READERS_EACH):
        open_reader(wall, "10.0.0.1")
    assert wall.open(1, "10.0.0.1") is None
    open_reader(wall, "10.0.0.2")


def test_long_texts_are_cut_and_the_bytes_of_all_readers_are_bounded(wall: Wall) -> None:
    """One device's names of a megabyte took 4.6 GB with 256 readers that read slowly."""
    readers = [open_reader(wall, f"10.0.0.{number}") for number in range(MAX_READERS)]
    name = "\U0001f600" * 1_000_000
    for number in range(1, MAX_WAITING + 6):
        for seq in range(MAX_SHOWN):
            texts: dict[str, Any] = dict.fromkeys(("identity_id", "identity_name", "group_name", "ep_id"), name)
            wall.show("box-1", Match(EPOCH, BOOT, 1, event(seq)._replace(**texts)), None, 0.0, 1)
        wall.flush(float(number), 1)
    wall.leave(readers.pop())
    late = open_reader(wall, "late")
    chunks = {id(chunk): len(chunk) for reader in (*readers, late) for chunk, _ in reader._waiting}
    assert sum(chunks.values()) < 2 * MAX_WAITING_BYTES
    assert all(sum(len(chunk) for chunk, _ in reader._waiting) <= MAX_WAITING_BYTES for reader in readers)
    (first, skipped), *_ = events_for(readers[0])
    assert (first, skipped["matches"] > 0) == ("skipped", True)
    shown = events_for(late)[0][1]["matches"][0]
    assert shown["identity_name"] == "\U0001f600" * MAX_TEXT + "…"


def test_a_closed_wall_ends_its_streams_and_opens_none() -> None:
    async def run() -> list[bytes]:
        wall = Wall()
        reader = open_reader(wall)
        asyncio.get_running_loop().call_soon(wall.close)
        chunks = [chunk async for chunk in reader]
        assert wall.open(1) is None
        return chunks

    assert [parse(chunk)[0] for chunk in asyncio.run(run())] == ["hello"]


def test_a_reader_may_wait_for_less_than_a_beat() -> None:
    assert live.TICK * MAX_WAITING < BEAT
