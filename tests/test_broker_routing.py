"""Filters and the index, against the definition of section 4.7 said as plainly as possible."""

import itertools

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from facewire_broker.access import TABLE, Role, rights_of, rule_for
from facewire_broker.publish import Message
from facewire_broker.routing import Index, RetainedMessages, contains, is_filter, split_share

LEVELS = ["a", "b", "", "$S"]
TOPICS = ["/".join(levels) for depth in (1, 2, 3) for levels in itertools.product(LEVELS, repeat=depth)]
#: Also a level of which no filter speaks, and deeper than any filter.
WITNESSES = ["/".join(levels) for depth in range(1, 6) for levels in itertools.product(["a", "b", "", "$S", "z"], repeat=depth)]
topics = st.sampled_from(TOPICS)
filters = st.lists(st.sampled_from([*LEVELS, "+", "#"]), min_size=1, max_size=4).map("/".join).filter(is_filter)


def takes_in(pattern: str, topic: str) -> bool:
    """Section 4.7, level by level, from the end of both."""
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
def test_a_filter_takes_in_what_the_specification_says(pattern: str, topic: str) -> None:
    assert contains(pattern, topic) == takes_in(pattern, topic)


@given(outer=filters, inner=filters)
@example("a/#", "a")
@example("#", "$S/a")
@example("+/#", "a")
def test_a_filter_lies_within_another_if_and_only_if_its_topics_do(outer: str, inner: str) -> None:
    within = all(takes_in(outer, topic) for topic in WITNESSES if takes_in(inner, topic))
    if contains(outer, inner):
        assert within
    elif within:
        # Refused though nothing else could come: `#` said in two ways, such as `+/#`.
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
def test_a_share_is_taken_apart(text: str, expected: tuple[str | None, str]) -> None:
    assert split_share(text) == expected


Step = tuple[str, int, str, str | None]
steps = st.lists(
    st.tuples(st.sampled_from(["subscribe", "unsubscribe"]), st.integers(0, 3), filters, st.sampled_from([None, "g", "h"])), max_size=30
)


@given(steps=steps, topic=topics)
def test_the_index_finds_who_a_plain_list_finds(steps: list[Step], topic: str) -> None:
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
    assert alone == sorted((who, qos) for (who, pattern, group), qos in plain.items() if group is None and takes_in(pattern, topic))
    shared = sorted((name, who) for entry in entries for name, group in entry.groups.items() for who in group.members)
    assert shared == sorted((group, who) for (who, pattern, group) in plain if group is not None and takes_in(pattern, topic))
    for who, pattern, group in plain:
        index.unsubscribe(who, pattern, group)
    # Nothing is left of filters that nobody has.
    assert not index._exact
    assert not index._tree.children


def test_a_message_costs_the_same_with_ten_and_with_ten_thousand_filters() -> None:
    index: Index[int] = Index()
    for n in range(10_000):
        index.subscribe(n, f"facewire/v1/d{n}/ack", 1)
    index.subscribe(-1, "facewire/v1/+/ack", 1)
    visited = [entry for n in range(100) for entry in index.match(f"facewire/v1/d{n}/ack")]
    assert len(visited) == 200


@given(published=st.lists(st.tuples(topics, st.binary(max_size=3)), max_size=30), pattern=filters)
def test_what_is_retained_is_the_last_of_each_topic(published: list[tuple[str, bytes]], pattern: str) -> None:
    store, plain = RetainedMessages(1000, 1000), dict[str, bytes]()
    for topic, payload in published:
        assert store.put(Message(topic, payload, 0))
        plain[topic] = payload
    kept = {topic: payload for topic, payload in plain.items() if payload}
    assert sorted(store.matching(pattern)) == sorted(topic for topic in kept if takes_in(pattern, topic))
    assert len(store) == len(kept)
    assert store._bytes == sum(map(len, kept.values()))


@pytest.mark.parametrize("role", Role)
@given(pattern=filters)
def test_whatever_a_granted_filter_brings_may_be_received(role: Role, pattern: str) -> None:
    rights = rights_of("a", rule_for(role), "b/$S")
    for text in (pattern, f"b/$S/{pattern}"):
        if is_filter(text) and rights.may_subscribe(text):
            for topic in [*TOPICS, *(f"b/$S/{topic}" for topic in TOPICS)]:
                if takes_in(text, topic):
                    assert rights.may_subscribe(topic)


def test_the_table_is_the_contracts() -> None:
    assert {role: (rule.publish, rule.subscribe) for role, rule in TABLE.items()} == {
        Role.DEVICE: (("{prefix}/{user}/match", "{prefix}/{user}/history", "{prefix}/{user}/status"), ("{prefix}/{user}/ack",)),
        Role.PLATFORM: (("{prefix}/+/ack",), ("{prefix}/#",)),
        Role.CONSUMER: ((), ("{prefix}/+/match",)),
        Role.OPERATOR: ((), ("#", "$SYS/#")),
    }
