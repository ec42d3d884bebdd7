"""The rights of a credential, as topic filters: what our broker decides by and the renderers write. Pure.

A subscription is granted only if its filter lies within an allowed one, so the client may receive
every message that it brings.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from facewire.roles import PERMISSIONS, Permission, Role
from facewire.topics import KINDS, Kind
from facewire_broker.routing import contains


@dataclass(frozen=True, slots=True)
class Rule:
    """Topic filters of a role; `{prefix}` stands for root and version, `{user}` for the credential's name."""

    publish: tuple[str, ...] = ()
    subscribe: tuple[str, ...] = ()


def _rule(permission: Permission) -> Rule:
    def patterns(kinds: tuple[Kind, ...]) -> tuple[str, ...]:
        if kinds == KINDS:
            return ("{prefix}/#",)
        return tuple(f"{{prefix}}/{'{user}' if permission.own else '+'}/{kind}" for kind in kinds)

    subscribe = ("#", "$SYS/#") if permission.outside else patterns(permission.subscribe)
    return Rule(patterns(permission.publish), subscribe)


TABLE: Final[dict[Role, Rule]] = {role: _rule(permission) for role, permission in PERMISSIONS.items()}

#: A consumer may be granted this besides.
STATUS: Final = "{prefix}/+/status"


@dataclass(frozen=True, slots=True)
class Rights:
    """The topic filters of one credential."""

    publish: tuple[str, ...]
    subscribe: tuple[str, ...]

    def may_publish(self, topic: str) -> bool:
        """Whether it may publish to a topic. Never if the topic begins with `$`: no filter matches it."""
        return _within(topic, self.publish)

    def may_subscribe(self, topic_filter: str) -> bool:
        """Whether it may receive every message that a filter matches."""
        return _within(topic_filter, self.subscribe)


#: The rights of every client on a loopback listener without users.
EVERYTHING: Final = Rights(publish=("#",), subscribe=("#", "$SYS/#"))


def rule_for(role: Role, *, status: bool = False) -> Rule:
    """The rule of a role, and statuses if they are granted."""
    rule = TABLE[role]
    return Rule(rule.publish, (*rule.subscribe, STATUS)) if status else rule


def rights_of(user: str, rule: Rule, prefix: str) -> Rights:
    """A rule, filled in for one user."""

    def fill(patterns: Iterable[str]) -> tuple[str, ...]:
        return tuple(pattern.format(prefix=prefix, user=user) for pattern in patterns)

    return Rights(fill(rule.publish), fill(rule.subscribe))


def _within(topic_filter: str, allowed: Iterable[str]) -> bool:
    return any(contains(outer, topic_filter) for outer in allowed)
