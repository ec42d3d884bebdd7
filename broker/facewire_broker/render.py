"""Configuration of Mosquitto and EMQX with the same users and rules: text by file name.

With these files Mosquitto 2.0 still differs from our broker:
    - it grants every SUBSCRIBE, then delivers only the topics that the ACL lets the user read;
    - it takes the user name for the client id, so each user has one connection at a time;
    - it keeps a socket open for 95 s without a CONNECT;
    - it delivers a message that matches two filters of a client at the QoS of either;
    - all users share the groups of shared subscriptions: give workers groups that nobody can guess.
"""

import csv
import io
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from facewire.roles import Role
from facewire_broker.access import Rights, Rule, rights_of, rule_for
from facewire_broker.credentials import TOKEN_ROUNDS, User, Users, salt_and_hash, with_devices_of_bridges
from facewire_broker.limits import BrokerLimits
from facewire_mqtt.address import Address


@dataclass(frozen=True, slots=True)
class Tls:
    """The broker's PEM files."""

    cert: str
    key: str
    #: If set, clients must show a certificate of this authority; its CN is the user.
    client_ca: str | None = None


@dataclass(frozen=True, slots=True)
class Site:
    """The facts that a broker's configuration depends on."""

    users: Users
    #: The topics' root and version.
    prefix: str
    host: str
    port: int
    #: Folder of the rendered files.
    folder: str
    tls: Tls | None = None
    #: The system user that Mosquitto runs as; None for its default.
    run_as: str | None = None
    limits: BrokerLimits = field(default_factory=BrokerLimits)

    @property
    def all_users(self) -> Users:
        """Those that may connect: the devices of bridges too."""
        return with_devices_of_bridges(self.users)


@dataclass(frozen=True, slots=True)
class Rendered:
    """Text by file name, and notes about what it leaves out."""

    files: dict[str, str]
    notes: tuple[str, ...] = ()


#: Files that only the broker may read.
SECRET_FILES: Final = frozenset({"passwd", "users.csv"})


def render_mosquitto(site: Site) -> Rendered:
    """Configuration, ACL and passwords of Mosquitto 2.0."""
    limits = site.limits
    lines = [
        "# Written by `facewire broker render mosquitto`; render it again rather than edit it.",
        f"listener {site.port} {site.host}",
        *_mosquitto_tls(site),
        "allow_anonymous false",
        f"acl_file {site.folder}/acl",
        "# The user name is the client id, whatever id the client sends.",
        "use_username_as_clientid true",
        "max_qos 1",
        "# Without this, one message in a thousand takes 30 ms.",
        "set_tcp_nodelay true",
        "# Nothing needs the broker to persist messages: the devices keep them.",
        "persistence false",
        f"max_packet_size {limits.packet_bytes}",
        f"max_connections {limits.connections}",
        f"max_inflight_messages {limits.inflight}",
        f"max_queued_messages {limits.queued}",
        f"max_queued_bytes {limits.queued_bytes}",
        "persistent_client_expiration 1d",
        "log_dest stderr",
        "log_type error",
        "log_type warning",
        "log_type notice",
        *([f"user {site.run_as}"] if site.run_as else []),
    ]
    passwords = "".join(f"{user.name}:{user.stored}\n" for user in site.all_users.values())
    return Rendered({"mosquitto.conf": "\n".join(lines) + "\n", "acl": _mosquitto_acl(site), "passwd": passwords})


def _mosquitto_tls(site: Site) -> Iterable[str]:
    if site.tls:
        yield from (f"certfile {site.tls.cert}", f"keyfile {site.tls.key}")
    if site.tls and site.tls.client_ca:
        yield from (f"cafile {site.tls.client_ca}", "require_certificate true", "use_identity_as_username true")
    else:
        yield f"password_file {site.folder}/passwd"


def _mosquitto_acl(site: Site) -> str:
    """Rules for each user, because Mosquitto's `pattern … %u` would apply to every role."""
    out = []
    for user, rights in _rights(site):
        out.append(f"user {user.name}")
        out += [f"topic write {topic}" for topic in rights.publish]
        out += [f"topic read {topic}" for topic in rights.subscribe]
        out.append("")
    return "\n".join(out)


