"""Every interleaving of a numbered source, a bridge and their messages, up to a bound.

From each state every action is tried:

    record (its push may be lost)    push again what is not acked    pull: all of a hole, late
    deliver a push, which stays      deliver an ack, or lose it      the bridge does the next step
    kill the bridge                  reset the source                name what no pull found as lost

The bridge records one push at a time, in the steps of its program; a kill leaves only the durable
part. In every state: no record is recorded twice, and each that its source was acked for is
recorded or named. From every state: once faults stop, all that the source holds is recorded, and as
many seqs are skipped as records were lost in it, no more.

`numbering` is the real one. The steps are those of `Ledger.record` and `Placing.record`; that the
code has them in this order is shown below on SQLite, with a death at each statement.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeAlias

import pytest
from device_events import event

from facewire.errors import StoreError
from facewire_bridge.numbering import Hole, Numbers
from facewire_device import ledger as real_ledger
from facewire_device.ledger import Entry, Ledger
from facewire_device.store import Store, open_store


class Made(NamedTuple):
    """A record in the source's memory."""

    number: int
    tag: int
    acked: bool = False


class Push(NamedTuple):
    number: int
    tag: int
    late: bool


class Box(NamedTuple):
    memory: tuple[Made, ...] = ()
    counter: int = 0
    made: int = 0
    #: Records that a reset destroyed.
    gone: frozenset[int] = frozenset()


class Durable(NamedTuple):
    """The state that survives a kill of the bridge."""

    numbers: Numbers = Numbers()
    marks: frozenset[tuple[int, int, str]] = frozenset()
    recorded: tuple[int, ...] = ()
    skipped: int = 0


class Job(NamedTuple):
    """A push that is being recorded, and the steps still to do."""

    push: Push
    generation: int
    repeated: bool
    numbers: Numbers
    steps: tuple[str, ...]
    #: Holes that a reset closes.
    missing: int


class Faults(NamedTuple):
    records: int
    kills: int
    resets: int
    losses: int
    pulls: int = 1


class State(NamedTuple):
    box: Box
    pushes: frozenset[Push]
    acks: frozenset[int]
    durable: Durable
    job: Job | None
    faults: Faults


Program: TypeAlias = tuple[str, ...]

#: One commit, then the ack.
REAL: Final[Program] = ("event+ledger", "ack")
PIPE: Final = 2


def successors(s: State, program: Program) -> Iterator[State]:
    yield from source_acts(s)
    for push in s.pushes:
        yield s._replace(pushes=s.pushes - {push})
        if s.job is None:
            yield s._replace(job=begin(s.durable, push, program))
    for number in s.acks:
        yield acked(s._replace(acks=s.acks - {number}), number)
        yield s._replace(acks=s.acks - {number})
    if s.job is not None:
        yield step(s, s.job)
        if s.faults.kills:
            yield s._replace(job=None, faults=s.faults._replace(kills=s.faults.kills - 1))
    elif s.durable.numbers.holes and not _held(s):
        yield s._replace(durable=name_lost(s.durable))


def source_acts(s: State) -> Iterator[State]:
    box, f = s.box, s.faults
    if f.records:
        made = Made(box.counter + 1, box.made + 1)
        recorded = s._replace(
            box=box._replace(memory=(*box.memory, made), counter=made.number, made=made.tag), faults=f._replace(records=f.records - 1)
        )
        yield from put(recorded, Push(made.number, made.tag, False))
        if f.losses:
            yield recorded._replace(faults=recorded.faults._replace(losses=f.losses - 1))
    for made in box.memory:
        if not made.acked:
            yield from put(s, Push(made.number, made.tag, False))
    if f.pulls and s.durable.numbers.holes:
        pulled = s._replace(faults=f._replace(pulls=f.pulls - 1))
        holes = s.durable.numbers.holes
        late = [Push(m.number, m.tag, True) for m in box.memory if any(hole.first <= m.number <= hole.last for hole in holes)]
        yield pulled._replace(pushes=pulled.pushes | frozenset(late))
    if f.resets and box.memory:
        gone = box.gone | {made.tag for made in box.memory}
        # Its session ends with it, and with that the messages under way.
        reset = Box((), 0, box.made, gone)
        yield s._replace(box=reset, pushes=frozenset(), acks=frozenset(), job=None, faults=f._replace(resets=f.resets - 1))


