"""One box that posts over HTTP, on its member's thread: its posts become records of the member."""

import json
from collections.abc import Mapping
from typing import Any, Protocol

from facewire_bridge.family import Box, Family, Post, Read
from facewire_bridge.member import Member, Placed
from facewire_bridge.placing import Placing
from facewire_bridge.record import Poison
from facewire_bridge.settings import PushDevice


class Posting(Protocol):
    """A box, as `PostApp` needs it."""

    @property
    def path(self) -> tuple[str, str]:
        """First levels of its paths: family and id."""

    @property
    def secret(self) -> str:
        """Third level of its paths; empty for none."""

    @property
    def kinds(self) -> frozenset[str]:
        """Last levels of its paths."""

    @property
    def answer(self) -> tuple[bytes, str]:
        """The answer to a post, and its media type, once all of the post is durable."""

    @property
    def member(self) -> Member: ...

    def receive(self, post: Post, *, now_ms: int) -> None:
        """Receive a post. On return all of it is durable. Raises `StoreError`."""

    def ask(self, kind: str, query: Mapping[str, str]) -> dict[str, Any] | None:
        """The answer to a request that needs no store; None for any other request."""


class PushSource:
    """One box of a family that is a pure module.

    Args:
        device: its settings.
        member: the member that it becomes.
    """

    def __init__(self, device: PushDevice, member: Member) -> None:
        self.device, self.member = device, member
        self._family: Family = device.family
        self._placing = Placing(member, ("post",))
        member.agent.describe_source = self.describe

    @property
    def path(self) -> tuple[str, str]:
        return self._family.name, self.device.id

    @property
    def secret(self) -> str:
        return self.device.secret

    @property
    def kinds(self) -> frozenset[str]:
        return self._family.kinds

    @property
    def answer(self) -> tuple[bytes, str]:
        return self._family.stored, self._family.media_type

    def describe(self) -> dict[str, Any]:
        """The fields of its status about its proof. Any thread may ask."""
        return {"proof": self._family.proof, "proof_at": self._placing.reset_ms, "unexplained": self._placing.missing}

    def receive(self, post: Post, *, now_ms: int) -> None:
        numbers = self._placing.numbers()
        after_ms = max((state.at_ms for state in numbers.values()), default=0) or None
        try:
            found = self._family.read(post, Box(self.device.zone, after_ms))
        except ValueError as exc:
            found = [(Poison("post", "", str(exc)), post.body)]
        self.member.together(lambda: self._record(found, now_ms))

    def _record(self, found: Read, now_ms: int) -> None:
        unnumbered = [Placed(record, record.key, raw_of(item)) for record, item in found if record.number is None]
        if unnumbered:
            self.member.record(unnumbered, now_ms=now_ms)
        for record, item in found:
            if record.number is not None:
                late = isinstance(record, Poison) or not record.realtime
                self._placing.record(record, raw_of(item), late=late, now_ms=now_ms)

    def ask(self, kind: str, query: Mapping[str, str]) -> dict[str, Any] | None:
        return None


def raw_of(item: object) -> bytes:
    """The bytes under which poison is kept."""
    if isinstance(item, bytes):
        return item
    return json.dumps(item, ensure_ascii=False, sort_keys=True, default=_show).encode(errors="surrogateescape")


def _show(value: object) -> str:
    # A part of a form may be bytes.
    return value.decode(errors="replace") if isinstance(value, bytes) else repr(value)
