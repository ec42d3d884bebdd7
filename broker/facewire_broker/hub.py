"""The broker without sockets: sessions, routing, wills, retained messages, counters.

Nothing here waits, so nothing can happen between two steps: authenticate ▶ take over ▶ subscribe ▶
route ▶ PUBACK needs no lock, and a publisher gets its PUBACK only after its message is queued for
every subscriber. Time is an argument.
"""

import logging
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from typing import Final, Protocol, cast

from facewire.allowance import Allowances
from facewire_broker.access import EVERYTHING, Rights
from facewire_broker.budget import Budget
from facewire_broker.limits import BrokerLimits
from facewire_broker.packets import REFUSED, Connect
from facewire_broker.publish import Message
from facewire_broker.routing import Group, Index, RetainedMessages, is_filter, split_share
from facewire_broker.session import Link, Session

log = logging.getLogger(__name__)

#: Log lines per second that refusals for one reason may write. The counters count all of them.
_LOG_LINES: Final = 10

ACCEPTED, BAD_LEVEL, BAD_CLIENT_ID, UNAVAILABLE, NOT_AUTHORIZED = 0, 1, 2, 3, 5


@dataclass(frozen=True, slots=True)
class Identity:
    """The identity of an authenticated client."""

    #: None for an anonymous client.
    user: str | None = None
    rights: Rights = EVERYTHING
    #: Only clients of one scope share a subscription: nobody can take another user's messages by
    #: joining its group.
    scope: str = ""


class Client(Link, Protocol):
    """A connection, as the hub needs it."""

    identity: Identity
    session: Session | None
    will: Message | None
    will_retain: bool

    def close(self, reason: str) -> None:
        """Close the connection."""


