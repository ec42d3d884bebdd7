"""One suite on both databases. test_platform_sqlite and test_platform_postgresql have the rest."""

import json
import tempfile
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule, run_state_machine_as_test
from platform_model import BOOT, EPOCH, StreamModel, bad_event, batch, event
from platform_store import check_conserved, counts, rows, run, store_batches, store_match, store_refused
from postgresql_server import PostgreSQL

import facewire_platform.store.losses
import facewire_platform.store.writer
from facewire.errors import BatchRefused, StoreError
from facewire.events import MAX_INT, event_from_map
from facewire.messages import Ack, Batch, Match, Status
from facewire_platform.filter import Filter
from facewire_platform.history.queries import History
from facewire_platform.store.database import dialect_of
from facewire_platform.store.drivers import Location
from facewire_platform.store.writer import Message, Store, Unreadable, open_store

VENDOR_EVENTS = Path(__file__).parent / "data" / "vendor-events.jsonl"


@pytest.fixture
def store(location: Location) -> Iterator[Store]:
    with open_store(location) as opened:
        yield opened


SEQS = st.integers(1, 12)


class StoreMachine(RuleBasedStateMachine):
    """Random batches and matches in groups of any size; the model applies them one by one."""

    dense = 1_000

    def __init__(self) -> None:
        super().__init__()
        self.make()
        self.store = open_store(self.location)
        self.model = StreamModel()
        self.group: list[Message] = []
        facewire_platform.store.writer.DENSE = self.dense  # type: ignore[misc]  # the way of looking up must not matter

    def make(self) -> None:
        self.folder = tempfile.TemporaryDirectory()
        self.location: Location = Path(self.folder.name) / "x.db"

    @rule(
        after=st.integers(0, 12),
        kinds=st.lists(st.sampled_from(("good", "good", "other", "bad", "lost")), max_size=6),
        unreadable=st.booleans(),
        from_watermark=st.booleans(),
    )
    def history(self, after: int, kinds: list[str], unreadable: bool, from_watermark: bool) -> None:
        after = min(self.model.watermark, 12) if from_watermark else after
        while kinds and kinds[-1] == "lost":
            kinds = kinds[:-1]
        good = [event(seq, int(kind == "other")) for seq, kind in enumerate(kinds, after + 1) if kind in {"good", "other"}]
        bad = [bad_event(seq) for seq, kind in enumerate(kinds, after + 1) if kind == "bad"]
        if unreadable:
            bad.append(bad_event(None))
        self.group.append(Message("d", batch(after, after + len(kinds), *good, bad=tuple(bad)), 1))

    @rule(seq=SEQS, content=st.integers(0, 1))
    def realtime(self, seq: int, content: int) -> None:
        self.group.append(Message("d", Match(EPOCH, BOOT, 1, event(seq, content)), 1))

    @rule()
    def commit(self) -> None:
        outcomes = self.store.store(self.group)
        for message, outcome in zip(self.group, outcomes, strict=True):
            if isinstance(message.body, Match):
                self.model.take_match(message.body.event)
            elif isinstance(message.body, Batch):
                assert isinstance(outcome, Ack)
                assert (outcome.cursor, outcome.conflict) == self.model.take(message.body)
        self.group = []
        self.check()

    @rule()
    def fail_in_the_middle(self) -> None:
        broken = Message("d", Status(BOOT, True, 1, version="\ud800"), 1)
        with pytest.raises(ValueError, match="surrogates"):
            self.store.store([*self.group, broken])
        self.group = []
        self.check()

    @rule()
    def restart(self) -> None:
        self.group = []
        self.store.close()
        self.store = open_store(self.location)
        self.check()

    def check(self) -> None:
        self.model.check()
        stored = {seq: (at, name) for seq, at, name in rows(self.location, "SELECT seq, timestamp, identity_id FROM event")}
        assert stored == {seq: (e.timestamp, e.identity_id) for seq, e in self.model.stored.items()}
        gaps = rows(self.location, "SELECT first, last FROM gap")
        assert sorted(seq for first, last in gaps for seq in range(first, last + 1)) == sorted(self.model.gaps)
        assert {seq for (seq,) in rows(self.location, "SELECT seq FROM rejected")} == self.model.rejected
        if stream := rows(self.location, "SELECT watermark, stored, gaps, quarantined FROM stream"):
            model = self.model
            assert stream == [(model.watermark, len(model.stored), len(model.gaps), len(model.rejected))]

    def teardown(self) -> None:
        self.commit()
        self.store.close()
        self.folder.cleanup()


