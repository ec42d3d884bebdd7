"""Questions about one person, on either database."""

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from platform_model import EPOCH, batch, event

import facewire_platform.queries
from facewire.events import Event
from facewire_platform import persons
from facewire_platform.database import Where
from facewire_platform.queries import Filter, History, Place
from facewire_platform.store import Store, Taken, open_store

HOUR = persons.HOUR_MS
LONG = "x" * 64
IDS = ("a", "b", "", LONG, LONG + "1", LONG + "2", "nul\0in it", "nul")


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgresql)])
def where(request: pytest.FixtureRequest, tmp_path: Path) -> Where:
    found: Where = tmp_path / "x.db" if request.param == "sqlite" else request.getfixturevalue("postgresql")
    return found


def fill(store: Store, device: str, events: list[Event]) -> None:
    for first in range(0, len(events), 100):
        some = events[first : first + 100]
        store.take([Taken(device, batch(some[0].seq - 1, some[-1].seq, *some, epoch=EPOCH), 1)])


@pytest.fixture
def crowd(where: Where) -> list[Event]:
    """Persons over hours of which many have nobody, some before 1970, and clocks that were far off."""
    chance = random.Random(1)
    moments = [*(chance.randrange(-3 * HOUR, 40 * HOUR) for _ in range(200)), *range(5), -1, HOUR - 1, HOUR, 10**15, -(10**15)]
    events = [
        event(seq)._replace(timestamp=at, identity_id=chance.choice(IDS), identity_name=chance.choice(("Ann", "b", "")))
        for seq, at in enumerate(moments, 1)
    ]
    with open_store(where) as store:
        fill(store, "d", events)
    return events


def seqs(rows: Iterator[dict[str, Any]]) -> list[int]:
    return [row["seq"] for row in rows]


SPANS = ((None, None), (0, None), (None, 0), (-1, 1), (HOUR, 2 * HOUR), (HOUR + 1, 39 * HOUR), (5 * HOUR, 5 * HOUR), (10**14, 10**16))


@pytest.mark.parametrize("newest_first", [False, True])
def test_a_person_is_found_whole_and_in_order_in_any_time(
    where: Where, crowd: list[Event], newest_first: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(persons, "TOGETHER", 3)
    monkeypatch.setattr(persons, "HOURS", 3)
    monkeypatch.setattr(facewire_platform.queries, "PAGE", 4)
    with History(where) as history:
        for since, until in SPANS:
            for who in IDS:
                wanted = [e for e in crowd if (since is None or e.timestamp >= since) and (until is None or e.timestamp < until)]
                # Nobody has the id in that time: then it is taken for a name.
                theirs = [e for e in wanted if e.identity_id == who] or [e for e in wanted if e.identity_name == who]
                order = [e.seq for e in sorted(theirs, key=lambda e: (e.timestamp, e.seq), reverse=newest_first)]
                asked = Filter(since=since, until=until, person=who)
                assert seqs(history.events(asked, newest_first=newest_first)) == order
                assert seqs(history.events(asked, newest_first=newest_first, limit=5)) == order[:5]
                assert history.counts(asked)["events"] == len(order)


@pytest.mark.parametrize("newest_first", [False, True])
def test_a_person_can_be_read_on_from_any_place(where: Where, crowd: list[Event], newest_first: bool) -> None:
    with History(where) as history:
        rows = list(history.events(Filter(person="a"), newest_first=newest_first))
        for place, row in list(enumerate(rows, 1))[::7]:
            following = history.events(Filter(person="a"), after=Place.of(row), newest_first=newest_first)
            assert seqs(following) == [later["seq"] for later in rows[place:]]


def test_by_name_a_person_is_found_where_nobody_has_it_as_id(where: Where, crowd: list[Event]) -> None:
    with History(where) as history:
        assert seqs(history.events(Filter(person="Ann"))) == [
            e.seq for e in sorted(crowd, key=lambda e: (e.timestamp, e.seq)) if e.identity_name == "Ann"
        ]
        assert seqs(history.events(Filter(person="nobody"))) == []


def test_an_empty_history_has_nobody(where: Where) -> None:
    open_store(where).close()
    with History(where) as history:
        assert list(history.events(Filter(person="a"))) == []


def plan(history: History, query: Any) -> str:
    sql, values = query.bind(history._db).sql()
    explain = "EXPLAIN QUERY PLAN" if isinstance(history._where, Path) else "EXPLAIN"
    return "\n".join(str(row[-1]) for row in history._db.execute_sql(f"{explain} {sql}", values))


def test_a_person_is_found_by_hour_and_id(where: Where, crowd: list[Event]) -> None:
    with History(where) as history:
        if isinstance(where, str):
            # So few rows are read faster one after the other.
            history._db.execute_sql("SET enable_seqscan = off")
            history._db.execute_sql("SET enable_bitmapscan = off")
        for after in (None, (5, 1, 1)):
            part = persons.of_person("a", [1, 2, 3])
            told = plan(history, history._page(Filter(since=0), after, newest_first=False, part=part).limit(10))
            assert "event_person" in told
            assert "timestamp_stream_seq" not in told
            if isinstance(where, Path):
                assert "event_person (<expr>=? AND <expr>=?" in told
        told = plan(history, persons._probe("a", 0, None, newest_first=False))
        assert "Hash" not in told
        assert told.count("event_person") == (4 if isinstance(where, Path) else 3)