class Hub:
    """The state that all connections share.

    Attributes:
        counters: number of events by name, such as `messages/dropped` and `refused/REASON`.
        sessions: by user and client id, so that no user can reach another user's session.
        index: the subscriptions.
        retained: the retained messages.
    """

    def __init__(self, limits: BrokerLimits) -> None:
        self.limits = limits
        self.counters: Counter[str] = Counter()
        self.sessions: dict[tuple[str | None, str], Session] = {}
        self._session_counts: Counter[str | None] = Counter()
        self._budget = Budget(limits.all_queued_bytes)
        #: By user (see `BrokerLimits.device_publishes`).
        self.publishing = Allowances[str](5 * limits.device_publishes, limits.device_publishes, limits.sessions)
        self._budgets: dict[str | None, Budget] = {}
        self.index: Index[Session] = Index()
        self.retained = RetainedMessages(limits.retained, limits.retained_bytes)
        self._warned: set[Session] = set()
        self._log_lines: Counter[str] = Counter()
        self._reported: dict[str, int] = {}

    def connect(self, client: Client, connect: Connect, now: float) -> tuple[int, bool]:
        """Begin or resume the session of an authenticated client.

        Returns:
            CONNACK's return code, and whether an earlier session is resumed. The caller sends both,
            then attaches the session.
        """
        identity = client.identity
        if connect.will is not None and not identity.rights.may_publish(connect.will.topic):
            self.count_refusal("will", f"client={connect.client_id!a} user={identity.user!a} topic={connect.will.topic!a}")
            return NOT_AUTHORIZED, False
        key = identity.user, connect.client_id
        session = self.sessions.get(key)
        if session is None and not self._may_add_session(*key):
            return UNAVAILABLE, False
        if session is not None and session.link is not None:
            # The old connection's will, if any, goes out before the new one's messages.
            self._take_over(session, now)
            session = self.sessions.get(key)
        if session is not None and connect.clean:
            self._forget(session)
            session = None
        present = session is not None
        if session is None:
            session = self.sessions[key] = Session(connect.client_id, identity.user, identity.scope, self, self._budget_of(identity.user))
            self._session_counts[identity.user] += 1
        session.clean = connect.clean
        client.session = session
        client.will, client.will_retain = connect.will, connect.will_retain
        self.counters["clients/connected"] += 1
        return ACCEPTED, present

    def lost(self, client: Client, now: float, *, graceful: bool = False) -> None:
        """Handle the end of a connection.

        Offer its unacked shared messages to other members, publish its will, and forget a clean
        session.
        """
        session, will = client.session, client.will
        client.session = client.will = None
        if session is None:
            return
        self.counters["clients/connected"] -= 1
        session.detach(now)
        self._warned.discard(session)
        orphans = session.remove_shared()
        if session.clean:
            self._forget(session)
        for delivery in orphans:
            if delivery.share is not None:
                self._offer_shared(delivery.share, delivery.message, delivery.qos)
        if will is not None and not graceful:
            self.publish(will, retain=client.will_retain)

    def publish(self, message: Message, *, retain: bool = False) -> None:
        """Route a message: once to each session, at the lesser of its QoS and the granted one."""
        if retain and not self.retained.put(message):
            self.count_refusal("retained", f"topic={message.topic!a} limit={self.limits.retained}")
        entries = self.index.match(message.topic)
        if len(entries) == 1:
            members = entries[0].members
        else:
            members = {}
            for entry in entries:
                for session, granted in entry.members.items():
                    members[session] = max(granted, members.get(session, 0))
        published = message.qos
        for session, granted in members.items():
            session.offer(message, granted if granted < published else published)
        for entry in entries:
            for group in entry.groups.values():
                self._offer_shared(group, message, published)

    def subscribe(self, client: Client, pairs: list[tuple[str, int]]) -> list[int]:
        """Grant or refuse filters; return SUBACK's codes.

        The session then sends the retained messages of the granted filters.
        """
        return [self._subscribe(client, text, min(qos, 1)) for text, qos in pairs]

    def unsubscribe(self, client: Client, filters: list[str]) -> None:
        """Remove filters from a session."""
        session = client.session
        for text in filters if session else ():
            if session and session.subscriptions.pop(text, None) is not None:
                self._unindex(session, text)

    def tick(self, now: float) -> None:
        """Once a second: forget sessions unused for too long, and sum up skipped log lines."""
        for reason, lines in self._log_lines.items():
            if lines > _LOG_LINES:
                log.warning("refused reason=%s %d more", reason, lines - _LOG_LINES)
        self._log_lines.clear()
        until = now - self.limits.session_expiry
        for session in [s for s in self.sessions.values() if s.link is None and s.disconnected_at < until]:
            self.count_refusal("expired", f"session of client={session.client_id!a} held={len(session.undelivered)}")
            self._forget(session)

    def publish_counters(self, uptime: float) -> None:
        """Publish the counters that changed, retained, under `$SYS/broker/`."""
        now = {**self.counters, "uptime": int(uptime), "sessions": len(self.sessions), "retained": len(self.retained)}
        for name, value in now.items():
            if self._reported.get(name) != value:
                self.publish(Message(f"$SYS/broker/{name}", str(value).encode(), 0), retain=True)
        self._reported = now

    def forget_users(self, users: Collection[str]) -> None:
        """Forget users' sessions, whose connections are already closed."""
        for session in [s for s in self.sessions.values() if s.owner in users]:
            self._forget(session)

    def count_refusal(self, reason: str, details: str) -> None:
        """Count and log a refusal. `details` must hold no payload and no secret."""
        self.counters[f"refused/{reason}"] += 1
        self._log_lines[reason] += 1
        if self._log_lines[reason] <= _LOG_LINES:
            log.warning("refused reason=%s %s", reason, details)

    def retained_after(self, topic: str) -> Message | None:
        return self.retained.after(topic)

    def retained_message(self, topic: str) -> Message | None:
        return self.retained.get(topic)

    def dropped(self, session: Session) -> None:
        self.counters["messages/dropped"] += 1
        if session not in self._warned:
            self._warned.add(session)
            log.warning("dropping messages client=%a reason=queue held=%d", session.client_id, len(session.undelivered))

    def _may_add_session(self, user: str | None, client_id: str) -> bool:
        """Whether the limits allow one more session. Only named users have a limit each."""
        limits = self.limits
        if len(self.sessions) >= limits.sessions:
            self.count_refusal("sessions", f"client={client_id!a} limit={limits.sessions}")
        elif user is not None and self._session_counts[user] >= limits.user_sessions:
            self.count_refusal("user_sessions", f"client={client_id!a} user={user!a} limit={limits.user_sessions}")
        else:
            return True
        return False

    def _budget_of(self, user: str | None) -> Budget:
        """The budget that a user's sessions share. Anonymous clients share only the broker's."""
        if user is None:
            return self._budget
        return self._budgets.setdefault(user, Budget(self.limits.user_queued_bytes, self._budget))

    def _subscribe(self, client: Client, text: str, qos: int) -> int:
        session = client.session
        group, topic_filter = split_share(text)
        if session is None or not is_filter(topic_filter) or self._exceeds_limits(client, session, text, topic_filter):
            self.count_refusal("filter", f"client={session and session.client_id!a} filter={text[:80]!a}")
            return REFUSED
        if not client.identity.rights.may_subscribe(topic_filter):
            self.count_refusal("subscribe", f"client={session.client_id!a} user={session.owner!a} filter={text!a}")
            return REFUSED
        session.subscriptions[text] = qos
        if group is not None:
            self.index.subscribe(session, topic_filter, qos, f"{session.scope}/{group}")
            return qos
        self.index.subscribe(session, topic_filter, qos)
        session.send_retained(topic_filter, qos)
        return qos

    def _exceeds_limits(self, client: Client, session: Session, text: str, topic_filter: str) -> bool:
        limits = self.limits
        # A gate that is narrowed to many devices may subscribe each of them.
        most = max(limits.subscriptions, len(client.identity.rights.subscribe))
        return (
            (text not in session.subscriptions and len(session.subscriptions) >= most)
            or topic_filter.count("/") >= limits.topic_levels
            or len(text.encode()) > limits.topic_bytes
        )

    def _offer_shared(self, group: Group[Session], message: Message, qos: int) -> None:
        """Offer the message to one member of the group: to a connected one, if there is one."""
        session = group.pick([s for s in group.members if s.link is not None] or group.members)
        if session is None:
            self.counters["messages/dropped"] += 1
            return
        session.offer(message, min(qos, group.members[session]), share=group)

    def _take_over(self, session: Session, now: float) -> None:
        client = cast("Client", session.link)
        self.counters["clients/taken_over"] += 1
        log.info("taken over client=%a", session.client_id)
        client.close("taken over")
        self.lost(client, now)

    def _forget(self, session: Session) -> None:
        if self.sessions.pop((session.owner, session.client_id), None) is not None:
            self._session_counts[session.owner] -= 1
            if not self._session_counts[session.owner]:
                del self._session_counts[session.owner]
                self._budgets.pop(session.owner, None)
            session.release()
        for text in session.subscriptions:
            self._unindex(session, text)
        session.subscriptions.clear()

    def _unindex(self, session: Session, text: str) -> None:
        group, topic_filter = split_share(text)
        self.index.unsubscribe(session, topic_filter, None if group is None else f"{session.scope}/{group}")
        if group is None:
            session.forget_retained(topic_filter)