class SparseStoreMachine(StoreMachine):
    """The same, with every batch treated as a wide one."""

    dense = 0


class PostgresqlStoreMachine(StoreMachine):
    """The same on PostgreSQL, in one database that is emptied for each run."""

    server: PostgreSQL
    url: str | None = None

    def make(self) -> None:
        super().make()
        if self.url is None:
            type(self).url = self.server.new_database()
        else:
            for table in ("device", "stream", "event", "gap", "rejected", "quarantine"):
                run(self.url, f"DELETE FROM {table}")
        assert self.url is not None
        self.location = self.url


@pytest.mark.parametrize("machine", [StoreMachine, SparseStoreMachine])
def test_random_groups_leave_the_state_of_the_model(machine: type[StoreMachine]) -> None:
    run_state_machine_as_test(machine, settings=settings(max_examples=60, stateful_step_count=20))


@pytest.mark.postgresql
def test_random_groups_leave_the_state_of_the_model_on_postgresql(postgresql_server: PostgreSQL) -> None:
    PostgresqlStoreMachine.server = postgresql_server
    run_state_machine_as_test(PostgresqlStoreMachine, settings=settings(max_examples=25, stateful_step_count=20))


@pytest.fixture(autouse=True)
def dense() -> Iterator[None]:
    before = facewire_platform.store.writer.DENSE
    yield
    facewire_platform.store.writer.DENSE = before  # type: ignore[misc]  # see StoreMachine


def test_a_stream_begins_at_watermark_0_and_another_epoch_is_another_stream(store: Store, location: Location) -> None:
    assert store_batches(store, batch(0, 2, 1, 2)).cursor == 2
    assert store_batches(store, batch(5, 6, 6, epoch="00000000000000e2")).cursor == 0
    assert store_batches(store, batch(0, 1, 1, epoch="00000000000000e2")).cursor == 1
    assert store_batches(store, batch(0, 0), device="other").cursor == 0
    dialect = dialect_of(location)
    with closing(dialect.open("write")) as database, dialect.transaction(database):
        # A device has many epochs in its life. Only those of the messages are read.
        assert [row[1:3] for row in dialect.statements(database).streams([("d", "00000000000000e2"), ("new", EPOCH)])] == [
            ("d", "00000000000000e2"),
            ("new", EPOCH),
        ]


def test_the_same_batch_twice_in_a_transaction_is_stored_once(store: Store, location: Location) -> None:
    assert store_batches(store, batch(0, 2, 1, 2), batch(0, 2, 1, 2)).cursor == 2
    assert counts(location) == (2, 2, 0, 0)


def test_late_events_split_gaps_and_close_them(store: Store, location: Location) -> None:
    store_batches(store, batch(0, 9, 9))
    store_match(store, 4)
    assert rows(location, "SELECT first, last FROM gap ORDER BY first") == [(1, 3), (5, 8)]
    store_batches(store, batch(0, 8, 1, 3, 5, 8))
    assert rows(location, "SELECT first, last FROM gap ORDER BY first") == [(2, 2), (6, 7)]
    store_batches(store, batch(0, 7, 2, 6, 7))
    assert rows(location, "SELECT * FROM gap") == []
    check_conserved(location)


def test_a_split_gap_keeps_the_time_at_which_it_was_declared(store: Store, location: Location) -> None:
    store_batches(store, batch(0, 9, 9), now_ms=70)
    store_match(store, 4, now_ms=90)
    assert rows(location, "SELECT DISTINCT declared_at FROM gap") == [(70,)]