def put(s: State, push: Push) -> Iterator[State]:
    if push in s.pushes or len(s.pushes) < PIPE:
        yield s._replace(pushes=s.pushes | {push})


def begin(durable: Durable, push: Push, program: Program) -> Job:
    marks = {(generation, number): mark for generation, number, mark in durable.marks}
    # A later record has a later time.
    seen, numbers = durable.numbers.see(
        push.number, push.tag, str(push.tag), str(push.tag), late=push.late, mark_of=lambda *key: marks.get(key)
    )
    missing = durable.numbers.missing if seen.reset else 0
    return Job(push, seen.generation, seen.repeated, numbers, program, missing)


def step(s: State, job: Job) -> State:
    first, *rest = job.steps
    durable = s.durable
    if "event" in first and not job.repeated:
        durable = durable._replace(recorded=(*durable.recorded, job.push.tag), skipped=durable.skipped + job.missing)
    if "ledger" in first:
        marks = durable.marks if job.repeated else durable.marks | {(job.generation, job.push.number, str(job.push.tag))}
        durable = durable._replace(marks=marks, numbers=job.numbers)
    acks = s.acks | {job.push.number} if first == "ack" else s.acks
    return s._replace(durable=durable, acks=acks, job=job._replace(steps=tuple(rest)) if rest else None)


def _held(s: State) -> bool:
    """Whether the source counts something in the first hole: then a pull did not bring all."""
    hole = s.durable.numbers.holes[0]
    return any(hole.first <= made.number <= hole.last for made in s.box.memory)


def name_lost(durable: Durable) -> Durable:
    hole: Hole = durable.numbers.holes[0]
    return durable._replace(numbers=durable.numbers.without(hole), skipped=durable.skipped + hole.count)


def acked(s: State, number: int) -> State:
    memory = tuple(made._replace(acked=True) if made.number == number else made for made in s.box.memory)
    return s._replace(box=s.box._replace(memory=memory))


def check(s: State) -> None:
    recorded = s.durable.recorded
    assert len(set(recorded)) == len(recorded), f"recorded twice: {recorded}"
    lost = {made.tag for made in s.box.memory if made.acked} - set(recorded)
    assert not lost, f"acked and not recorded: {lost}"


def check_settles(s: State, program: Program) -> None:
    """Without faults: it pushes each record until the ack, and the bridge names those it lost."""
    for made in s.box.memory:
        if not made.acked:
            s = s._replace(job=begin(s.durable, Push(made.number, made.tag, False), program))
            while s.job is not None:
                s = step(s, s.job)
            s = acked(s, made.number)
    for made in s.box.memory:
        s = s._replace(job=begin(s.durable, Push(made.number, made.tag, True), program))
        while s.job is not None:
            s = step(s, s.job)
    while s.durable.numbers.holes:
        s = s._replace(durable=name_lost(s.durable))
    check(s)
    missing = {made.tag for made in s.box.memory} - set(s.durable.recorded)
    assert not missing, f"held and never recorded: {missing}"
    lost = len(s.box.gone - set(s.durable.recorded))
    assert s.durable.skipped <= lost, f"named {s.durable.skipped} as lost, but {lost} were"


def explore(program: Program, faults: Faults) -> int:
    first = State(Box(), frozenset(), frozenset(), Durable(), None, faults)
    seen, layer = {first}, [first]
    while layer:
        following = []
        for state in layer:
            check(state)
            if state.job is None and not state.pushes and not state.acks:
                check_settles(state, program)
            for after in successors(state, program):
                if after not in seen:
                    seen.add(after)
                    following.append(after)
        layer = following
    return len(seen)


