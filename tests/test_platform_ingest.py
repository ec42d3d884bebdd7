import itertools
from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from platform_model import StreamModel, bad_event, batch, event

from facewire.events import MAX_INT
from facewire.messages import BadEvent, Batch, Rejected
from facewire_platform.ingest import Content, Decision, Decisive, Range, answer, decide, missing


def contents(*seqs: int, content: int = 0) -> dict[int, Content]:
    return {seq: Content.of(event(seq, content)) for seq in seqs}


def seqs_of(decision: Decision[Decisive]) -> list[int]:
    return [stored.seq for stored in decision.store]


def test_a_batch_that_joins_on_is_stored_and_moves_the_watermark_to_its_cursor() -> None:
    decision = decide(batch(3, 5, 4, 5), 3, {})
    assert (decision.watermark, seqs_of(decision), decision.declared, decision.late) == (5, [4, 5], (), ())


def test_a_batch_with_a_bad_event_is_not_mistaken_for_a_whole_one() -> None:
    unreadable = bad_event(None)
    assert decide(batch(3, 5, 4, 5, bad=(unreadable,)), 3, {}).rejected == (unreadable,)


def test_a_batch_with_as_many_events_as_the_watermark_moves_may_lack_some_of_them() -> None:
    decision = decide(batch(3, 7, 4, 5), 5, {})
    assert (decision.watermark, decision.declared, decision.late) == (7, (Range(6, 7),), (4, 5))


def test_a_hole_is_stored_but_leaves_the_watermark_and_declares_nothing() -> None:
    decision = decide(batch(7, 10, 8, 10), 3, {})
    assert (decision.watermark, seqs_of(decision), decision.declared) == (3, [8, 10], ())


def test_a_batch_after_a_hole_is_not_checked_for_conflicts_and_stored_events_stay() -> None:
    decision = decide(batch(7, 9, event(8, 1), event(9, 1)), 3, contents(8))
    assert (decision.conflict, seqs_of(decision), decision.watermark) == (None, [9], 3)


def test_only_the_part_before_the_first_conflict_counts() -> None:
    decision = decide(batch(0, 9, 1, 2, event(5, 1), event(6, 1), 9), 0, contents(2, 5, 6))
    assert (decision.conflict, decision.watermark, seqs_of(decision)) == (5, 4, [1])
    assert decision.declared == (Range(3, 4),)


def test_a_conflict_below_the_watermark_leaves_the_watermark() -> None:
    decision = decide(batch(1, 4, event(2, 1), 3, 4), 8, contents(2, 3, 4))
    assert (decision.conflict, decision.watermark, decision.store, decision.declared) == (2, 8, (), ())


def test_a_conflict_at_the_first_seq_moves_nothing() -> None:
    decision = decide(batch(0, 2, event(1, 1), 2), 0, contents(1))
    assert (decision.conflict, decision.watermark, decision.store, decision.declared) == (1, 0, (), ())


def test_a_store_that_lost_its_tail_forks_behind_the_batch() -> None:
    """A whole batch, but another boot had reported a higher head (R7)."""
    decision = decide(batch(3, 5, 4, 5, head=5), 3, {}, earlier_head=6)
    assert (decision.conflict, decision.watermark, seqs_of(decision), decision.declared) == (6, 5, [4, 5], ())


def test_a_store_that_still_reaches_the_reported_head_does_not_fork() -> None:
    assert decide(batch(3, 5, 4, 5, head=6), 3, {}, earlier_head=6).conflict is None
    assert decide(batch(3, 5, 4, head=6), 3, {}, earlier_head=6).conflict is None


def test_an_event_stored_under_another_epoch_is_passed_and_not_stored_again() -> None:
    decision = decide(batch(3, 6, 4, 5, 6), 3, {}, elsewhere={5})
    assert (decision.watermark, seqs_of(decision), decision.declared, decision.continued) == (6, [4, 6], (), (5,))
    assert seqs_of(decide(batch(7, 9, 8, 9), 3, {}, elsewhere={8})) == [9]


