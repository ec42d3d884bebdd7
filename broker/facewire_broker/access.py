"""Who may do what: one table, from which our broker decides and the renderers write. Pure.

    role       publishes                          subscribes
    device     its own match, history, status     its own ack
    platform   every ack                          everything under {root}/v1
    consumer   nothing                            every match; every status, if granted
    operator   nothing                            everything, $SYS too

A subscription is granted only if its filter lies within an allowed one, so whatever it brings may be received.
"""

import enum
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from facewire_broker.routing import contains


class Role(enum.StrEnum):
    """What a credential is for."""

    DEVICE = "device"
    PLATFORM = "platform"
    CONSUMER = "consumer"
    OPERATOR = "operator"


@dataclass(frozen=True, slots=True)
class Rule:
    """What a role may do: topic filters, `{prefix}` the root and version, `{user}` the credential's name."""

    publish: tuple[str, ...] = ()
    subscribe: tuple[str, ...] = ()


TABLE: Final[dict[Role, Rule]] = {
    Role.DEVICE: Rule(
        publish=("{prefix}/{user}/match", "{prefix}/{user}/history", "{prefix}/{user}/status"),
        subscribe=("{prefix}/{user}/ack",),
    ),
    Role.PLATFORM: Rule(publish=("{prefix}/+/ack",), subscribe=("{prefix}/#",)),
    Role.CONSUMER: Rule(subscribe=("{prefix}/+/match",)),
    Role.OPERATOR: Rule(subscribe=("#", "$SYS/#")),
}

#: What a consumer may be granted besides.
STATUS: Final = "{prefix}/+/status"


@dataclass(frozen=True, slots=True)
class Rights:
    """What one credential may do."""

    publish: tuple[str, ...]
    subscribe: tuple[str, ...]

    def may_publish(self, topic: str) -> bool:
        """Whether it may publish to a topic: never to one that begins with `$`, as no pattern takes it in."""
        return _within(topic, self.publish)

    def may_subscribe(self, topic_filter: str) -> bool:
        """Whether all that a filter takes in may be received."""
        return _within(topic_filter, self.subscribe)


#: On loopback without credentials.
EVERYTHING: Final = Rights(publish=("#",), subscribe=("#", "$SYS/#"))


def rule_for(role: Role, *, status: bool = False) -> Rule:
    """The rule of a role, with what is granted besides."""
    rule = TABLE[role]
    return Rule(rule.publish, (*rule.subscribe, STATUS)) if status else rule


def rights_of(user: str, rule: Rule, prefix: str) -> Rights:
    """A rule made out to a user."""

    def fill(patterns: Iterable[str]) -> tuple[str, ...]:
        return tuple(pattern.format(prefix=prefix, user=user) for pattern in patterns)

    return Rights(fill(rule.publish), fill(rule.subscribe))


def _within(topic_filter: str, allowed: Iterable[str]) -> bool:
    return any(contains(outer, topic_filter) for outer in allowed)
