"""Rows have the form that their database takes, and give back the four decisive fields."""

import itertools
from typing import Any

import pytest
from any_event import EVENTS
from hypothesis import example, given, settings
from hypothesis import strategies as st
from platform_model import batch, event
from platform_store import rows as stored
from platform_store import store_batches

from facewire import codec
from facewire.events import Event
from facewire_platform.store.drivers import Location
from facewire_platform.store.rows import WIDTH, CopyRows, InsertRows, Row, Rows, escape, key, unescape
from facewire_platform.store.schema import ROW_COLUMNS
from facewire_platform.store.writer import open_store

both = pytest.mark.parametrize("form", [InsertRows, CopyRows])


@both
@given(events=st.lists(EVENTS, max_size=5), chosen=st.sets(st.integers(0, 4)))
def test_rows_are_a_sequence_of_the_four_decisive_fields(form: type[Rows], events: list[Event], chosen: set[int]) -> None:
    rows = form.of(events)
    assert [row[:4] for row in rows] == [event[:4] for event in events]
    assert [(row.seq, row.timestamp, row.score, row.identity_id) for row in rows] == [event[:4] for event in events]
    assert form.of(rows) is rows
    assert form(rows.packed).packed == rows.packed
    some = [place for place in sorted(chosen) if place < len(events)]
    assert form.of([rows[place] for place in some]).packed == form.of([events[place] for place in some]).packed


@both
def test_rows_are_indexed_like_a_list(form: type[Rows]) -> None:
    rows = form.of([event(seq) for seq in (1, 2, 3)])
    assert len(rows) == 3
    assert [row.seq for row in rows[:2]] == [1, 2]
    assert rows[-1].seq == 3
    assert all(type(row) is Row for row in (*rows, rows[-1], *rows[1:]))
    with pytest.raises(IndexError):
        rows[3]


def test_insert_rows_list_all_values_with_the_stream_of_each_row() -> None:
    group: list[Any] = ["before"]
    rows = InsertRows.of([event(seq, photo=b"x") for seq in (1, 2)])
    rows.add_to(group, 7)
    rows.add_to(group, 8)
    assert group[0] == "before"
    assert group[1 : 1 + WIDTH] == [
        1,
        1_700_000_000_000,
        0.5,
        "p",
        "name",
        1,
        None,
        None,
        codec.pack({"photo": b"x"}),
        key("p"),
        key("name"),
        7,
    ]
    assert group[WIDTH::WIDTH] == [7, 7, 8, 8]
    [*_, extra, _, _, _] = InsertRows.of([event(1)]).packed
    assert extra is None


def test_a_database_stores_the_events_of_the_rows(location: Location) -> None:
    columns = ", ".join(column.column_name for column in ROW_COLUMNS)
    newest = f"SELECT {columns} FROM event WHERE stream = (SELECT max(id) FROM stream) ORDER BY seq"
    devices = map(str, itertools.count())

    @settings(max_examples=50)
    @given(st.lists(EVENTS, min_size=1, max_size=4))
    @example([event(1)._replace(identity_name="\x01", group_name="a\x00", ep_id="")])
    def check(events: list[Event]) -> None:
        events = [made._replace(seq=seq) for seq, made in enumerate(events, 1)]
        store_batches(store, batch(0, len(events), *events), device=next(devices))
        found = [value for row in stored(location, newest) for value in row[:-1]]
        expected: list[Any] = []
        InsertRows.of(events).add_to(expected, 0)
        del expected[WIDTH - 1 :: WIDTH]
        assert (list(map(unescape, found)) if isinstance(location, str) else found) == expected

    with open_store(location) as store:
        check()


@given(st.text(st.sampled_from("\x00\x01\x0201a")))
def test_an_escaped_text_has_no_nul_and_unescapes_to_the_same(text: str) -> None:
    assert "\x00" not in escape(text)
    assert unescape(escape(text)) == text
