import csv
import io
import json
import random
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from hypothesis import given, settings
from hypothesis import strategies as st
from platform_model import BOOT, EPOCH, bad_event, batch
from platform_store import event_at, plan, store_events
from platform_store import run as change

import facewire_platform.history.events
import facewire_platform.history.reader
from facewire.events import MAX_INT, event_from_map
from facewire.messages import Status
from facewire_cli.main import cli
from facewire_platform.filter import Filter
from facewire_platform.history.events import MAX_SORTED, page_query
from facewire_platform.history.queries import History
from facewire_platform.store.drivers import Location
from facewire_platform.store.writer import Message, Unreadable, open_store

NAMES = ("a", "b", "c")
VENDOR_EVENTS = Path(__file__).parent / "data" / "vendor-events.jsonl"


@pytest.fixture(scope="module")
def crowd(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[tuple[int, str, int]]]:
    """Many events with few different times, of three devices, one of which has two epochs.

    With them come their (time, device, seq).
    """
    path = tmp_path_factory.mktemp("crowd") / "x.db"
    chance = random.Random(1)
    order = []
    with open_store(path) as store:
        for device, epoch in (*((name, EPOCH) for name in NAMES), ("a", "00000000000000e2")):
            events = [event_at(seq, chance.randrange(20), person_type=chance.randrange(5), score=seq / 1000) for seq in range(1, 301)]
            store_events(store, device, *events, epoch=epoch)
            order += [(stored_event.timestamp, device, stored_event.seq) for stored_event in events]
    return path, sorted(order)


def keys(rows: Iterator[dict[str, Any]]) -> list[tuple[int, str, int]]:
    return [(row["timestamp"], row["device"], row["seq"]) for row in rows]


@settings(max_examples=60)
@given(
    st.one_of(st.none(), st.integers(-1, 21)),
    st.one_of(st.none(), st.integers(-1, 21)),
    st.sampled_from((None, *NAMES, "unknown")),
    st.one_of(st.none(), st.integers(1, 700)),
    st.booleans(),
    st.sampled_from((1, 7, 250)),
    st.sampled_from((0, 10_000)),
)
def test_pages_give_each_event_once_and_in_order_whatever_the_filter(
    crowd: tuple[Path, list[tuple[int, str, int]]],
    since: int | None,
    until: int | None,
    device: str | None,
    limit: int | None,
    newest_first: bool,
    page: int,
    few: int,
) -> None:
    path, order = crowd
    wanted = [
        key
        for key in order
        if (since is None or key[0] >= since) and (until is None or key[0] < until) and (device is None or key[1] == device)
    ]
    with pytest.MonkeyPatch.context() as patch, History(path) as history:
        patch.setattr(facewire_platform.history.events, "PAGE", page)
        patch.setattr(facewire_platform.history.events, "MAX_SORTED", few)
        most = min(limit or 60, 60) if page == 1 else limit
        rows = list(history.events(Filter(since=since, until=until, device=device), limit=most, newest_first=newest_first))
    times = [row["timestamp"] for row in rows]
    assert times == [at for at, _, _ in (reversed(wanted) if newest_first else wanted)][:most]
    assert len({(row["device"], row["epoch"], row["seq"]) for row in rows}) == len(rows)
    if most is None:
        assert sorted(keys(iter(rows))) == wanted


def query_plans(path: Path, wanted: Filter, *, newest_first: bool) -> list[str]:
    """How SQLite goes about the first page and about the next."""
    with History(path) as history:
        return [plan(path, page_query(history, wanted, after, 10, newest_first=newest_first)) for after in (None, (5, 1, 1))]


