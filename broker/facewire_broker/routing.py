"""Who gets a message: topic filters, subscriptions, retained messages (section 4.7). Pure.

Every device has one exact filter; these are in a dict. The few filters with wildcards are in a tree
of levels. So a message costs the same with ten devices and with ten thousand.

    a/b/c   ─▶  dict["a/b/c"]       tree:  a ─▶ + ─▶ c
                                             └▶ #
"""

import bisect
from collections.abc import Hashable, Iterable
from dataclasses import dataclass, field
from typing import Final, Generic, TypeVar

from facewire_broker.publish import Message

#: `$share/{group}/{filter}`: each message goes to one member of the group. MQTT 5 has it (section
#: 4.8.2); we serve it to 3.1.1 clients.
SHARE: Final = "$share/"

S = TypeVar("S", bound=Hashable)


def is_filter(text: str) -> bool:
    """Whether a SUBSCRIBE can have it: `#` last and alone in its level, `+` alone, no U+0000."""
    if not text or "\0" in text:
        return False
    *levels, last = text.split("/")
    return not any("#" in level or ("+" in level and level != "+") for level in levels) and (
        last in {"#", "+"} or not ("#" in last or "+" in last)
    )


def split_share(text: str) -> tuple[str | None, str]:
    """Split a filter into its group, if any, and the rest; empty if the share is ill-formed."""
    if not text.startswith(SHARE):
        return None, text
    group, _, rest = text[len(SHARE) :].partition("/")
    return (group, rest) if group and not {"+", "#"} & set(group) else (group, "")


def contains(outer: str, inner: str) -> bool:
    """Whether `outer` matches every topic that `inner` matches. A topic is a filter too."""
    if inner.startswith("$") != outer.startswith("$"):
        # A leading wildcard matches no `$` topics (MQTT-4.7.2-1).
        return False
    wide, narrow = outer.split("/"), inner.split("/")
    for at, level in enumerate(wide):
        if level == "#":
            return True
        if at == len(narrow) or narrow[at] == "#" or level not in {"+", narrow[at]}:
            # (`a/#` matches `a` as well, section 4.7.1.2.)
            return False
    return len(wide) == len(narrow)


@dataclass(slots=True)
class Group(Generic[S]):
    """The members of a shared subscription; they take turns."""

    members: dict[S, int] = field(default_factory=dict)
    _turn: int = 0

    def pick(self, usable: Iterable[S]) -> S | None:
        """The next of the usable members; None if there is none."""
        able = list(usable)
        if not able:
            return None
        self._turn += 1
        return able[self._turn % len(able)]


@dataclass(slots=True)
class Entry(Generic[S]):
    """The subscribers of one filter, with the QoS granted, and the groups that share it."""

    members: dict[S, int] = field(default_factory=dict)
    groups: dict[str, Group[S]] = field(default_factory=dict)


@dataclass(slots=True)
class _Node(Generic[S]):
    children: "dict[str, _Node[S]]" = field(default_factory=dict)
    entry: Entry[S] | None = None


@dataclass(slots=True)
class Index(Generic[S]):
    """Subscriptions, found by topic."""

    _exact: dict[str, Entry[S]] = field(default_factory=dict)
    _tree: _Node[S] = field(default_factory=_Node)

    def subscribe(self, who: S, topic_filter: str, qos: int, group: str | None = None) -> None:
        """Add a subscription, or change its QoS."""
        entry = self._entry(topic_filter)
        members = entry.members if group is None else entry.groups.setdefault(group, Group()).members
        members[who] = qos

    def unsubscribe(self, who: S, topic_filter: str, group: str | None = None) -> None:
        """Remove a subscription, if there is one, and the filter with its last subscription."""
        entry = self._find(topic_filter)
        if entry is None:
            return
        if group is None:
            entry.members.pop(who, None)
        elif group in entry.groups:
            entry.groups[group].members.pop(who, None)
            if not entry.groups[group].members:
                del entry.groups[group]
        if not entry.members and not entry.groups:
            self._remove(topic_filter)

    def match(self, topic: str) -> list[Entry[S]]:
        """The entries whose filters match a topic."""
        matches = [entry] if (entry := self._exact.get(topic)) else []
        if self._tree.children:
            self._walk(self._tree, topic.split("/"), 0, matches)
        return matches

    def _walk(self, node: _Node[S], levels: list[str], at: int, matches: list[Entry[S]]) -> None:
        children = node.children
        wild = at > 0 or not levels[0].startswith("$")
        if wild and (rest := children.get("#")) and rest.entry:
            matches.append(rest.entry)
        if at == len(levels):
            if node.entry:
                matches.append(node.entry)
            return
        if child := children.get(levels[at]):
            self._walk(child, levels, at + 1, matches)
        if wild and (child := children.get("+")):
            self._walk(child, levels, at + 1, matches)

    def _entry(self, topic_filter: str) -> Entry[S]:
        if not is_wild(topic_filter):
            return self._exact.setdefault(topic_filter, Entry())
        node = self._tree
        for level in topic_filter.split("/"):
            node = node.children.setdefault(level, _Node())
        node.entry = node.entry or Entry()
        return node.entry

    def _find(self, topic_filter: str) -> Entry[S] | None:
        if not is_wild(topic_filter):
            return self._exact.get(topic_filter)
        node: _Node[S] | None = self._tree
        for level in topic_filter.split("/"):
            node = node.children.get(level) if node else None
        return node.entry if node else None

    def _remove(self, topic_filter: str) -> None:
        if not is_wild(topic_filter):
            del self._exact[topic_filter]
            return
        path, node = [], self._tree
        for level in topic_filter.split("/"):
            path.append((node, level))
            node = node.children[level]
        node.entry = None
        for parent, level in reversed(path):
            child = parent.children[level]
            if child.children or child.entry:
                break
            del parent.children[level]


class RetainedMessages:
    """The retained messages, one for each topic.

    Attributes:
        size_bytes: of all payloads.
    """

    def __init__(self, limit: int, limit_bytes: int) -> None:
        self._limit, self._limit_bytes = limit, limit_bytes
        self._messages: dict[str, Message] = {}
        #: Sorted, so that a session can go through them in steps, and forget only where it was.
        self._topics: list[str] = []
        self.size_bytes = 0

    def __len__(self) -> int:
        return len(self._messages)

    def get(self, topic: str) -> Message | None:
        """The retained message of a topic, if there is one."""
        return self._messages.get(topic)

    def put(self, message: Message) -> bool:
        """Retain a message; an empty payload removes the topic's (MQTT-3.3.1-10).

        Returns:
            False if the message would exceed a limit. The topic then retains nothing.
        """
        topic, old = message.topic, self._messages.get(message.topic)
        size = self.size_bytes - (len(old.payload) if old else 0) + len(message.payload)
        fits = size <= self._limit_bytes and (old is not None or len(self._messages) < self._limit)
        if message.payload and fits:
            if old is None:
                bisect.insort(self._topics, topic)
            self._messages[topic], self.size_bytes = message, size
        elif old is not None:
            del self._topics[bisect.bisect_left(self._topics, topic)], self._messages[topic]
            self.size_bytes -= len(old.payload)
        return fits or not message.payload

    def after(self, topic: str) -> Message | None:
        """The retained message of the next topic in alphabetical order."""
        at = bisect.bisect_right(self._topics, topic)
        return self._messages[self._topics[at]] if at < len(self._topics) else None


def is_wild(topic_filter: str) -> bool:
    """Whether a filter has wildcards."""
    return "+" in topic_filter or "#" in topic_filter
