import pytest
from hypothesis import given
from hypothesis import strategies as st

from facewire.errors import ProtocolError
from facewire.topics import KINDS, QOS, Kind, Topics, check_device

DEVICES = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", fullmatch=True)
ROOTS = st.from_regex(r"[a-z0-9 .-]{1,20}(/[a-z0-9 .-]{1,20}){0,3}", fullmatch=True)


@pytest.mark.parametrize(
    ("kind", "topic", "qos"),
    [
        ("match", "facewire/v1/box-1/match", 0),
        ("history", "facewire/v1/box-1/history", 1),
        ("ack", "facewire/v1/box-1/ack", 1),
        ("status", "facewire/v1/box-1/status", 1),
    ],
)
def test_topics_and_their_qos_are_those_of_the_contract(kind: Kind, topic: str, qos: int) -> None:
    assert Topics().of("box-1", kind) == topic
    assert QOS[kind] == qos


def test_there_are_four_kinds() -> None:
    assert KINDS == ("match", "history", "ack", "status")
    assert set(QOS) == set(KINDS)


def test_a_filter_has_one_wildcard_for_the_device() -> None:
    assert Topics("a/b").all("match") == "a/b/v1/+/match"


@given(ROOTS, DEVICES, st.sampled_from(KINDS))
def test_parsing_a_topic_gives_back_device_and_kind(root: str, device: str, kind: Kind) -> None:
    topics = Topics(root)
    assert topics.parse(topics.of(device, kind)) == (device, kind)


@pytest.mark.parametrize("device", ["a", "0", "A.b_c-d", "x" * 64, "0xe0a509261422"])
def test_a_valid_device_name_is_accepted(device: str) -> None:
    assert check_device(device) == device


@pytest.mark.parametrize("device", ["", "-a", ".a", "_a", "x" * 65, "a/b", "a+", "#", "+", "a b", "a\n", "\na", "ä", "a\x00", "٣"])
def test_an_invalid_device_name_is_refused_everywhere(device: str) -> None:
    with pytest.raises(ValueError, match="1 to 64"):
        check_device(device)
    with pytest.raises(ValueError, match="1 to 64"):
        Topics().of(device, "match")
    with pytest.raises(ProtocolError, match="is not facewire/v1/DEVICE"):
        Topics().parse(f"facewire/v1/{device}/match")


@pytest.mark.parametrize("root", ["facewire", "a/b/c", "x" * 128, "a$", "大门"])
def test_a_root_may_be_one_or_more_levels(root: str) -> None:
    assert Topics(root).prefix == f"{root}/v1"


@pytest.mark.parametrize(
    "root", ["", "/", "/a", "a/", "a//b", "a/+", "#", "$SYS", "$share/g/a", "a\x00", "a\n", "a\x7f", "x" * 129, "a\ud800"]
)
def test_a_root_that_cannot_head_a_topic_is_refused(root: str) -> None:
    with pytest.raises(ValueError, match=r"root .* is not"):
        Topics(root)


@pytest.mark.parametrize(
    "topic",
    [
        "",
        "/",
        "facewire",
        "facewire/v1",
        "facewire/v1/box-1",
        "facewire/v1/box-1/",
        "facewire/v1//match",
        "facewire/v1/box-1/Match",
        "facewire/v1/box-1/match/",
        "facewire/v1/box-1/match/x",
        "facewire/v1/box-1/x/match",
        "facewire/v1/box-1/other",
        "facewire/v2/box-1/match",
        "facewire/v11box-1/match",
        "facewire/v1xbox-1/match",
        "Facewire/v1/box-1/match",
        "/facewire/v1/box-1/match",
        "other/v1/box-1/match",
        "box-1/match",
        "facewire/v1/+/match",
        "facewire/v1/box-1/match\n",
    ],
)
def test_a_topic_that_is_almost_ours_is_refused(topic: str) -> None:
    with pytest.raises(ProtocolError, match="is not facewire/v1/DEVICE"):
        Topics().parse(topic)


@given(st.text(max_size=40))
def test_any_topic_is_either_parsed_or_refused(topic: str) -> None:
    try:
        device, kind = Topics().parse(topic)
    except ProtocolError:
        return
    assert Topics().of(device, kind) == topic