def test_a_gap_says_why_its_events_are_lost(store: Store, location: Location) -> None:
    second = "00000000000000e2"
    store_batches(store, batch(0, 9, 9), batch(9, 2**62, 2**62), batch(2**62, 2**62, head=2**62 + 5))
    store_batches(store, batch(0, 1, 1, epoch=second, boot="00000000000000b2"))
    assert rows(location, "SELECT first, reason FROM gap ORDER BY first") == [(1, "missing"), (10, "jump"), (2**62 + 1, "ended")]
    store_batches(store, replace(batch(1, 9, 9, epoch=second, boot="00000000000000b2"), oldest=9))
    assert rows(location, "SELECT first, reason FROM gap JOIN stream ON stream.id = gap.stream WHERE epoch = '00000000000000e2'") == [
        (2, "overwritten")
    ]


@pytest.mark.parametrize(("lost", "reason"), [(1_000_101, "missing"), (1_000_102, "jump")])
def test_the_seqs_may_rise_by_a_million_and_by_a_hundred_for_each_second_of_silence(
    store: Store, location: Location, lost: int, reason: str
) -> None:
    store_batches(store, batch(0, 1, 1), now_ms=1_764_054_000_000)
    store_batches(store, batch(1, lost + 1, lost + 1), now_ms=1_764_054_001_000)
    assert rows(location, "SELECT first, last, reason FROM gap") == [(2, lost, reason)]


def test_a_bad_event_later_sent_good_leaves_the_quarantine(store: Store, location: Location) -> None:
    assert [r.seq for r in store_batches(store, batch(0, 4, 1, 4, bad=(bad_event(2), bad_event(3)))).rejected] == [2, 3]
    assert counts(location) == (4, 2, 0, 2)
    store_batches(store, batch(1, 2, 2))
    store_match(store, 3)
    assert counts(location) == (4, 4, 0, 0)
    assert rows(location, "SELECT * FROM quarantine") == []


