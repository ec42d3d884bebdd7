"""Access: every role, every topic, every trick, on our broker and on Mosquitto with our files.

The expected rights are written out here, not taken from the table of roles.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from broker_engines import PARAMETERS, with_users
from mqtt_probe import Probe

from facewire.roles import Role
from facewire_broker import credentials
from facewire_broker.credentials import UsersFile
from facewire_mqtt.address import Address

pytestmark = pytest.mark.network

ROLES = {
    "dev1": Role.DEVICE,
    "dev2": Role.DEVICE,
    "plat": Role.PLATFORM,
    "gate": Role.CONSUMER,
    "greeter": Role.CONSUMER,  # with status granted
    "narrow": Role.CONSUMER,  # with status granted, and narrowed to dev1
    "ops": Role.OPERATOR,
}
V = "facewire/v1"

#: The topics that each user may publish to.
MAY_PUBLISH = {
    "dev1": {f"{V}/dev1/match", f"{V}/dev1/history", f"{V}/dev1/status"},
    "dev2": {f"{V}/dev2/match", f"{V}/dev2/history", f"{V}/dev2/status"},
    "plat": {f"{V}/dev1/ack", f"{V}/dev2/ack"},
    "gate": set[str](),
    "greeter": set[str](),
    "narrow": set[str](),
    "ops": set[str](),
}
TOPICS = sorted(set().union(*MAY_PUBLISH.values()))
#: Topics that no user may publish to.
FORBIDDEN = [f"{V}/dev3/match", f"{V}/dev1/other", f"{V}/dev1", f"{V}/dev1/match/x", "facewire/v2/dev1/match", "other/dev1/match", "/",
             "$SYS/broker/uptime", "$share/g/facewire/v1/dev1/match", f"{V}/gate/match", f"{V}/plat/status", f"{V}/DEV1/match"]  # fmt: skip

MAY_RECEIVE = {
    "dev1": {f"{V}/dev1/ack"},
    "dev2": {f"{V}/dev2/ack"},
    "plat": set(TOPICS),
    "gate": {f"{V}/dev1/match", f"{V}/dev2/match"},
    "greeter": {f"{V}/dev1/match", f"{V}/dev2/match", f"{V}/dev1/status", f"{V}/dev2/status"},
    "narrow": {f"{V}/dev1/match", f"{V}/dev1/status"},
    "ops": set(TOPICS),
}

#: Filters, and the TOPICS that they match.
FILTERS = {
    "#": TOPICS,
    "+/#": TOPICS,
    "+/+/+/+": TOPICS,
    "facewire/#": TOPICS,
    f"{V}/#": TOPICS,
    f"{V}/+/+": TOPICS,
    f"{V}/dev1/#": [t for t in TOPICS if "/dev1/" in t],
    f"{V}/dev1/+": [t for t in TOPICS if "/dev1/" in t],
    "+/+/dev1/#": [t for t in TOPICS if "/dev1/" in t],
    f"{V}/+/match": [t for t in TOPICS if t.endswith("/match")],
    f"{V}/+/match/#": [t for t in TOPICS if t.endswith("/match")],
    "+/v1/+/match": [t for t in TOPICS if t.endswith("/match")],
    f"{V}/+/ack": [t for t in TOPICS if t.endswith("/ack")],
    f"{V}/+/ack/#": [t for t in TOPICS if t.endswith("/ack")],
    f"{V}/+/history": [t for t in TOPICS if t.endswith("/history")],
    f"{V}/+/status": [t for t in TOPICS if t.endswith("/status")],
    f"{V}/dev1/match": [f"{V}/dev1/match"],
    f"{V}/dev2/match": [f"{V}/dev2/match"],
    f"{V}/dev1/ack": [f"{V}/dev1/ack"],
    f"{V}/dev2/ack": [f"{V}/dev2/ack"],
    f"{V}/dev1/history": [f"{V}/dev1/history"],
    "$SYS/#": [],
    "+": [],
}

#: Filters that our broker grants: they match only topics that the user may receive.
GRANTED = {
    "dev1": {f"{V}/dev1/ack"},
    "plat": {name for name in FILTERS if name.startswith(f"{V}/")},
    "gate": {f"{V}/+/match", f"{V}/dev1/match", f"{V}/dev2/match"},
    "greeter": {f"{V}/+/match", f"{V}/dev1/match", f"{V}/dev2/match", f"{V}/+/status"},
    "narrow": {f"{V}/dev1/match"},
    "ops": set(FILTERS),
}


class Site(NamedTuple):
    engine: str
    address: Address
    secrets: dict[str, str]

    def connect(self, name: str, **options: Any) -> Probe:
        return Probe(self.address, name, user=name, password=self.secrets[name], **options)


def make_users(folder: Path) -> tuple[UsersFile, dict[str, str]]:
    file, secrets = UsersFile(folder / "users"), {name: credentials.generate_secret() for name in ROLES}
    with file.editing() as users:
        for name, role in ROLES.items():
            devices = ["dev1"] if name == "narrow" else []
            credentials.add(users, name, role, secrets[name], status=name in {"greeter", "narrow"}, devices=devices)
    return file, secrets


@pytest.fixture(scope="module", params=PARAMETERS)
def site(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("access")
    file, secrets = make_users(folder)
    with with_users(request.param, folder, file) as address:
        yield Site(request.param, address, secrets)


@pytest.fixture(scope="module")
def everybody(site: Site) -> Iterator[dict[str, Probe]]:
    """One connection for each user, because Mosquitto allows no more."""
    probes = {name: site.connect(name) for name in ROLES}
    yield probes
    for probe in probes.values():
        probe.drop()


def publish_everything(everybody: dict[str, Probe], payload: bytes, *, retain: bool = False) -> None:
    for name, topics in MAY_PUBLISH.items():
        for topic in sorted(topics):
            everybody[name].publish(topic, payload, retain=retain)


def received(probe: Probe, payload: bytes) -> set[str]:
    """The topics that delivered a payload. The broker itself may have sent other messages."""
    probe.ping()
    topics = {got.topic for got in probe.inbox if got.payload == payload}
    probe.inbox.clear()
    return topics


@pytest.mark.parametrize("name", ROLES)
def test_a_role_publishes_on_its_own_topics_and_no_others(site: Site, everybody: dict[str, Probe], name: str) -> None:
    witness, payload = everybody["ops"], f"published by {name}".encode()
    witness.subscribe(("#", 1), ("$SYS/#", 0))
    for topic in [*TOPICS, *FORBIDDEN]:
        everybody[name].publish(topic, payload)
    assert received(witness, payload) == MAY_PUBLISH[name]
    witness.unsubscribe("#")
    witness.unsubscribe("$SYS/#")


@pytest.mark.parametrize("share", ["", "$share/g/"])
@pytest.mark.parametrize("pattern", FILTERS)
@pytest.mark.parametrize("name", GRANTED)
def test_a_role_receives_its_own_topics_and_no_others(site: Site, everybody: dict[str, Probe], name: str, pattern: str, share: str) -> None:
    probe, payload = everybody[name], f"{name} {share}{pattern}".encode()
    code = probe.subscribe((share + pattern, 1))
    publish_everything(everybody, payload)
    topics = received(probe, payload)
    within = MAY_RECEIVE[name] & set(FILTERS[pattern])
    if pattern in GRANTED[name]:
        assert (code, topics) == ([1], within)
    elif site.engine == "ours":
        assert (code, topics) == ([0x80], set())
    else:
        # Mosquitto 2.0 grants every filter, and delivers only topics that the user may read.
        assert topics == within
    probe.unsubscribe(share + pattern)


@pytest.mark.parametrize("pattern", ["#", f"{V}/#", f"{V}/+/status", f"{V}/dev1/status"])
@pytest.mark.parametrize("name", GRANTED)
def test_a_role_gets_a_retained_message_only_if_it_may_receive_it(site: Site, everybody: dict[str, Probe], name: str, pattern: str) -> None:
    probe, payload = everybody[name], f"retained for {name} {pattern}".encode()
    everybody["dev1"].publish(f"{V}/dev1/status", payload, retain=True)
    probe.subscribe((pattern, 1))
    topics = received(probe, payload)
    may = {f"{V}/dev1/status"} & MAY_RECEIVE[name]
    assert topics == (may if site.engine != "ours" or pattern in GRANTED[name] or pattern == f"{V}/dev1/status" else set())
    probe.unsubscribe(pattern)
    everybody["dev1"].publish(f"{V}/dev1/status", b"", retain=True)


@pytest.mark.parametrize("topic", [f"{V}/dev1/status", f"{V}/dev2/status", f"{V}/dev1/ack", "facewire/v1/dev1", "$SYS/broker/uptime", "x"])
def test_a_will_goes_only_where_its_owner_may_publish(site: Site, everybody: dict[str, Probe], topic: str) -> None:
    witness, payload = everybody["plat"], f"will on {topic}".encode()
    witness.subscribe((f"{V}/#", 1))
    ops = everybody["ops"]
    ops.subscribe(("#", 1))
    with site.connect("dev1", will=(topic, payload, 1, False)) as dying:
        # Ours refuses the connection; Mosquitto accepts it and drops the will.
        assert dying.code == (5 if site.engine == "ours" and topic not in MAY_PUBLISH["dev1"] else 0)
        dying.drop()
    if topic in MAY_PUBLISH["dev1"]:
        assert witness.message().payload == payload
    # A second connection is accepted only after the first one's will.
    everybody["dev1"].drop()
    everybody["dev1"] = site.connect("dev1")
    everybody["dev1"].publish(f"{V}/dev1/status", b"back")
    assert received(ops, payload) <= MAY_PUBLISH["dev1"]
    witness.unsubscribe(f"{V}/#")
    ops.unsubscribe("#")
    witness.inbox.clear()


@pytest.mark.parametrize("password", ["", "wrong", None])
def test_a_wrong_password_is_refused_for_every_user(site: Site, password: str | None) -> None:
    for name in ROLES:
        with Probe(site.address, name, user=name, password=password) as probe:
            assert probe.code == 5
            assert probe.is_closed()


def test_a_client_without_a_known_user_name_is_refused(site: Site) -> None:
    cases: list[dict[str, Any]] = [{}, {"user": "nobody", "password": "x"}, {"user": "", "password": ""}]
    for options in cases:
        with Probe(site.address, "dev1", **options) as probe:
            assert probe.code == 5


def test_a_wrong_password_harms_no_session_and_gives_no_rights(site: Site, everybody: dict[str, Probe]) -> None:
    victim = everybody["dev2"]
    victim.subscribe((f"{V}/dev2/ack", 1))
    name = "dev2"
    for clean in (True, False):
        for user in ("dev2", "plat"):
            with Probe(site.address, "dev2", user=user, password=name, clean=clean, will=(f"{V}/dev2/status", b"forged", 1, True)) as thief:
                assert thief.code == 5
    everybody["plat"].publish(f"{V}/dev2/ack", b"still here")
    assert victim.message().payload == b"still here"
    victim.publish(f"{V}/dev1/history", b"as plat")
    victim.unsubscribe(f"{V}/dev2/ack")
    everybody["ops"].subscribe((f"{V}/#", 1))
    assert everybody["ops"].has_no_message()
    everybody["ops"].unsubscribe(f"{V}/#")