def test_a_seq_is_continued_once_when_the_watermark_passes_it() -> None:
    decision = decide(batch(0, 6, 1, 2, 3, 4, 5, 6), 3, contents(1, 2), elsewhere={3, 4, 6})
    assert (seqs_of(decision), decision.continued) == ([5], (4, 6))
    decision = decide(batch(0, 6, 1, 2, 3, 4, event(5, 1), 6), 3, contents(1, 2, 3, 5), elsewhere={4, 6})
    assert (decision.conflict, decision.continued) == (5, (4,))


def test_an_event_that_both_epochs_have_is_neither_a_conflict_nor_continued() -> None:
    decision = decide(batch(0, 2, event(1, 1), 2), 0, contents(1), elsewhere={1})
    assert (decision.conflict, seqs_of(decision), decision.continued) == (None, [2], ())


@pytest.mark.parametrize("changed", [{"timestamp": 1}, {"identity_id": "q"}, {"score": 0.25}])
def test_timestamp_identity_and_score_each_make_a_conflict(changed: dict[str, object]) -> None:
    assert decide(batch(0, 1, event(1)._replace(**changed)), 0, contents(1)).conflict == 1  # type: ignore[arg-type]  # one field each


def test_other_fields_make_no_conflict() -> None:
    other = event(1)._replace(identity_name="other", group_name="other", extra={"more": 1})
    assert decide(batch(0, 1, other), 0, contents(1)).conflict is None


def test_bad_events_after_a_conflict_are_not_rejected() -> None:
    decision = decide(batch(0, 4, 1, event(3, 1), bad=(bad_event(2), bad_event(4))), 0, contents(3))
    assert (decision.conflict, decision.watermark) == (3, 2)
    assert [bad.seq for bad in decision.rejected] == [2]
    assert decision.quarantined == (2,)


def test_a_repeat_changes_nothing() -> None:
    decision = decide(batch(0, 3, 1, 3), 3, contents(1, 3))
    assert decision == Decision(3)


def test_gaps_begin_above_the_watermark_if_the_device_went_back() -> None:
    decision = decide(batch(0, 9, 2, 8), 5, contents(2, 3, 4, 5))
    assert decision.declared == (Range(6, 7), Range(9, 9))
    assert decision.watermark == 9


def test_an_event_stored_from_its_match_is_no_gap() -> None:
    assert decide(batch(0, 4, 4), 0, contents(2)).declared == (Range(1, 1), Range(3, 3))


def test_an_event_at_or_below_the_watermark_that_is_not_stored_is_late() -> None:
    decision = decide(batch(0, 4, 1, 2, 3, 4), 3, contents(1))
    assert (seqs_of(decision), decision.late) == ([2, 3, 4], (2, 3))


def test_several_bad_events_are_quarantined_and_passed() -> None:
    decision = decide(batch(0, 5, 1, 4, bad=(bad_event(2), bad_event(3), bad_event(5))), 0, {})
    assert (decision.watermark, decision.quarantined, decision.declared) == (5, (2, 3, 5), ())
    assert [bad.seq for bad in decision.rejected] == [2, 3, 5]


def test_a_bad_event_without_a_readable_seq_leaves_a_gap() -> None:
    decision = decide(batch(0, 3, 1, 3, bad=(bad_event(None),)), 0, {})
    assert (decision.declared, decision.quarantined, len(decision.rejected)) == ((Range(2, 2),), (), 1)


def test_a_bad_event_that_is_stored_from_its_match_is_rejected_but_not_counted() -> None:
    decision = decide(batch(0, 2, 1, bad=(bad_event(2),)), 0, contents(2))
    assert (decision.quarantined, decision.declared, len(decision.rejected)) == ((), (), 1)


def test_a_bad_event_sent_again_is_rejected_again_but_counted_once() -> None:
    decision = decide(batch(0, 2, 1, bad=(bad_event(2),)), 2, contents(1))
    assert (decision.quarantined, len(decision.rejected)) == ((), 1)


def test_a_probe_below_the_watermark_moves_nothing_and_above_it_is_a_hole() -> None:
    assert decide(batch(2, 2), 7, {}) == Decision(7)
    assert decide(batch(9, 9), 7, {}) == Decision(7)


