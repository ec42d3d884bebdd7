"""amqtt is the version that our broker was written for; a different one is noticed and named."""

import importlib.metadata
import tomllib
from pathlib import Path

import pytest
from amqtt.broker import Broker as AmqttBroker

from facewire.errors import BrokerError
from facewire_broker import broker, fingerprint


def test_amqtt_is_pinned_exactly() -> None:
    extras = tomllib.loads((Path(__file__).parent.parent / "pyproject.toml").read_text())["project"]["optional-dependencies"]["broker"]
    assert f"amqtt=={importlib.metadata.version('amqtt')}" in extras


def test_the_amqtt_functions_are_those_that_our_broker_was_written_for() -> None:
    assert fingerprint.fingerprints() == fingerprint.KNOWN


def test_a_function_that_changed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(fingerprint.KNOWN, "Broker.shutdown", "another")
    fingerprint.check.cache_clear()
    with pytest.raises(BrokerError, match=r"Broker\.shutdown changed"):
        fingerprint.check()
    fingerprint.check.cache_clear()


def test_every_method_that_our_broker_overrides_is_watched() -> None:
    overridden = {name for name in vars(broker.Broker) if name in vars(AmqttBroker) and not name.startswith("__")}
    assert overridden <= {name.removeprefix("Broker.") for name in fingerprint.KNOWN}
