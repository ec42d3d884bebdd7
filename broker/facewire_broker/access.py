"""A credential's rights as topic filters: our broker decides by them, renderers write them. Pure.

A subscription is granted only if its filter lies within an allowed one, so the client may receive
every message that it brings.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

from facewire.roles import PERMISSIONS, Permission, Role
from facewire.topics import KINDS, Kind
from facewire_broker.routing import contains, is_wild


@dataclass(frozen=True, slots=True)
class Rule:
    """A role's topic filters; `{prefix}` is root and version, `{user}` the credential's name."""

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
    #: Those without wildcards: a gate of 2,000 devices has 4,000, each of which it subscribes.
    _exact: frozenset[str] = field(init=False, repr=False, compare=False)
    _wild: tuple[str, ...] = field(init=False, repr=False, compare=False)
    #: The devices that it may publish as; 0 if a wildcard makes them any number.
    devices: int = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_exact", frozenset(name for name in self.subscribe if not is_wild(name)))
        object.__setattr__(self, "_wild", tuple(name for name in self.subscribe if is_wild(name)))
        anybody = any(map(is_wild, self.publish))
        object.__setattr__(self, "devices", 0 if anybody else len({name.rpartition("/")[0] for name in self.publish}))

    def may_publish(self, topic: str) -> bool:
        """Whether it may publish to a topic. Never if it begins with `$`: no filter matches it."""
        return _within(topic, self.publish)

    def may_subscribe(self, topic_filter: str) -> bool:
        """Whether it may receive every message that a filter matches."""
        return topic_filter in self._exact or _within(topic_filter, self._wild)


#: The rights of every client on a loopback listener without users.
EVERYTHING: Final = Rights(publish=("#",), subscribe=("#", "$SYS/#"))


def rule_for(role: Role, *, status: bool = False, devices: Sequence[str] = ()) -> Rule:
    """The rule of a role, with statuses if they are granted, for all devices or only for some."""
    rule, permission = TABLE[role], PERMISSIONS[role]
    if permission.named and not devices:
        return Rule()

    def narrowed(patterns: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(pattern.replace("/+/", f"/{device}/") for device in devices for pattern in patterns) if devices else patterns

    return Rule(
        (*narrowed(rule.publish), *permission.foreign_publish),
        (*narrowed((*rule.subscribe, STATUS) if status else rule.subscribe), *permission.foreign_subscribe),
    )


def rights_of(user: str, rule: Rule, prefix: str) -> Rights:
    """A rule, filled in for one user."""

    def fill(patterns: Iterable[str]) -> tuple[str, ...]:
        return tuple(pattern.format(prefix=prefix, user=user) for pattern in patterns)

    return Rights(fill(rule.publish), fill(rule.subscribe))


def _within(topic_filter: str, allowed: Iterable[str]) -> bool:
    return any(contains(outer, topic_filter) for outer in allowed)
