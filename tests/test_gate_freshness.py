"""Matches that a consumer may act on: pure, time is an argument."""

import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from facewire.events import Event
from facewire.messages import Match, Status
from facewire_gate import freshness
from facewire_gate.freshness import BOOTS, CONTESTERS, DRIFT, EPOCH_KEPT, EPOCHS, PROMPT, WINDOW, Freshness, Limits, Moment, Reason

EPOCH, BOOTED = "0123456789abcdef", 1_764_000_000_000
HOUR = 3_600_000
#: A wrong clock is believed after two steady periods.
STEADY = Limits(proof="steady")


def boot(number: int) -> str:
    return f"{number:016x}"


def at(ms: int) -> Moment:
    """A moment so long after ours began; our two clocks go together."""
    return Moment(ms / 1000, BOOTED + ms)


def match_of(
    seq: int, sent_ms: int, *, held: int = 0, boots: int = 1, epoch: str = EPOCH, said: tuple[int | None, int | None] = (None, None)
) -> Match:
    event = Event(seq, sent_ms - held, 0.9, "7", "Ada", 1, None, None, {})
    return Match(epoch, boot(boots), sent_ms, event, *said)


class Gate:
    """One device, whose clock is `ahead` ms ahead of ours, seen by one consumer."""

    def __init__(self, limits: Limits | None = None, ahead: int = 0) -> None:
        self.freshness = Freshness(limits)
        self.ahead = ahead
        self.seq = 0

    def match(
        self, sent: int, received: int | None = None, *, taken: int | None = None, retained: bool = False, **more: Any
    ) -> Reason | None:
        """A match sent and received at these ms of ours; the verdict's reason."""
        self.seq += 1
        received = sent if received is None else received
        wire = match_of(more.pop("seq", self.seq), BOOTED + sent + self.ahead, **more)
        now = at(received if taken is None else taken)
        return self.freshness.match("d", wire, retained=retained, arrived=at(received), now=now).reason

    def status(self, sent: int, received: int | None = None, *, boots: int = 1, online: bool = True, retained: bool = False) -> None:
        status = Status(boot(boots), online, BOOTED + sent + self.ahead)
        self.freshness.hear("d", status, retained=retained, arrived=at(sent if received is None else received))


def steadily(gate: Gate, start: int, *, late: int = 0, every: int = 10_000, seconds: int = 180) -> list[Reason | None]:
    return [gate.match(sent, sent + late) for sent in range(start, start + seconds * 1000, every)]


def test_the_first_match_of_a_clock_that_is_right_is_fresh() -> None:
    assert Gate().match(0, 30) is None


def test_a_retained_match_is_refused_and_teaches_nothing() -> None:
    gate = Gate()
    assert gate.match(0, boots=2, retained=True) == "retained"
    assert gate.match(0, boots=1) is None


def test_a_repeated_match_is_refused() -> None:
    gate = Gate()
    assert [gate.match(0, at_ms, seq=7) for at_ms in (10, 20, 30)] == [None, "repeated", "repeated"]
    assert gate.match(0, 40, seq=6) is None
    assert gate.match(0, 50, seq=6) == "repeated"
    assert gate.freshness.refused == {"repeated": 3}
    assert gate.freshness.accepted == 2


def test_a_match_of_a_previous_boot_is_refused_for_good() -> None:
    gate = Gate()
    assert gate.match(0, boots=1) is None
    gate.status(9_000, boots=2)
    assert gate.match(9_020, boots=1) == "previous_boot"
    assert gate.match(9_030, boots=2) is None
    gate.status(100_000, boots=1)
    assert gate.match(100_050, boots=1) == "previous_boot"
    assert gate.match(100_060, boots=2) is None


def test_a_will_does_not_make_its_boot_the_newest() -> None:
    gate = Gate()
    assert gate.match(0, boots=1) is None
    gate.status(9_000, boots=2, online=False)
    assert gate.match(9_020, boots=1) is None


