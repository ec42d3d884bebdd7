"""A bridge's credential speaks for the devices that it is named for, and for no other."""

import base64
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from box_mqtt_face import Box
from bridge_scene import Stores, face_bridge, write_settings
from broker_engines import PARAMETERS, with_users
from mqtt_probe import Probe

from facewire.roles import Role
from facewire.topics import Topics
from facewire_bridge.settings import read_settings
from facewire_broker import credentials, embedded
from facewire_broker.access import rights_of, rule_for
from facewire_broker.authentication import UsersAuthenticator
from facewire_broker.credentials import UsersFile
from facewire_broker.limits import BrokerLimits
from facewire_mqtt.address import Address

#: Generated for each run.
BRIDGE, DEVICE, PLATFORM = (credentials.generate_secret() for _ in range(3))


class Site(NamedTuple):
    name: str
    address: Address
    file: UsersFile


@pytest.fixture(params=PARAMETERS)
def site(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Site]:
    file = UsersFile(tmp_path / "users")
    with file.editing() as users:
        credentials.add(users, "bridge-1", Role.BRIDGE, BRIDGE, devices=["gate-1", "gate-2"])
        credentials.add(users, "gate-9", Role.DEVICE, DEVICE)
        credentials.add(users, "platform", Role.PLATFORM, PLATFORM)
    with with_users(request.param, tmp_path, file) as address:
        yield Site(request.param, address, file)


def test_its_topics_are_those_of_its_devices() -> None:
    rights = rights_of("bridge-1", rule_for(Role.BRIDGE, devices=["gate-1", "gate-2"]), "facewire/v1")
    for kind in ("match", "history", "status"):
        assert rights.may_publish(f"facewire/v1/gate-1/{kind}")
        assert rights.may_publish(f"facewire/v1/gate-2/{kind}")
        assert not rights.may_publish(f"facewire/v1/gate-3/{kind}")
        assert not rights.may_subscribe(f"facewire/v1/gate-1/{kind}")
    assert not rights.may_publish("facewire/v1/gate-1/ack")
    assert rights.may_subscribe("facewire/v1/gate-2/ack")
    assert not rights.may_subscribe("facewire/v1/+/ack")


def test_without_devices_it_has_no_rights_and_cannot_be_made() -> None:
    rights = rights_of("bridge-1", rule_for(Role.BRIDGE), "facewire/v1")
    assert (rights.publish, rights.subscribe) == ((), ())
    assert rights_of("t", rule_for(Role.TERMINAL), "facewire/v1").publish == (
        "mqtt/face/t/Rec",
        "mqtt/face/t/Snap",
        "mqtt/face/t/Ack",
        "mqtt/face/basic",
        "mqtt/face/heartbeat",
    )
    with pytest.raises(ValueError, match="a bridge needs the devices"):
        credentials.add({}, "bridge-1", Role.BRIDGE, BRIDGE)


@pytest.mark.network
def test_it_may_be_each_of_its_devices_and_no_other(site: Site) -> None:
    def code(user: str, client_id: str, secret: str = BRIDGE) -> int | None:
        with Probe(site.address, client_id, user=user, password=secret) as probe:
            return probe.code

    assert code("gate-1", "gate-1") == 0
    assert code("bridge-1", "bridge-1") == 0
    assert code("gate-3", "gate-3") != 0
    assert code("gate-9", "gate-9") != 0, "a device that is a user of its own has its own secret"
    assert code("gate-9", "gate-9", DEVICE) == 0


@pytest.mark.network
def test_a_bridge_publishes_for_its_own_devices_and_for_no_others(site: Site) -> None:
    with Probe(site.address, "platform", user="platform", password=PLATFORM) as platform:
        platform.subscribe(("facewire/v1/#", 1))
        with Probe(site.address, "bridge-1", user="bridge-1", password=BRIDGE) as bridge:
            for device in ("gate-9", "gate-3", "gate-2", "gate-1"):
                bridge.publish(f"facewire/v1/{device}/history", device.encode())
        assert [got.payload for got in platform.messages(2)] == [b"gate-2", b"gate-1"]
        assert platform.has_no_message()


@pytest.mark.network
def test_a_bridge_serves_its_devices_with_one_credential(site: Site, tmp_path: Path) -> None:
    with embedded.running() as terminals, Probe(site.address, "platform", user="platform", password=PLATFORM) as platform:
        tables = "".join(f'[mqtt-face.device.gate-{n}]\nid = "{n}"\nzone = "UTC"\n' for n in (1, 2))
        face = f'[mqtt-face]\nhost = "127.0.0.1"\nport = {terminals.port}\n'
        # Mosquitto binds the client id to the user name.
        as_device = str(site.name != "ours").lower()
        credential = f'username = "bridge-1"\npassword = "{BRIDGE}"\nas_device = {as_device}\n'
        settings = write_settings(tmp_path, site.address, credential + face + tables)
        platform.subscribe(("facewire/v1/+/status", 1))
        with face_bridge(settings), Box(terminals.port, "1") as one, Box(terminals.port, "2") as two:
            for box in (one, two):
                box.record()
                box.wait_acked()
            heard = platform.messages(2, timeout=20)
    assert {got.topic for got in heard} == {"facewire/v1/gate-1/status", "facewire/v1/gate-2/status"}
    stores = Stores(read_settings(settings))
    assert [len(stores.events(f"gate-{n}")) for n in (1, 2)] == [1, 1]


@pytest.mark.network
def test_terminals_on_our_own_broker_reach_their_bridge_and_nobody_else(tmp_path: Path) -> None:
    file = UsersFile(tmp_path / "users")
    with file.editing() as users:
        credentials.add(users, "bridge-1", Role.BRIDGE, BRIDGE, devices=["gate-1"])
        for name in ("1099001", "1099002"):
            credentials.add(users, name, Role.TERMINAL, DEVICE)
    limits = BrokerLimits(packet_bytes=6 << 20)
    with embedded.running(authenticator=UsersAuthenticator(file, Topics()), limits=limits) as address:
        credential = f'username = "bridge-1"\npassword = "{BRIDGE}"\n'
        gate = '[mqtt-face.device.gate-1]\nid = "1099001"\nzone = "UTC"\n'
        settings = write_settings(tmp_path, address, credential + gate)
        picture = base64.b64encode(b"\xff\xd8\xff" + os.urandom(3_000_000)).decode()
        with face_bridge(settings), Probe(address, "1099002", user="1099002", password=DEVICE) as other:
            other.subscribe(("mqtt/face/#", 0))
            with Box(address.port, "1099001", username="1099001", password=DEVICE, picture=picture) as box:
                other.publish("mqtt/face/1099001/Rec", json.dumps({"info": box.record(push=False).info}).encode())
                box.wait_acked()
            assert other.has_no_message()
    assert len(Stores(read_settings(settings)).events("gate-1")) == 1