def test_the_count_stays_right_when_the_quarantine_is_full(store: Store, location: Location, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(facewire_platform.store.losses, "MOST_QUARANTINED", 2)
    store_batches(store, batch(0, 5, bad=tuple(bad_event(seq) for seq in range(1, 6))))
    assert rows(location, "SELECT seq FROM quarantine") == [(4,), (5,)]
    store_batches(store, batch(0, 1, 1))
    assert counts(location) == (5, 1, 0, 4)
    check_conserved(location)


def test_a_match_whose_seq_is_not_plausible_is_quarantined_and_changes_nothing_else(store: Store, location: Location) -> None:
    store.store([Message("d", batch(0, 2, 1, 2), 10_000)])
    before = rows(location, "SELECT head, watermark, stored FROM stream")
    for seq in (2**62, 1_000_103):  # 2 + 1,000,000 + 100 a second of one second
        assert store.store([Message("d", Match(EPOCH, BOOT, 1, event(seq)), 11_000)]) == [False]
    assert rows(location, "SELECT head, watermark, stored FROM stream") == before
    reasons = [reason for (reason,) in rows(location, "SELECT reason FROM quarantine ORDER BY id")]
    assert reasons[0] == f"seq {2**62} is over 1000102: more events than a device can have recorded"
    assert store.store([Message("d", Match(EPOCH, BOOT, 1, event(1_000_102)), 11_000)]) == [True]
    check_conserved(location)


def test_a_new_stream_may_begin_at_what_a_box_records_in_decades(store: Store, location: Location) -> None:
    now_ms, seq = 1_764_000_000_000, 5 * 86_400 * 365 * 50
    assert store.store([Message("d", Match(EPOCH, BOOT, 1, event(seq)), now_ms)]) == [True]
    assert store.store([Message("e", Match(EPOCH, BOOT, 1, event(2**62)), now_ms)]) == [False]


def test_a_device_pushes_only_its_own_entries_out_of_a_full_quarantine(
    store: Store, location: Location, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(facewire_platform.store.losses, "MOST_QUARANTINED", 100)
    store_batches(store, batch(0, 5, bad=tuple(bad_event(seq) for seq in range(1, 6))), device="honest")
    store.store([Message("honest", Unreadable("facewire/v1/honest/match", "bad", b"evidence"), 1)])
    for first in range(1, 1_000, 50):
        loud = [Message("loud", Unreadable("facewire/v1/loud/match", "bad", b"%d" % number), 1) for number in range(first, first + 50)]
        store.store([*loud, Message("loud", batch(first, first + 50, bad=tuple(map(bad_event, range(first + 1, first + 51)))), 1)])
    found = rows(location, "SELECT topic FROM quarantine")
    assert 50 <= len(found) <= 100
    assert sum("honest" in topic for (topic,) in found) == 6


def test_an_event_that_is_twice_in_a_batch_s_rejected_ones_is_one_entry_counted_twice(store: Store, location: Location) -> None:
    twins = (bad_event(None), bad_event(None))
    store_batches(store, batch(0, 2, 1, 2, bad=twins), batch(0, 2, 1, 2, bad=twins))
    assert rows(location, "SELECT times FROM quarantine") == [(4,)]


def test_events_that_retention_deleted_may_arrive_again_without_being_counted_again(store: Store, location: Location) -> None:
    store_batches(store, batch(0, 4, 1, 4, bad=(bad_event(2),)))
    run(location, "DELETE FROM event WHERE seq = 1")
    assert store_batches(store, batch(0, 1, 1)).cursor == 4
    assert counts(location) == (4, 2, 1, 1)
    store_match(store, 1)
    run(location, "DELETE FROM event WHERE seq = 1")
    store_match(store, 1)
    assert counts(location) == (4, 2, 1, 1)
    assert rows(location, "SELECT stored FROM stream") == [(2,)], "an event that comes again is not counted again"


def test_quarantine_keeps_one_row_for_a_message_that_arrives_often(store: Store, location: Location) -> None:
    for now_ms in (1, 2, 3):
        store.store([Message("", Unreadable("t", "why", b"\x00raw"), now_ms)])
    assert rows(location, "SELECT topic, reason, payload, size_bytes, first_at, last_at, times FROM quarantine") == [
        ("t", "why", b"\x00raw", 4, 1, 3, 3)
    ]


def test_quarantine_keeps_the_beginning_of_a_large_payload_and_its_size(store: Store, location: Location) -> None:
    store.store([Message("", Unreadable("t", "why", bytes(1_000_000)), 1)])
    assert rows(location, "SELECT length(payload), size_bytes FROM quarantine") == [(65_536, 1_000_000)]


def test_a_batch_over_all_integers_is_one_gap_and_one_event(store: Store, location: Location) -> None:
    assert store_batches(store, batch(0, 2**60, 2**60)).cursor == 2**60
    assert store_batches(store, batch(2**60, MAX_INT, MAX_INT)).cursor == MAX_INT
    assert store_batches(store, batch(MAX_INT, MAX_INT)).cursor == MAX_INT
    assert rows(location, "SELECT first, last FROM gap") == [(1, 2**60 - 1), (2**60 + 1, MAX_INT - 1)]
    watermark, stored, gaps, _ = counts(location)
    assert watermark == stored + gaps


def test_a_hole_at_the_largest_integer_is_a_hole(store: Store) -> None:
    assert store_batches(store, batch(MAX_INT, MAX_INT)).cursor == 0
    assert store_batches(store, batch(MAX_INT - 1, MAX_INT, MAX_INT)).cursor == 0
    assert store_batches(store, batch(0, MAX_INT, 1)).cursor == MAX_INT


def test_a_wide_batch_over_many_matches_declares_every_hole_between_them(store: Store, location: Location) -> None:
    """More gaps than a statement may have variables, which once blocked a device's history."""
    store.store([Message("d", Match(EPOCH, BOOT, 1, event(seq)), 1) for seq in range(2, 40_001, 2)])
    assert store_batches(store, batch(0, 40_001, 40_001)).cursor == 40_001
    assert rows(location, "SELECT count(*), min(last - first), max(last - first) FROM gap")[0] == (20_000, 0, 0)
    check_conserved(location)


def test_match_first_or_history_first_makes_no_difference(store: Store, location: Location) -> None:
    store_match(store, 1)
    assert counts(location) == (0, 0, 0, 0)
    store_batches(store, batch(0, 2, 1, 2))
    store_match(store, 2)
    assert counts(location) == (2, 2, 0, 0)


def test_a_history_copy_that_differs_from_its_match_is_a_conflict(store: Store) -> None:
    store_match(store, 2, content=5)
    ack = store_batches(store, batch(0, 2, 1, 2))
    assert (ack.conflict, ack.cursor) == (2, 1)


def test_a_refused_batch_is_answered_with_the_watermark_and_changes_nothing(store: Store, location: Location) -> None:
    store_batches(store, batch(0, 2, 1, 2))
    before = rows(location, "SELECT * FROM stream")
    ack = store_refused(store, "d", BatchRefused("too many", epoch=EPOCH, boot=BOOT, key=9))
    assert ack == Ack(EPOCH, BOOT, 9, 2, store.identity, error="too many")
    assert store_refused(store, "new", BatchRefused("too many", epoch=EPOCH, boot=BOOT, key=9)).cursor == 0
    assert rows(location, "SELECT * FROM stream") == before


def online(location: Location) -> bool:
    with History(location) as history:
        return bool(next(history.devices())["online"])


def tell(store: Store, boot: str, *, online: bool) -> bool:
    [counts] = store.store([Message("d", Status(boot, online, 1, EPOCH if online else None), 1)])
    return bool(counts)


OLD, NEW = "0000000000000001", "0000000000000002"


def test_a_will_of_an_old_boot_is_ignored(store: Store, location: Location) -> None:
    assert tell(store, OLD, online=True)
    assert tell(store, NEW, online=True)
    assert not tell(store, OLD, online=False)
    assert online(location)
    assert tell(store, NEW, online=False)
    assert not online(location)


def test_a_boot_is_seen_from_its_batches_and_its_matches_too(store: Store, location: Location) -> None:
    for seq, how in enumerate(("batch", "match"), 1):
        assert tell(store, f"{seq:016x}", online=True)
        if how == "batch":
            store_batches(store, batch(0, 0, boot=f"{seq + 1:016x}"))
        else:
            store_match(store, 9, boot=f"{seq + 1:016x}")
        assert not tell(store, f"{seq:016x}", online=False)
        assert online(location)


def test_every_vendor_field_comes_back_unchanged(store: Store, location: Location) -> None:
    lines = [json.loads(line) for line in VENDOR_EVENTS.read_text().splitlines()]
    for seq, fields in enumerate(lines, 1):
        fields.setdefault("person_type", 4)
        store.store([Message("d", Match(EPOCH, BOOT, 1, event_from_map({**fields, "seq": seq})), 1)])
    with History(location) as history:
        found = {row["seq"]: row for row in history.events(Filter())}
    for seq, fields in enumerate(lines, 1):
        assert found[seq] == {"device": "d", "epoch": EPOCH, "seq": seq, **fields}


def test_a_store_keeps_its_identity_and_a_new_store_has_another(tmp_path: Path) -> None:
    made = []
    for name in ("a", "a", "b"):
        with open_store(tmp_path / name) as store:
            made.append(store.identity)
    assert made[0] == made[1] != made[2]


def test_a_bug_is_no_outage(store: Store, location: Location) -> None:
    run(location, "ALTER TABLE gap RENAME TO missing")
    with pytest.raises(Exception, match=r"no such table|does not exist") as caught:
        store_batches(store, batch(0, 2, 2))
    assert not isinstance(caught.value, StoreError)
    run(location, "ALTER TABLE missing RENAME TO gap")
    assert store_batches(store, batch(0, 1, 1)).cursor == 1