def test_a_straggler_of_a_previous_boot_does_not_become_the_newest() -> None:
    gate = Gate()
    gate.status(1_000, boots=2)
    gate.status(500, 1_005, boots=1)
    gate.status(500, 1_005, boots=1, retained=True)
    assert gate.match(900, 1_010, boots=1) == "previous_boot"
    # It might as well be the newer one: until that is clear, neither is acted on.
    assert gate.match(3_010, boots=2) == "previous_boot"
    assert gate.match(3_011, boots=2) is None


def test_a_restart_is_believed_once_its_message_is_shown_to_be_newer() -> None:
    gate = Gate()
    assert gate.match(10_000, boots=1) is None
    assert gate.match(12_000, boots=2) == "previous_boot"
    assert gate.match(11_999, 12_000, boots=1) == "previous_boot"
    assert gate.match(12_001, boots=2) is None


def test_a_restart_between_a_known_and_a_contested_boot_opens_no_door() -> None:
    gate = Gate()
    gate.status(10_000, boots=1)
    gate.ahead = -HOUR
    gate.status(45_000, boots=3)
    gate.ahead = 0
    assert gate.match(44_990, 45_010, boots=2) == "previous_boot"


def test_a_status_of_a_previous_boot_tells_nothing_about_the_clock() -> None:
    gate = Gate()
    gate.status(10_000, boots=1)
    gate.status(100_000, boots=2)
    gate.ahead = HOUR
    gate.status(100_500, boots=1)
    gate.ahead = 0
    assert gate.match(101_000, boots=2) is None


def test_a_restart_that_loses_the_clock_is_believed_after_a_minute() -> None:
    gate = Gate()
    assert gate.match(0, boots=1) is None
    gate.ahead = -50 * 365 * 24 * HOUR
    assert gate.match(60_000, boots=2) == "previous_boot"
    assert gate.match(60_001, boots=2) == "unproven"
    assert steadily(gate, 70_000, seconds=200)[-1] == "previous_boot"
    assert gate.match(290_000, boots=2) == "unproven"


def test_a_retained_status_tells_the_newest_boot_before_any_match() -> None:
    gate = Gate()
    gate.status(-HOUR, 0, boots=2, retained=True)
    assert gate.match(10, boots=1) == "previous_boot"
    assert gate.match(2_011, boots=2) is None
    gate.status(60_000, 100_000, boots=3, retained=True)
    assert gate.match(100_010, boots=2) == "previous_boot"


def test_a_late_match_is_refused_even_if_it_is_the_first() -> None:
    gate = Gate()
    assert gate.match(0, 60_000) == "unproven"  # a slow clock would look the same
    assert gate.match(60_000) is None
    assert gate.match(60_000, 65_100) == "late"


def test_the_time_between_comparison_and_publishing_counts() -> None:
    gate = Gate()
    assert gate.match(0, held=2_900) is None
    assert gate.match(0, held=5_100) == "late"


def test_the_time_in_the_inbox_counts() -> None:
    gate = Gate()
    assert gate.match(0, 10, taken=2_900) is None
    assert gate.match(0, 10, taken=6_000) == "late"


def test_a_comparison_after_its_publishing_is_unproven() -> None:
    assert Gate().match(0, held=-1_500) == "unproven"
    assert Gate().match(0, held=-900) is None


def test_a_match_of_the_night_delivered_after_a_reconnect_is_refused() -> None:
    # The incident: a door opened at 03:05 on a match of 00:05.
    for retained in (False, True):
        assert Gate().match(0, 3 * HOUR, retained=retained) is not None


@pytest.mark.parametrize("late", [3_100, 40_000, 600_000, 1_199_000])
def test_a_stream_late_from_its_first_message_is_never_fresh(late: int) -> None:
    assert None not in steadily(Gate(STEADY), 0, late=late, seconds=3_600)


