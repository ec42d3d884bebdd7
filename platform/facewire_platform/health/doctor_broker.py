"""The doctor's checks of the broker, and of the rights of a credential.

No broker gives a reason for a refused publication, and Mosquitto grants every subscription. Only
delivery shows what a broker really allows. So the doctor publishes messages that it must not be
able to send, under the name of a device that does not exist, and checks whether they come back.
None of them is retained. If one comes back, the platform received it too, and put it in quarantine
because its payload breaks the contract.
"""

import contextlib
import socket
import ssl
import time
from collections.abc import Iterator, Sequence
from typing import Final, Literal, TypeAlias

from facewire.errors import BrokerError, CredentialsRefused, SubscriptionRefused
from facewire.finding import Finding
from facewire.roles import PERMISSIONS, Role
from facewire.topics import QOS, Kind, Topics
from facewire_mqtt.address import Address, TlsFailed, is_loopback, tls_context
from facewire_mqtt.visit import PATIENCE, Visit, remedy_of
from facewire_platform.intake.sharing import shared_subscriptions_deliver

RoleName: TypeAlias = Literal["platform", "consumer", "operator"]

#: A device that does not exist; always the same, so that quarantine has each probe only once.
PROBE_DEVICE: Final = "facewire-doctor"
PAYLOAD: Final = b"facewire doctor was here"
#: A publication that the broker allowed comes back within this time, s.
GRACE: Final = 1.5
#: Days before the expiry of a certificate when a warning begins, and a failure.
DAYS_LOW, DAYS_CRITICAL = 30.0, 7.0


def check_broker(address: Address, topics: Topics, role: RoleName, wait: float) -> Iterator[Finding]:
    """All checks of the broker; a failure ends them if it makes the following checks meaningless.

    Args:
        address: the broker, with the credential.
        topics: where the devices publish.
        role: the role that the credential should have.
        wait: how long to listen for messages that a consumer must not receive, s.
    """
    yield from _check_tls(address)
    try:
        with Visit(address, "fw-doctor", _subscriptions(topics, PERMISSIONS[Role(role)].subscribe)):
            yield Finding("broker", "ok", f"{address} answers")
    except CredentialsRefused as exc:
        yield Finding("broker", "ok", f"{address} answers")
        yield Finding("credential", "FAIL", str(exc), "check --username; see facewire broker users list, passwd")
        return
    except SubscriptionRefused as exc:
        yield Finding("broker", "ok", f"{address} answers")
        yield Finding("credential", "FAIL", str(exc), f"it lacks the role {role}: facewire broker users add NAME --role {role}")
        return
    except BrokerError as exc:
        if "dentifier" in str(exc):  # "identifier rejected", MQTT 3.1.1 section 3.2.2.3
            yield Finding(
                "credential", "FAIL", f"{exc}: it is bound to another client id, as a device's is", f"use the credential of a {role}"
            )
        else:
            yield Finding("broker", "FAIL", str(exc), remedy_of(exc))
        return
    yield from _check_credential(address, topics, role, wait)


def _check_credential(address: Address, topics: Topics, role: RoleName, wait: float) -> Iterator[Finding]:
    if address.username is None and address.cert is None:
        yield Finding(
            "credential", "warn", "none: the broker lets everybody do everything", "beyond loopback: facewire broker run --users FILE"
        )
    else:
        rights = list(_check_rights(address, topics, role))
        yield from rights
        if role == "consumer":
            yield _check_privacy(address, topics, wait)
        if any(finding.verdict == "FAIL" for finding in rights):
            return
    if role == "platform":
        yield _check_sharing(address, topics)


def _check_tls(address: Address) -> Iterator[Finding]:
    context = tls_context(address)
    if context is None:
        if not is_loopback(address.host):
            yield Finding(
                "tls",
                "warn",
                "none: others on the network can read secrets and faces",
                "use --cafile here, and facewire broker run --cert --key there",
            )
        return
    try:
        with (
            socket.create_connection((address.host, address.port), PATIENCE) as plain,
            context.wrap_socket(plain, server_hostname=address.host) as tls,
        ):
            certificate = tls.getpeercert() or {}
    except TlsFailed as exc:
        remedy = "does --cafile belong to the broker, is --host its name, and is --port that of its TLS listener?"
        yield Finding("tls", "FAIL", f"{address}: {exc}", remedy)
    except OSError:
        return  # the check of the broker reports it
    else:
        days = (ssl.cert_time_to_seconds(str(certificate["notAfter"])) - time.time()) / 86_400
        verdict: Literal["ok", "warn", "FAIL"] = "FAIL" if days < DAYS_CRITICAL else "warn" if days < DAYS_LOW else "ok"
        remedy = "" if verdict == "ok" else "give the broker a new certificate, and restart it"
        yield Finding("tls", verdict, f"the broker's certificate is valid for {days:.0f} more days", remedy)