def render_emqx(site: Site) -> Rendered:
    """Configuration, ACL and users of EMQX 5."""
    files = {"facewire.conf": _emqx_conf(site), "acl.conf": _emqx_acl(site)}
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(("user_id", "password_hash", "salt", "is_superuser"))
    notes = []
    for user in site.all_users.values():
        try:
            rounds, salt, digest = salt_and_hash(user.stored)
        except ValueError:
            notes.append(f"user {user.name} is left out: EMQX needs a salt that is text; give it a new secret with `users passwd`")
            continue
        if rounds != TOKEN_ROUNDS:
            notes.append(
                f"user {user.name} is left out: its hash has {rounds} rounds, EMQX needs {TOKEN_ROUNDS} for all users; add it in EMQX"
            )
            continue
        writer.writerow((user.name, digest, salt, "false"))
    files["users.csv"] = table.getvalue()
    return Rendered(files, tuple(notes))


def _emqx_conf(site: Site) -> str:
    """HOCON for emqx.conf to include (docs.emqx.com: Use Built-in Database; Use ACL File; MQTT)."""
    kind, tls = "tcp", ""
    if site.tls is not None:
        kind = "ssl"
        ca = site.tls.client_ca
        verify = f'cacertfile = "{ca}", verify = verify_peer, fail_if_no_peer_cert = true' if ca else "verify = verify_none"
        tls = f'\n  ssl_options {{ certfile = "{site.tls.cert}", keyfile = "{site.tls.key}", {verify} }}'
    peer = "\n  peer_cert_as_username = cn" if site.tls and site.tls.client_ca else ""
    return f"""\
# Written by `facewire broker render emqx`; include it at the end of emqx.conf.
listeners.{kind}.default {{
  bind = "{Address(site.host, site.port)}"
  max_connections = {site.limits.connections}
  tcp_options {{ nodelay = true }}{tls}
}}
mqtt {{
  use_username_as_clientid = true
  max_qos_allowed = 1
  max_packet_size = {site.limits.packet_bytes // 1024}KB
  max_inflight = {site.limits.inflight}
  max_mqueue_len = {site.limits.queued}
  shared_subscription_strategy = round_robin{peer}
}}
authentication = {_emqx_authentication(site)}
authorization {{
  no_match = deny
  deny_action = ignore
  sources = [ {{ type = file, enable = true, path = "{site.folder}/acl.conf" }} ]
}}
"""


def _emqx_authentication(site: Site) -> str:
    if site.tls and site.tls.client_ca:
        return "[]  # the certificate authenticates the client"
    return f"""[
  {{
    mechanism = password_based
    backend = built_in_database
    user_id_type = username
    password_hash_algorithm {{ name = pbkdf2, mac_fun = sha512, iterations = {TOKEN_ROUNDS}, dk_length = 64 }}
    # EMQX (5.7.2 or newer) reads this once, when it creates the database.
    bootstrap_file = "{site.folder}/users.csv"
    bootstrap_type = hash
  }}
]"""


def _emqx_acl(site: Site) -> str:
    """One rule list; the first rule that matches decides.

    It names every user of the other roles. All remaining users are devices: `${username}`.
    """
    out = ["%% Written by `facewire broker render emqx`. The first rule that matches decides."]
    for user, rights in _rights(site):
        if user.role is not Role.DEVICE:
            out += _emqx_rules(f'{{username, "{user.name}"}}', rights)
            out.append(f'{{deny, {{username, "{user.name}"}}, all, ["#", "$SYS/#"]}}.')
    device = rights_of("${username}", rule_for(Role.DEVICE), site.prefix)
    out += [*_emqx_rules("all", device), "{deny, all}.", ""]
    return "\n".join(out)


def _emqx_rules(who: str, rights: Rights) -> Iterable[str]:
    for action, topics in (("publish", rights.publish), ("subscribe", rights.subscribe)):
        if topics:
            listed = ", ".join(f'"{topic}"' for topic in topics)
            yield f"{{allow, {who}, {action}, [{listed}]}}."


def _rights(site: Site) -> Iterable[tuple[User, Rights]]:
    for user in site.all_users.values():
        rule: Rule = rule_for(user.role, status=user.status, devices=user.devices)
        yield user, rights_of(user.name, rule, site.prefix)