def test_a_backlog_that_drains_is_refused_until_it_is_gone() -> None:
    gate = Gate()
    verdicts = {sent: gate.match(sent, 60_000 + sent // 100) for sent in range(0, 60_000, 500)}
    assert all((verdict is None) == (60_000 + sent // 100 - sent <= 3_000) for sent, verdict in verdicts.items())


@pytest.mark.parametrize("ahead", [-20 * 365 * 24 * HOUR, -8 * HOUR, -HOUR // 2, 2_500, 60_000, HOUR, 50 * 365 * 24 * HOUR])
def test_a_clock_that_is_plainly_wrong_is_believed_after_two_steady_periods(ahead: int) -> None:
    gate = Gate(STEADY, ahead=ahead)
    verdicts = steadily(gate, 0, every=10_000, seconds=300)
    assert verdicts[:12] == ["unproven"] * 12
    assert verdicts[13:] == [None] * 17
    assert gate.match(300_000, 305_100) == "late"
    assert gate.match(305_200) is None


@pytest.mark.parametrize("limits", [Limits(), Limits(proof="round_trip"), Limits(steady=math.inf, proof="steady")])
def test_a_plainly_wrong_clock_is_never_believed_if_only_ours_counts(limits: Limits) -> None:
    gate = Gate(limits, ahead=HOUR)
    assert set(steadily(gate, 0, seconds=3_600)) == {"unproven"}


@pytest.mark.parametrize("ahead", [-10_000, -600_000])
def test_a_clock_whose_error_may_be_a_delay_is_not_believed(ahead: int) -> None:
    assert set(steadily(Gate(STEADY, ahead=ahead), 0, seconds=3_600)) == {"unproven"}


def test_statuses_prove_a_clock_for_a_match_that_is_rare() -> None:
    gate = Gate(STEADY, ahead=HOUR)
    for sent in range(0, 140_000, 20_000):
        gate.status(sent)
    assert gate.match(140_000) is None


def test_a_period_needs_its_messages() -> None:
    gate = Gate(STEADY, ahead=HOUR)
    for sent in range(0, 180_000, 61_000):
        gate.status(sent)
    assert gate.match(123_000) == "unproven"


def test_an_unsteady_floor_proves_nothing() -> None:
    gate = Gate(STEADY, ahead=HOUR)
    assert {gate.match(sent, sent + 40_000 + sent // 50) for sent in range(0, 600_000, 10_000)} <= {"unproven", "late"}


def test_wills_and_retained_statuses_prove_no_clock() -> None:
    gate = Gate(STEADY, ahead=HOUR)
    for sent in range(0, 300_000, 20_000):
        gate.status(sent, online=False)
        gate.status(sent, retained=True)
    assert gate.match(300_000) == "unproven"


@pytest.mark.parametrize(("hours", "reason"), [(0, None), (5, None), (8, "unproven"), (800, "unproven")])
def test_a_proof_expires_because_clocks_drift_apart(hours: int, reason: Reason | None) -> None:
    gate = Gate(STEADY, ahead=HOUR)
    steadily(gate, 0)
    assert (5_000 - PROMPT) / DRIFT < 8 * HOUR
    assert gate.match(180_000 + hours * HOUR) == reason


def test_a_right_clock_that_drifts_stays_right() -> None:
    assert Gate(ahead=1_900).match(0, 20) is None
    assert Gate(ahead=-2_900).match(0, 20) is None


@pytest.mark.parametrize("jump", [-HOUR, -30_000, 30_000, HOUR])
def test_after_a_jump_of_the_clock_matches_are_refused_until_it_is_proved_or_right_again(jump: int) -> None:
    gate = Gate(STEADY)
    steadily(gate, 0)
    gate.ahead = jump
    assert gate.match(200_000) in {"late", "unproven"}
    assert gate.match(201_000) in {"late", "unproven"}
    gate.ahead = 0
    # A clock that ran ahead is in doubt for some periods: if it is ahead still, it hides a delay.
    back = steadily(gate, 202_000, seconds=300)
    assert back[-5:] == [None] * 5
    if jump < 0:
        assert back[0] is None


def test_a_wrong_clock_that_jumps_forward_is_proved_anew() -> None:
    gate = Gate(STEADY, ahead=HOUR)
    steadily(gate, 0)
    gate.ahead += 30_000
    assert gate.match(200_000) == "unproven"
    assert gate.match(201_000, 221_000) == "late"


def test_a_match_as_late_as_its_clock_was_ahead_is_refused() -> None:
    gate = Gate(STEADY, ahead=HOUR)
    gate.match(0)
    assert gate.match(1_000, 1_000 + HOUR) == "late"


def test_a_step_of_our_own_clock_leaves_floors_alone() -> None:
    gate = Gate()
    wrong = Moment(1.0, BOOTED + 1_000 + HOUR)
    assert gate.freshness.match("d", match_of(1, BOOTED + 1_000), retained=False, arrived=wrong, now=wrong).reason == "unproven"
    assert gate.match(2_000, seq=2) is None


def test_a_seq_far_below_the_highest_counts_as_repeated() -> None:
    gate = Gate()
    assert gate.match(0, seq=5_000) is None
    assert gate.match(0, seq=5_000 - WINDOW) == "repeated"
    assert gate.match(0, seq=5_001 - WINDOW) is None
    assert gate.match(0, seq=10**18) is None
    assert gate.match(0, seq=5_000) == "repeated"


@given(st.lists(st.integers(1, 3 * WINDOW), max_size=300))
def test_no_seq_is_acted_on_twice_and_none_near_the_highest_is_mistaken(seqs: list[int]) -> None:
    gate, acted = Gate(), set[int]()
    for seq in seqs:
        fresh = gate.match(0, seq=seq) is None
        assert fresh == (seq not in acted and seq > max(acted, default=0) - WINDOW)
        acted |= {seq} if fresh else set()


def test_a_new_epoch_waits_while_there_are_too_many() -> None:
    gate = Gate()
    assert {gate.match(1_000 * number, epoch=boot(number)) for number in range(EPOCHS)} == {None}
    assert gate.match(20_000, epoch=boot(99)) == "crowded"
    later = int(EPOCH_KEPT * 1000)
    assert gate.match(later, epoch=boot(99)) is None
    assert gate.match(later, epoch=boot(0)) == "crowded"


def test_a_new_device_waits_while_there_are_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(freshness, "DEVICES", 1)
    gate = Gate()
    assert gate.match(0) is None
    gate.freshness.hear("e", Status(boot(1), online=True, at=BOOTED), retained=False, arrived=at(0))
    assert gate.freshness.match("e", match_of(1, BOOTED), retained=False, arrived=at(0), now=at(0)).reason == "crowded"
    assert gate.match(10) is None


def test_boots_are_remembered_up_to_a_bound() -> None:
    gate = Gate()
    for number in range(1, BOOTS + 1):
        gate.status(number * 3_000, boots=number)
    assert gate.match(BOOTS * 3_000, boots=1) == "previous_boot"
    assert gate.match(BOOTS * 3_000, boots=BOOTS) is None


@pytest.mark.parametrize(
    "wrong",
    [
        {"age": 1.0},
        {"clock_error": -1.0},
        {"age": math.nan},
        {"steady": 0.0},
        {"longest_delay": 4.0},
        {"age": 0.0, "clock_error": 0.0},
        {"proof": "none"},
    ],
)
def test_limits_that_make_all_or_no_matches_fresh_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="is not"):
        Limits(**wrong)


@pytest.mark.parametrize("ahead", [4_000, -10_000, HOUR, -20 * 365 * 24 * HOUR])
def test_a_wrong_clock_opens_doors_if_the_device_says_how_wrong_it_is(ahead: int) -> None:
    gate = Gate(ahead=ahead)
    assert gate.match(0, 20, said=(ahead, 50)) is None
    assert gate.match(1_000, 3_900, said=(ahead, 50)) is None
    assert gate.match(2_000, 4_960, said=(ahead, 50)) == "unproven"
    assert gate.match(2_000, 7_100, said=(ahead, 50)) == "late"


def test_the_uncertainty_of_a_clock_counts_as_age() -> None:
    gate = Gate()
    assert gate.match(0, 20, said=(0, 2_980)) is None
    assert gate.match(1_000, 1_020, said=(0, 2_981)) == "unproven"


def test_half_of_what_a_device_says_of_its_clock_is_nothing() -> None:
    gate = Gate(ahead=4_000)
    assert gate.match(0, 20, said=(4_000, None)) == "unproven"
    assert gate.match(0, 20, said=(None, 20)) == "unproven"


def test_a_gate_may_require_a_round_trip() -> None:
    gate = Gate(Limits(proof="round_trip"))
    assert gate.match(0, 20) == "unproven"
    assert gate.match(0, 20, said=(0, 20)) is None


def test_a_clock_that_was_said_to_be_ahead_is_not_believed_without_a_round_trip() -> None:
    gate = Gate(ahead=4_000)
    assert gate.match(0, 6_000, said=(4_000, 20)) == "late"
    assert gate.match(1_000, 7_000) == "unproven"
    gate.match(8_000, 14_000, said=(1_000, 20))
    gate.ahead = 1_000
    assert gate.match(14_000, 14_020) is None


def test_a_platform_that_is_ahead_of_our_clock_proves_nothing_for_twenty_minutes() -> None:
    """It says that the device is slow, and then what is held back looks fresh."""
    gate = Gate()
    assert gate.match(0, 20, said=(-10_000, 20)) == "unproven"
    assert gate.match(1_000, 11_000, said=(-10_000, 20)) == "unproven"
    assert gate.match(1_190_000, said=(0, 20)) == "unproven"
    assert gate.match(1_210_000, said=(0, 20)) == "unproven"
    assert gate.match(2_411_000, said=(0, 20)) is None


@pytest.mark.parametrize("retained", [False, True])
def test_wills_and_retained_messages_show_a_clock_that_is_ahead(retained: bool) -> None:
    gate = Gate()
    gate.status(0)
    gate.ahead = 8_000
    gate.status(1_000, online=retained, retained=retained)
    assert gate.match(2_000, 9_000) == "unproven"
    other = Gate(ahead=8_000)
    assert other.match(0, retained=True, boots=1) == "retained"
    assert other.match(1_000, 9_000, boots=1) == "unproven"


@pytest.mark.parametrize("how", ["match", "status", "will", "retained"])
def test_messages_of_a_boot_show_its_clock_even_before_its_adoption(how: str) -> None:
    gate = Gate()
    gate.status(0, boots=1)
    gate.ahead = 6_000
    for sent in (30_000, 40_000):
        if how == "match":
            assert gate.match(sent, boots=2) == "previous_boot"
        else:
            gate.status(sent, boots=2, online=how != "will", retained=how == "retained")
    # The broker pauses at the moment of the adoption: eight seconds.
    assert gate.match(55_000, 63_000, boots=2) in {"late", "unproven"}


def test_contesting_boots_are_watched_up_to_a_bound() -> None:
    gate = Gate()
    gate.status(0, boots=1)
    gate.ahead = 6_000
    for number in range(2, CONTESTERS + 20):
        gate.status(30_000, boots=number)
    assert len(gate.freshness._devices["d"]._contesters) == CONTESTERS
    assert gate.match(55_000, 63_000, boots=CONTESTERS + 19) == "late"


class Pipe(RuleBasedStateMachine):
    """A device with any clock, a pipe that loses, repeats, reorders, delays, retains; a consumer.

    The model keeps the module's assumptions: a right clock is at most `clock_error` ahead; a delay
    is below `longest_delay`; under a wrong clock each period begins with a prompt status, and so
    does the time after the clock is set. All else is free.
    """

    limits = Limits(steady=20.0, longest_delay=1_200.0, proof="steady")

    def __init__(self) -> None:
        super().__init__()
        self.gate = Freshness(self.limits)
        self.now = 0
        self.ahead = 0
        self.boots = 1
        self.seq = 0
        #: (match, boot, when it was compared), any number of times to be delivered.
        self.wire: list[tuple[Match, int, int]] = []
        self.acted: set[int] = set()
        self.newest = 0
        self.prompt_at = 0

    @property
    def right(self) -> bool:
        return self.ahead <= self.limits.clock_error * 1000

    def keep_promise(self) -> None:
        """Under a wrong clock, some message is prompt now and then."""
        if not self.right or self.ahead < 0:
            self.hear(0)

    def hear(self, delay: int) -> None:
        status = Status(boot(self.boots), online=True, at=BOOTED + self.now - delay + self.ahead)
        self.gate.hear("d", status, retained=False, arrived=at(self.now))
        self.newest = self.boots

    @initialize(ahead=st.sampled_from([0, 0, 1_900, -2_000, -600_000, -HOUR, HOUR, 2_600, -(10**12), 10**12]))
    def begin(self, ahead: int) -> None:
        self.ahead = ahead
        self.keep_promise()

    @rule(held=st.sampled_from([0, 0, 5, 1_500, 4_900, 30_000]))
    def compare(self, held: int) -> None:
        """A comparison, published after it was held; the pipe has it."""
        self.seq += 1
        match = match_of(self.seq, BOOTED + self.now + self.ahead, held=held, boots=self.boots)
        self.wire.append((match, self.boots, self.now - held))

    @precondition(lambda self: self.wire)
    @rule(data=st.data(), retained=st.sampled_from([False] * 4 + [True]), waited=st.sampled_from([0, 0, 3, 6_000]))
    def deliver(self, data: st.DataObject, retained: bool, waited: int) -> None:
        match, boots, compared = data.draw(st.sampled_from(self.wire))
        arrived, self.now = self.now, self.now + waited
        verdict = self.gate.match("d", match, retained=retained, arrived=at(arrived), now=at(self.now))
        if verdict.reason is None:
            assert not retained
            assert boots >= self.newest
            self.newest = boots
            assert match.event.seq not in self.acted
            assert verdict.age is not None
            assert self.now - compared <= verdict.age * 1000 + 1 <= self.limits.age * 1000 + 1
            self.acted.add(match.event.seq)

    @rule(ms=st.sampled_from([1, 100, 1_000, 4_000, 7_000, 19_000]))
    def pass_time(self, ms: int) -> None:
        self.now += ms
        self.keep_promise()

    @rule(minutes=st.integers(1, 19))
    def pass_minutes(self, minutes: int) -> None:
        self.now += minutes * 60_000
        self.wire = [item for item in self.wire if self.now - item[2] < self.limits.longest_delay * 1000]
        self.keep_promise()

    @rule(times=st.integers(6, 12), delay=st.sampled_from([0, 300, 4_000, 60_000, 1_100_000]))
    def stream_statuses(self, times: int, delay: int) -> None:
        """Time in which many come, all as late."""
        for _ in range(times):
            self.now += 7_000
            self.hear(delay)
            self.keep_promise()

    @rule(jump=st.sampled_from([-HOUR, -30_000, -3_000, 3_000, 30_000, HOUR]), back=st.booleans())
    def set_clock(self, jump: int, back: bool) -> None:
        self.ahead = 0 if back else self.ahead + jump
        self.keep_promise()

    @rule(ahead=st.sampled_from([None, 0, -HOUR, HOUR]))
    def restart(self, ahead: int | None) -> None:
        self.boots += 1
        self.ahead = self.ahead if ahead is None else ahead
        self.keep_promise()

    @rule(online=st.booleans(), retained=st.booleans(), back=st.integers(0, 2))
    def repeat_status(self, online: bool, retained: bool, back: int) -> None:
        """A will, or an old status, live or retained."""
        status = Status(boot(max(1, self.boots - back)), online, BOOTED + self.now - HOUR // 10 + self.ahead)
        self.gate.hear("d", status, retained=retained, arrived=at(self.now))

    @invariant()
    def every_match_is_counted(self) -> None:
        assert self.gate.accepted == len(self.acted)

    def teardown(self) -> None:
        """A stream that is healthy again is yielded, whatever there was before."""
        if -1_200_000 <= self.ahead < -2_000:
            self.ahead = 0  # what nobody can tell from a delay
        self.boots += 1
        for _ in range(25):
            self.now += 7_000
            self.hear(20)
        self.seq += 1
        match = match_of(self.seq, BOOTED + self.now + self.ahead, boots=self.boots)
        self.now += 20
        assert self.gate.match("d", match, retained=False, arrived=at(self.now), now=at(self.now)).reason is None


TestPipe = Pipe.TestCase
TestPipe.settings = settings(max_examples=300, stateful_step_count=40)