BOUNDS: Final = {
    "three records, a kill": Faults(records=3, kills=1, resets=0, losses=1),
    "two records, two kills": Faults(records=2, kills=2, resets=0, losses=2),
    "a reset": Faults(records=3, kills=1, resets=1, losses=1),
}


@pytest.mark.parametrize("faults", BOUNDS.values(), ids=BOUNDS)
def test_every_interleaving_records_once_and_names_what_is_lost(faults: Faults, capsys: pytest.CaptureFixture[str]) -> None:
    states = explore(REAL, faults)
    with capsys.disabled():
        print(f" [{states:,} states]", end="")


@pytest.mark.parametrize(
    ("program", "reason"),
    [
        (("event", "ledger", "ack"), "recorded twice"),
        (("ledger", "event", "ack"), "acked and not recorded|never recorded"),
        (("ack", "event+ledger"), "acked and not recorded"),
    ],
    ids=["the event before its ledger row", "the ledger row before its event", "the ack before the commit"],
)
def test_another_order_breaks_the_promise(program: Program, reason: str) -> None:
    with pytest.raises(AssertionError, match=reason):
        explore(program, Faults(records=2, kills=1, resets=0, losses=0))


class DeathError(Exception):
    """The process dies here."""


class Mortal:
    """A store whose process dies before its n-th write."""

    def __init__(self, store: Store, dies_at: int) -> None:
        self.left = dies_at
        execute, insert = store.execute, store._insert

        def dying(write: Any) -> Any:
            def wrapped(*args: Any) -> Any:
                self.left -= 1
                if not self.left:
                    raise DeathError
                return write(*args)

            return wrapped

        store.execute = dying(execute)  # type: ignore[method-assign]  # dies at a moment that only it knows
        store._insert = dying(insert)  # type: ignore[method-assign]


def deaths(path: Path, ledger: type[Ledger]) -> Iterator[tuple[int, list[int], list[int]]]:
    """For a death at each write: the records in the store before they came again, and after."""
    entries = [Entry("rec", "1/1", event(1), mark="a", shared=("s",)), Entry("rec", "1/2", event(2), mark="b")]
    for dies_at in range(1, 50):
        file = path / f"{dies_at}.db"
        with open_store(file) as store:
            ledger(store)
            mortal = Mortal(store, dies_at)
            with contextlib.suppress(DeathError, StoreError):
                ledger(store).record(entries, now_ms=9, notes={"numbers": "x"})
            if mortal.left > 0:
                return
        with open_store(file) as store:
            before = _recorded(store)
            ledger(store).record(entries, now_ms=9, notes={"numbers": "x"})
            yield dies_at, before, _recorded(store)


def _recorded(store: Store) -> list[int]:
    return [seq for (seq,) in store.query("SELECT seq FROM event ORDER BY seq")]


def test_a_death_at_any_write_of_the_ledger_leaves_all_or_nothing(tmp_path: Path) -> None:
    found = list(deaths(tmp_path, Ledger))
    assert len(found) > 8
    for dies_at, before, after in found:
        assert before == [], f"at write {dies_at}"
        assert after == [1, 2], f"at write {dies_at}"


def test_without_the_ledgers_transaction_a_death_is_noticed(tmp_path: Path) -> None:
    source = Path(real_ledger.__file__).read_text()
    rule = "        with self.store.transaction():\n            outcomes = "
    assert source.count(rule) == 1, "ledger.py no longer records entries in one transaction"
    mutant: dict[str, Any] = {"__name__": real_ledger.__name__}
    exec(source.replace(rule, "        with __import__('contextlib').nullcontext():\n            outcomes = "), mutant)  # noqa: S102  # our own source
    found = list(deaths(tmp_path, mutant["Ledger"]))
    assert any(before or after != [1, 2] for _, before, after in found)
