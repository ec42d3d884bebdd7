import asyncio

from facewire_web.turns import MAX_BEGUN_EACH, MAX_RUNNING, MAX_WAITING, MAX_WAITING_EACH, Turn, Turns


def ask(turns: Turns, client: str) -> Turn:
    turn = turns.ask(client)
    assert turn is not None
    return turn


def begun(*turns: Turn) -> list[bool]:
    return [turn.begun.is_set() for turn in turns]


def test_a_question_begins_at_once_while_there_is_room() -> None:
    turns = Turns()
    asked = [ask(turns, f"c{number}") for number in range(MAX_RUNNING + 1)]
    assert begun(*asked) == [True] * MAX_RUNNING + [False]
    turns.end(asked[0])
    assert begun(asked[-1]) == [True]


def test_one_client_does_not_keep_others_waiting() -> None:
    turns = Turns()
    flood = [ask(turns, "flood") for _ in range(MAX_BEGUN_EACH + MAX_WAITING_EACH)]
    assert turns.running == MAX_BEGUN_EACH
    assert turns.ask("flood") is None
    assert begun(ask(turns, "a"), ask(turns, "b")) == [True, True]
    third = ask(turns, "c")
    assert begun(third) == [False]
    turns.end(flood[0])  # the flood has an older question, and another one begun
    assert begun(third, flood[MAX_BEGUN_EACH]) == [True, False] or turns.running == MAX_RUNNING


def test_clients_take_turns() -> None:
    turns = Turns()
    running = [ask(turns, f"r{number}") for number in range(MAX_RUNNING)]
    waiting = [ask(turns, client) for client in ("a", "a", "a", "b", "c")]
    order = []
    while running:
        turns.end(running.pop(0))
        fresh = [turn for turn in waiting if turn.begun.is_set()]
        for turn in fresh:
            waiting.remove(turn)
            order.append(turn.client)
            running.append(turn)
    assert order == ["a", "b", "c", "a", "a"]


def test_a_client_that_takes_no_answer_gets_no_more_and_keeps_nobody_waiting() -> None:
    turns = Turns()
    untaken = [ask(turns, "slow") for _ in range(MAX_BEGUN_EACH)]
    for turn in untaken:
        turns.answer(turn)
        turns.answer(turn)
    assert turns.running == 0
    more = ask(turns, "slow")
    others = [ask(turns, f"c{number}") for number in range(MAX_RUNNING)]
    assert begun(more, *others) == [False, *[True] * MAX_RUNNING]
    turns.end(untaken[0])
    turns.end(others[0])
    assert begun(more) == [True]


def test_a_client_that_leaves_gives_its_place_back() -> None:
    turns = Turns()
    asked = [ask(turns, "a") for _ in range(MAX_BEGUN_EACH + MAX_WAITING_EACH)]
    for turn in reversed(asked):
        turns.end(turn)
    assert (turns.running, turns.waiting) == (0, 0)
    assert begun(*(ask(turns, "a") for _ in range(MAX_BEGUN_EACH))) == [True] * MAX_BEGUN_EACH


def test_all_that_wait_are_bounded() -> None:
    turns = Turns()
    asked = [turns.ask(f"c{number}") for number in range(MAX_RUNNING + MAX_WAITING + 5)]
    assert [turn is None for turn in asked] == [False] * (MAX_RUNNING + MAX_WAITING) + [True] * 5
    assert turns.refused == 5


def test_a_turn_can_be_awaited() -> None:
    async def wait() -> None:
        await ask(Turns(), "a").begun.wait()

    asyncio.run(wait())