def _check_rights(address: Address, topics: Topics, role: RoleName) -> Iterator[Finding]:
    permission = PERMISSIONS[Role(role)]
    hears, says = permission.subscribe, permission.publish
    # Only what the role may receive can be seen to come back: for a consumer only matches.
    forbidden = tuple(kind for kind in hears if kind not in says)
    try:
        missing = sorted(set(says) - _delivered(address, topics, hears, says))
        too_much = sorted(_delivered(address, topics, hears, forbidden))
    except BrokerError as exc:
        yield Finding("credential", "FAIL", str(exc), "see the broker's log")
        return
    user = address.username or "the certificate"
    remedy = f"give it the role {role} and no other (docs/broker.md)"
    if missing:
        yield Finding("credential", "FAIL", f"{user} may not publish {', '.join(missing)}", remedy)
    if too_much:
        yield Finding("credential", "FAIL", f"{user} may publish {', '.join(too_much)}, which a {role} should not", remedy)
    if not missing and not too_much:
        able = f"may publish {', '.join(says)} and not" if says else "may not publish"
        yield Finding("credential", "ok", f"{user} {able} {', '.join(forbidden)}")


def _delivered(address: Address, topics: Topics, hears: Sequence[Kind], says: Sequence[Kind]) -> set[str]:
    """Publish one message of each kind; returns the kinds that came back."""
    received: set[str] = set()
    if not says:
        return received
    # Some brokers end the connection at a forbidden publication.
    with Visit(address, "fw-doctor", _subscriptions(topics, hears)) as visit, contextlib.suppress(BrokerError):
        for kind in says:
            visit.publish(topics.of(PROBE_DEVICE, kind), PAYLOAD)
        deadline = time.monotonic() + GRACE
        while received != set(says) and (message := visit.message(deadline)) is not None:
            if message.payload == PAYLOAD:
                received.add(topics.parse(message.topic)[1])
    return received


def _check_privacy(address: Address, topics: Topics, wait: float) -> Finding:
    """Whether the broker keeps history from a consumer (docs/contract.md, Topics)."""
    user = address.username or "the certificate"
    try:
        with Visit(address, "fw-doctor", [(topics.all(kind), QOS[kind]) for kind in ("history", "ack")]) as visit:
            # A consumer must not be able to publish these. If it can, it tests without any device
            # whether it also receives them.
            visit.publish(topics.of(PROBE_DEVICE, "history"), PAYLOAD)
            visit.publish(topics.of(PROBE_DEVICE, "ack"), PAYLOAD)
            message = visit.message(time.monotonic() + wait)
    except SubscriptionRefused:
        return Finding("privacy", "ok", f"{user} may not subscribe to history or acks")
    except BrokerError as exc:
        return Finding("privacy", "FAIL", str(exc), "see the broker's log")
    if message is None:
        return Finding(
            "privacy",
            "ok",
            f"{user} received no history or ack in {wait:g} s, though the broker granted the subscription, as Mosquitto does",
        )
    return Finding("privacy", "FAIL", f"{user} receives {message.topic}", "give it the role consumer and no other (docs/broker.md)")


def _check_sharing(address: Address, topics: Topics) -> Finding:
    try:
        delivers = shared_subscriptions_deliver(address, topics)
    except BrokerError as exc:
        return Finding("shared subscriptions", "FAIL", str(exc), "see the lines above; see the broker's log")
    if delivers:
        return Finding("shared subscriptions", "ok", "they deliver: several workers may share the work")
    return Finding("shared subscriptions", "warn", "the broker grants them but delivers nothing", "run one worker, without --share")


def _subscriptions(topics: Topics, kinds: Sequence[Kind]) -> list[tuple[str, int]]:
    return [(topics.of(PROBE_DEVICE, kind), QOS[kind]) for kind in kinds]
