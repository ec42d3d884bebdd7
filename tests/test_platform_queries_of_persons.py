"""Questions about one person, on either database."""

import random
from collections.abc import Iterator
from typing import Any

import pytest
from platform_store import event_at, plan, store_events

import facewire_platform.history.events
from facewire.events import Event
from facewire_platform.filter import Filter
from facewire_platform.history.events import Place, page_query
from facewire_platform.history.queries import History
from facewire_platform.store.drivers import Location
from facewire_platform.store.rows import key
from facewire_platform.store.writer import open_store

HOUR = 3_600_000
LONG = "x" * 64
IDS = ("a", "b", "", LONG, LONG + "1", LONG + "2", "nul\0in it", "nul")


@pytest.fixture
def crowd(location: Location) -> list[Event]:
    """Persons over many hours, some before 1970, many without anybody; some clocks are far off."""
    chance = random.Random(1)
    moments = [*(chance.randrange(-3 * HOUR, 40 * HOUR) for _ in range(200)), *range(5), -1, HOUR - 1, HOUR, 10**15, -(10**15)]
    events = [
        event_at(seq, at, identity_id=chance.choice(IDS), identity_name=chance.choice(("Ann", "b", "")))
        for seq, at in enumerate(moments, 1)
    ]
    with open_store(location) as store:
        store_events(store, "d", *events)
    return events


def seqs(rows: Iterator[dict[str, Any]]) -> list[int]:
    return [row["seq"] for row in rows]


SPANS = ((None, None), (0, None), (None, 0), (-1, 1), (HOUR, 2 * HOUR), (HOUR + 1, 39 * HOUR), (5 * HOUR, 5 * HOUR), (10**14, 10**16))


@pytest.mark.parametrize("newest_first", [False, True])
def test_all_events_of_a_person_are_found_in_order_in_any_period(
    location: Location, crowd: list[Event], newest_first: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(facewire_platform.history.events, "PAGE", 4)
    with History(location) as history:
        for since, until in SPANS:
            for who in IDS:
                wanted = [e for e in crowd if (since is None or e.timestamp >= since) and (until is None or e.timestamp < until)]
                theirs = [e for e in wanted if who in (e.identity_id, e.identity_name)]
                order = [e.seq for e in sorted(theirs, key=lambda e: (e.timestamp, e.seq), reverse=newest_first)]
                asked = Filter(since=since, until=until, person=who)
                assert seqs(history.events(asked, newest_first=newest_first)) == order
                assert seqs(history.events(asked, newest_first=newest_first, limit=5)) == order[:5]
                period = (-(2**62) if since is None else since, 2**62 if until is None else until)
                assert next(history.counts(asked, [period]))["events"] == len(order)


@pytest.mark.parametrize("newest_first", [False, True])
def test_the_events_of_a_person_continue_after_any_place(location: Location, crowd: list[Event], newest_first: bool) -> None:
    with History(location) as history:
        rows = list(history.events(Filter(person="a"), newest_first=newest_first))
        for place, row in list(enumerate(rows, 1))[::7]:
            following = history.events(Filter(person="a"), after=Place.of(row), newest_first=newest_first)
            assert seqs(following) == [later["seq"] for later in rows[place:]]


def test_two_ids_with_the_same_key_are_distinguished(location: Location, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(facewire_platform.history.events, "PAGE", 4)
    # The CRC-32 of both is 0x4ddb0c25.
    ids = ["plumless"] * 9 + ["buckeroo"] + ["plumless"] * 9
    assert key("plumless") == key("buckeroo")
    with open_store(location) as store:
        store_events(store, "d", *(event_at(seq, seq, identity_id=who) for seq, who in enumerate(ids, 1)))
    with History(location) as history:
        assert seqs(history.events(Filter(person="buckeroo"))) == [10]
        assert len(seqs(history.events(Filter(person="plumless")))) == 18


def test_a_person_and_a_device_and_a_score_narrow_together(location: Location) -> None:
    with open_store(location) as store:
        for device in "de":
            store_events(store, device, *(event_at(seq, seq, identity_id="ab"[seq % 2], score=seq / 10) for seq in range(1, 11)))
    with History(location) as history:
        rows = list(history.events(Filter(person="a", device="e", min_score=0.5)))
    assert [(row["device"], row["seq"]) for row in rows] == [("e", 6), ("e", 8), ("e", 10)]


def test_an_empty_history_has_nobody(location: Location) -> None:
    open_store(location).close()
    with History(location) as history:
        assert list(history.events(Filter(person="a"))) == []


def test_only_the_events_of_a_person_are_read_from_the_table(
    location: Location, crowd: list[Event], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(facewire_platform.history.events, "MAX_SORTED", 0)
    # So few rows are read faster one after the other.
    settings = ("SET enable_seqscan = off", "SET enable_bitmapscan = off") if isinstance(location, str) else ()
    with History(location) as history:
        for wanted in (Filter(person="a", since=0), Filter(device="d", since=0), Filter(person="a")):
            for after in (None, (5, 1, 1)):
                text = plan(location, page_query(history, wanted, after, 10, newest_first=False), *settings)
                assert "COVERING INDEX" in text or "Index Only Scan" in text, text
                assert "timestamp_stream_seq" in text