@pytest.mark.parametrize("newest_first", [False, True])
@pytest.mark.parametrize(
    "wanted",
    [Filter(), Filter(since=1), Filter(until=9), Filter(since=1, until=9), Filter(device="a"), Filter(device="a", since=1, until=9)],
)
def test_no_page_sorts_and_each_page_begins_where_the_last_one_ended(
    crowd: tuple[Path, object], wanted: Filter, newest_first: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(facewire_platform.history.events, "MAX_SORTED", 0)
    first, following = query_plans(crowd[0], wanted, newest_first=newest_first)
    for each in (first, following):
        # What is found of a device is a page, and sorted as such.
        assert "TEMP B-TREE" not in each.partition("SCAN places")[0]
        assert "INDEX eventrow_timestamp_stream_seq" in each
    assert "(timestamp,stream,seq)" in following


def test_a_device_with_few_events_is_read_by_its_own_key(crowd: tuple[Path, object]) -> None:
    for each in query_plans(crowd[0], Filter(device="a"), newest_first=False):
        assert "(stream=?)" in each


def test_filters_narrow(tmp_path: Path) -> None:
    with open_store(tmp_path / "x.db") as store:
        store_events(
            store,
            "a",
            event_at(1, 10, identity_id="id1", identity_name="Ann", person_type=1, group_name="staff", score=0.5),
            event_at(2, 20, identity_id="id2", identity_name="id1", person_type=4, group_name=None, score=0.75),
            event_at(3, 30, identity_id="", identity_name="", person_type=4, group_name="", score=82.5),
        )
    with History(tmp_path / "x.db") as history:

        def seqs(**wanted: Any) -> list[int]:
            return [row["seq"] for row in history.events(Filter(**wanted))]

        assert seqs(person="id1") == [1, 2]
        assert seqs(person="Ann") == [1]
        assert seqs(person="") == [3]
        assert seqs(person_type=4) == [2, 3]
        assert seqs(group="staff") == [1]
        assert seqs(group="") == [3]
        assert seqs(min_score=0.75) == [2, 3]
        assert seqs(since=20, until=30) == [2]
        assert seqs(since=20, person_type=4, min_score=1) == [3]
        assert seqs(since=-MAX_INT, until=MAX_INT) == [1, 2, 3]


def test_a_stream_created_during_a_query_does_not_end_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(facewire_platform.history.events, "PAGE", 2)
    with open_store(tmp_path / "x.db") as store:
        store_events(store, "a", *(event_at(seq, seq * 10) for seq in range(1, 7)))
        with History(tmp_path / "x.db") as history:
            rows = history.events(Filter())
            seen = [next(rows)]
            store_events(store, "b", event_at(1, 35))
            seen += rows
    assert [(row["device"], row["timestamp"]) for row in seen] == [
        ("a", 10),
        ("a", 20),
        ("a", 30),
        ("b", 35),
        ("a", 40),
        ("a", 50),
        ("a", 60),
    ]


def test_reads_go_on_while_the_worker_writes(tmp_path: Path) -> None:
    path = tmp_path / "x.db"
    open_store(path).close()
    done = threading.Event()

    def write() -> None:
        try:
            with open_store(path) as store:
                for seq in range(100):
                    store_events(store, "a", event_at(seq + 1, seq))
        finally:
            done.set()

    writer = threading.Thread(target=write)
    writer.start()
    before = 0
    while not done.is_set():
        with History(path) as history:
            seen = [row["seq"] for row in history.events(Filter())]
            assert seen == list(range(1, len(seen) + 1))
            assert len(seen) >= before
            before = len(seen)
            assert len(list(history.devices())) <= 1
            assert list(history.gaps()) == []
    writer.join()


def test_devices_show_their_newest_epoch_and_all_of_them_on_demand(tmp_path: Path) -> None:
    with open_store(tmp_path / "x.db") as store:
        store_events(store, "a", event_at(1, 1), event_at(9, 2), now_ms=50)
        store.store([Message("a", batch(9, 10, bad=(bad_event(10),), boot=BOOT, head=15), 60)])
        store.store([Message("b", Status("00000000000000b9", True, 1, EPOCH, head=7, oldest=1, cursor=0, dropped=3), 70)])
        store_events(store, "a", event_at(1, 1), epoch="00000000000000e2", now_ms=80)
    with History(tmp_path / "x.db") as history:
        rows = list(history.devices())
        every = list(history.devices(all_epochs=True))
    assert [(row["device"], row["epoch"], row["watermark"], row["online"]) for row in rows] == [
        ("a", "00000000000000e2", 1, False),
        ("b", EPOCH, 0, True),
    ]
    assert (rows[1]["head"], rows[1]["lag"], rows[1]["dropped"], rows[1]["last_seen"]) == (7, 7, 3, 70)
    old = next(row for row in every if row["device"] == "a" and not row["current"])
    assert (old["head"], old["watermark"], old["lag"], old["gaps"], old["quarantined"]) == (15, 15, 0, 12, 1)


def test_gaps_and_quarantine_are_read_page_by_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(facewire_platform.history.reader, "PAGE", 2)
    with open_store(tmp_path / "x.db") as store:
        for device in ("b", "a"):
            store_events(store, device, *(event_at(seq, seq) for seq in range(1, 12, 2)), now_ms=5)
        store.store([Message("", Unreadable("t", f"reason {number}", b"%d" % number), 1) for number in range(5)])
    with History(tmp_path / "x.db") as history:
        assert [(row["device"], row["first"]) for row in history.gaps()] == [(name, seq) for name in "ab" for seq in (2, 4, 6, 8, 10)]
        assert len(list(history.gaps("a"))) == 5
        assert list(history.gaps("c")) == []
        assert [row["reason"] for row in history.quarantine()] == [f"reason {number}" for number in range(5)]


# The commands


def run(path: Path, command: str, *arguments: str) -> Result:
    return CliRunner().invoke(cli, [command, "--database", f"sqlite:///{path}", *arguments])


def lines(result: Result) -> list[dict[str, Any]]:
    assert result.exit_code == 0, result.output
    return [json.loads(line) for line in result.stdout.splitlines()]


@pytest.fixture
def vendor(tmp_path: Path) -> tuple[Path, list[dict[str, Any]]]:
    events = [json.loads(line) for line in VENDOR_EVENTS.read_text().splitlines()]
    for fields in events:
        fields.setdefault("person_type", 4)
    with open_store(tmp_path / "x.db") as store:
        store_events(store, "box-1", *(event_from_map({**fields, "seq": seq}) for seq, fields in enumerate(events, 1)))
    return tmp_path / "x.db", events


def test_json_has_every_field_of_the_vendor_as_it_was_sent(vendor: tuple[Path, list[dict[str, Any]]]) -> None:
    path, events = vendor
    rows = {row["seq"]: row for row in lines(run(path, "events", "-o", "json"))}
    assert rows == {seq: {"device": "box-1", "epoch": EPOCH, "seq": seq, **fields} for seq, fields in enumerate(events, 1)}
    assert all(
        list(row)[:8] == ["device", "epoch", "seq", "timestamp", "score", "identity_id", "identity_name", "person_type"]
        for row in rows.values()
    )


def test_vendor_fields_with_our_names_get_a_prefix(tmp_path: Path) -> None:
    with open_store(tmp_path / "x.db") as store:
        store_events(store, "d", event_at(1, 1, extra={"device": "theirs", "epoch": 5, "photo": b"\xff\xd8", "nested": {"device": 1}}))
    row = lines(run(tmp_path / "x.db", "events", "-o", "json"))[0]
    assert (row["device"], row["event.device"], row["event.epoch"], row["photo"], row["nested"]) == (
        "d",
        "theirs",
        5,
        "/9g=",
        {"device": 1},
    )


def test_newest_first_and_limit_work_together(vendor: tuple[Path, list[dict[str, Any]]]) -> None:
    path, events = vendor
    times = sorted(fields["timestamp"] for fields in events)
    assert [row["timestamp"] for row in lines(run(path, "events", "-o", "json"))] == times
    assert [row["timestamp"] for row in lines(run(path, "events", "-o", "json", "--newest-first", "--limit", "2"))] == times[:0:-1][:2]


def test_csv_has_the_columns_and_pretty_has_readable_times(vendor: tuple[Path, list[dict[str, Any]]]) -> None:
    path, events = vendor
    table = list(csv.DictReader(io.StringIO(run(path, "events", "-o", "csv").stdout)))
    assert [row["timestamp"] for row in table] == [str(at) for at in sorted(fields["timestamp"] for fields in events)]
    assert "小明" in (pretty := run(path, "events", "-o", "pretty").stdout)
    assert "2019-08-1" in pretty


def test_status_and_gaps_have_the_fields_that_others_rely_on(vendor: tuple[Path, list[dict[str, Any]]]) -> None:
    path, _ = vendor
    with open_store(path) as store:
        store.store([Message("box-1", batch(3, 9, 9), 1)])
    row = lines(run(path, "status", "-o", "json"))[0]
    assert {"device", "epoch", "head", "watermark", "lag", "gaps", "online", "last_seen"} <= row.keys()
    assert (row["head"], row["watermark"], row["lag"], row["gaps"], row["online"]) == (9, 9, 0, 5, False)
    gap = {"device": "box-1", "epoch": EPOCH, "first": 4, "last": 8, "declared_at": 1, "reason": "missing", "events": 5}
    assert lines(run(path, "gaps", "-o", "json")) == [gap]
    assert lines(run(path, "gaps", "-o", "json", "-d", "other")) == []


@pytest.mark.parametrize(
    "arguments",
    [
        ["--limit", "0"],
        ["--person-type", str(2**70)],
        ["--person", "\udcff"],
        ["--group", "\udcff"],
        ["--since", "yesterdayish"],
        ["-d", "not/a/device"],
        ["--min-score", "high"],
    ],
)
def test_an_option_that_makes_no_sense_is_a_usage_error(vendor: tuple[Path, object], arguments: list[str]) -> None:
    assert run(vendor[0], "events", *arguments).exit_code == 2


def test_a_database_that_is_no_url_is_a_usage_error(tmp_path: Path) -> None:
    assert CliRunner().invoke(cli, ["events", "--database", str(tmp_path)]).exit_code == 2


@pytest.mark.parametrize("command", ["events", "status", "gaps"])
def test_a_missing_database_is_an_error_and_is_not_created(tmp_path: Path, command: str) -> None:
    result = run(tmp_path / "x.db", command)
    assert type(result.exception).__name__ == "StoreError"
    assert list(tmp_path.iterdir()) == []


def test_a_nan_score_finds_nothing_and_a_huge_limit_everything(vendor: tuple[Path, list[Any]]) -> None:
    path, events = vendor
    assert lines(run(path, "events", "--min-score", "nan")) == []
    assert len(lines(run(path, "events", "--limit", str(2**70)))) == len(events)


def test_the_events_have_one_btree_beside_their_key(tmp_path: Path) -> None:
    open_store(tmp_path / "x.db").close()
    with closing(sqlite3.connect(tmp_path / "x.db")) as db:
        indexes = db.execute("SELECT name FROM sqlite_master WHERE type = 'index' AND tbl_name = 'event'").fetchall()
    assert len(indexes) == 2


def test_a_device_with_a_hundred_thousand_epochs_can_be_asked_for(location: Location) -> None:
    with open_store(location) as store:
        store_events(store, "a", event_at(1, 10), event_at(2, 20))
    numbers = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 100000) "
    columns = "device, epoch, watermark, head, oldest, stored, gaps, quarantined, boot, last_seen"
    columns += ", continued, head_boot, other_head, leads, linked"
    change(
        location, f"INSERT INTO stream ({columns}) {numbers} SELECT 'a', 'e' || i, 0, 0, 1, 0, 0, 0, '', 0, 0, '', 0, false, false FROM n"
    )
    for most in (MAX_SORTED, 1):
        with History(location) as history, pytest.MonkeyPatch.context() as patch:
            patch.setattr(facewire_platform.history.events, "MAX_SORTED", most)
            assert [row["seq"] for row in history.events(Filter(device="a"))] == [1, 2]
