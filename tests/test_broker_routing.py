"""Filters and the index, against a plain reading of section 4.7."""

import itertools

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from facewire.roles import Role
from facewire_broker.access import TABLE, rights_of, rule_for
from facewire_broker.publish import Message
from facewire_broker.routing import Index, RetainedMessages, contains, is_filter, split_share

LEVELS = ["a", "b", "", "$S"]
TOPICS = ["/".join(levels) for depth in (1, 2, 3) for levels in itertools.product(LEVELS, repeat=depth)]
#: Also with a level that no filter names, and deeper than any filter.
WITNESSES = ["/".join(levels) for depth in range(1, 6) for levels in itertools.product(["a", "b", "", "$S", "z"], repeat=depth)]
topics = st.sampled_from(TOPICS)
filters = st.lists(st.sampled_from([*LEVELS, "+", "#"]), min_size=1, max_size=4).map("/".join).filter(is_filter)


def matches(pattern: str, topic: str) -> bool:
    """Section 4.7, level by level."""
    if topic.startswith("$") and pattern[0] in "+#":
        return False

    def rest(wide: list[str], narrow: list[str]) -> bool:
        match wide, narrow:
            case ["#"], _:
                return True
            case [], []:
                return True
            case [level, *more], [own, *others] if level in {"+", own}:
                return rest(more, others)
        return False

    return rest(pattern.split("/"), topic.split("/"))


@given(pattern=filters, topic=topics)
def test_a_filter_matches_as_the_specification_says(pattern: str, topic: str) -> None:
    assert contains(pattern, topic) == matches(pattern, topic)


@given(outer=filters, inner=filters)
@example("a/#", "a")
@example("#", "$S/a")
@example("+/#", "a")
def test_a_filter_lies_within_another_if_and_only_if_its_topics_do(outer: str, inner: str) -> None:
    within = all(matches(outer, topic) for topic in WITNESSES if matches(inner, topic))
    if contains(outer, inner):
        assert within
    elif within:
        # `contains` may refuse two ways to write `#`, such as `+/#`, though both match the same.
        assert "#" in outer
        assert "#" in inner


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a", (None, "a")),
        ("$share/g/a/#", ("g", "a/#")),
        ("$share/g/", ("g", "")),
        ("$share/g", ("g", "")),
        ("$share//a", ("", "")),
        ("$share/+/a", ("+", "")),
        ("$share/g//a", ("g", "/a")),
    ],
)
def test_a_shared_filter_is_split(text: str, expected: tuple[str | None, str]) -> None:
    assert split_share(text) == expected


Step = tuple[str, int, str, str | None]
steps = st.lists(
    st.tuples(st.sampled_from(["subscribe", "unsubscribe"]), st.integers(0, 3), filters, st.sampled_from([None, "g", "h"])), max_size=30
)


@given(steps=steps, topic=topics)
def test_the_index_finds_the_same_subscribers_as_a_plain_list(steps: list[Step], topic: str) -> None:
    index: Index[int] = Index()
    plain: dict[tuple[int, str, str | None], int] = {}
    for n, (what, who, pattern, group) in enumerate(steps):
        if what == "subscribe":
            index.subscribe(who, pattern, n, group)
            plain[who, pattern, group] = n
        else:
            index.unsubscribe(who, pattern, group)
            plain.pop((who, pattern, group), None)
    entries = index.match(topic)
    alone = sorted((who, qos) for entry in entries for who, qos in entry.members.items())
    assert alone == sorted((who, qos) for (who, pattern, group), qos in plain.items() if group is None and matches(pattern, topic))
    shared = sorted((name, who) for entry in entries for name, group in entry.groups.items() for who in group.members)
    assert shared == sorted((group, who) for (who, pattern, group) in plain if group is not None and matches(pattern, topic))
    for who, pattern, group in plain:
        index.unsubscribe(who, pattern, group)
    assert index == Index(), "nothing is left of a filter without subscribers"


def test_a_message_costs_the_same_with_ten_and_with_ten_thousand_filters() -> None:
    index: Index[int] = Index()
    for n in range(10_000):
        index.subscribe(n, f"facewire/v1/d{n}/ack", 1)
    index.subscribe(-1, "facewire/v1/+/ack", 1)
    visited = [entry for n in range(100) for entry in index.match(f"facewire/v1/d{n}/ack")]
    assert len(visited) == 200


@given(published=st.lists(st.tuples(topics.filter(bool), st.binary(max_size=3)), max_size=30))
def test_the_last_message_of_each_topic_is_retained(published: list[tuple[str, bytes]]) -> None:
    store, plain = RetainedMessages(1000, 1000), dict[str, bytes]()
    for topic, payload in published:
        assert store.put(Message(topic, payload, 0))
        plain[topic] = payload
    expected = {topic: payload for topic, payload in plain.items() if payload}
    walked, after = [], ""
    while (message := store.after(after)) is not None:
        after = message.topic
        walked.append((after, message.payload))
    assert walked == sorted(expected.items())
    assert len(store) == len(expected)
    assert store.size_bytes == sum(map(len, expected.values()))


@pytest.mark.parametrize("role", Role)
@given(pattern=filters)
def test_a_granted_filter_matches_only_topics_that_the_role_may_receive(role: Role, pattern: str) -> None:
    rights = rights_of("a", rule_for(role), "b/$S")
    for text in (pattern, f"b/$S/{pattern}"):
        if is_filter(text) and rights.may_subscribe(text):
            for topic in [*TOPICS, *(f"b/$S/{topic}" for topic in TOPICS)]:
                if matches(text, topic):
                    assert rights.may_subscribe(topic)


def test_the_table_is_the_one_of_the_contract() -> None:
    assert {role: (rule.publish, rule.subscribe) for role, rule in TABLE.items()} == {
        Role.DEVICE: (("{prefix}/{user}/match", "{prefix}/{user}/history", "{prefix}/{user}/status"), ("{prefix}/{user}/ack",)),
        Role.BRIDGE: (("{prefix}/+/match", "{prefix}/+/history", "{prefix}/+/status"), ("{prefix}/+/ack",)),
        Role.TERMINAL: ((), ()),
        Role.PLATFORM: (("{prefix}/+/ack",), ("{prefix}/#",)),
        Role.CONSUMER: ((), ("{prefix}/+/match",)),
        Role.OPERATOR: ((), ("#", "$SYS/#")),
    }