def test_a_huge_range_costs_no_more_than_its_events() -> None:
    """One step for each of its seqs would never end."""
    decision = decide(batch(0, MAX_INT, 2**60), 0, {}, runs=[Range(5, 2**40)])
    assert decision.declared == (Range(1, 4), Range(2**40 + 1, 2**60 - 1), Range(2**60 + 1, MAX_INT))
    assert decision.watermark == MAX_INT == sum(span.size for span in decision.declared) + 1 + 2**40 - 4


def test_the_ack_repeats_the_batch_key_and_names_the_rejected_events() -> None:
    asked = batch(0, 3, 1, bad=(bad_event(2, "why"), bad_event(None, "unreadable")))
    ack = answer(asked, decide(asked, 0, {}), "store")
    assert (ack.epoch, ack.boot, ack.key, ack.cursor, ack.store) == (asked.epoch, asked.boot, 3, 3, "store")
    assert (ack.conflict, ack.error, ack.retry_after) == (None, None, None)
    assert ack.rejected == (Rejected(2, "why"), Rejected(None, "unreadable"))


@given(st.integers(1, 12), st.integers(0, 15), st.lists(st.tuples(st.integers(1, 15), st.integers(0, 4))))
def test_missing_ranges_are_the_rest_of_the_span(first: int, size: int, held: list[tuple[int, int]]) -> None:
    ranges = [(start, start + more) for start, more in held]
    left = set(range(first, first + size)) - {seq for start, end in ranges for seq in range(start, end + 1)}
    found = list(missing(Range(first, first + size - 1), ranges))
    assert [seq for span in found for seq in range(span.first, span.last + 1)] == sorted(left)
    assert all(before.last + 1 < after.first for before, after in itertools.pairwise(found)), "not as few as can be"


@st.composite
def batches(draw: st.DrawFn, most: int = 9) -> Batch:
    """Batches of one epoch. They are small, so that they overlap."""
    after, cursor = sorted((draw(st.integers(0, most)), draw(st.integers(0, most))))
    kinds = draw(st.lists(st.sampled_from(("good", "other", "bad", "lost")), min_size=cursor - after, max_size=cursor - after))
    events, bad = [], []
    for seq, kind in enumerate(kinds, after + 1):
        if kind == "bad":
            bad.append(bad_event(seq))
        elif kind != "lost":
            events.append(event(seq, int(kind == "other")))
    if draw(st.booleans()):
        bad.append(BadEvent(None, "unreadable", b""))
    return batch(after, cursor if events or bad else after, *events, bad=tuple(bad))


@given(st.lists(batches(), max_size=6), st.booleans())
def test_any_batches_leave_the_state_of_the_model(taken: list[Batch], as_runs: bool) -> None:
    model = StreamModel()
    for one in taken:
        known = {seq: Content.of(stored) for seq, stored in model.stored.items() if one.after < seq <= one.cursor}
        own = {event.seq for event in one.events} | {bad.seq for bad in one.bad}
        runs: Iterable[Range] = [Range(seq, seq) for seq in known if seq > model.watermark] if as_runs else ()
        before = StreamModel(model.watermark, dict(model.stored), set(model.gaps), set(model.rejected))
        decision = decide(one, model.watermark, {seq: known[seq] for seq in known if not as_runs or seq in own}, runs)
        assert (decision.watermark, decision.conflict) == model.take(one)
        model.check()
        declared = {seq for span in decision.declared for seq in range(span.first, span.last + 1)}
        assert {stored.seq for stored in decision.store} == model.stored.keys() - before.stored.keys()
        assert declared == model.gaps - before.gaps
        end = one.cursor if decision.conflict is None else decision.conflict - 1
        counted = end if one.after <= before.watermark else one.cursor
        assert decision.rejected == tuple(bad for bad in one.bad if bad.seq is None or bad.seq <= counted)
        assert set(decision.quarantined) == model.rejected - before.rejected
        assert set(decision.late) == (before.gaps | before.rejected) - (model.gaps | model.rejected)
