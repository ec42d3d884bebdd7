"""Fingerprints of the amqtt functions that our broker calls or replaces.

amqtt's internals change between releases: of those that matter here, 15 changed from 0.11.4 to
0.12.1. Another amqtt may do something else behind the same name, so our broker refuses to start on
a version that nobody has reviewed. To accept one, read what changed, run the acceptance suite, and
write the new fingerprints (`python -m facewire_broker.fingerprint`).
"""

import functools
import hashlib
import inspect
import sys
from collections.abc import Iterator
from typing import Any, Final

from amqtt import adapters, broker, codecs_amqtt
from amqtt.mqtt import connack, connect, packet, pingresp, suback, unsuback
from amqtt.plugins.manager import PluginManager

from facewire.errors import BrokerError

#: Methods that ours replace (see `facewire_broker.broker`), or that the rest of amqtt calls.
_BROKER: Final = (
    "__init__", "_init_states", "start", "_start_listeners", "_create_server_instance", "_broadcast_loop",
    "_broadcast_message", "internal_message_broadcast", "retain_message", "_session_monitor", "shutdown",
)  # fmt: skip
_PACKETS: Final = (
    connect.ConnectVariableHeader, connect.ConnectPayload, connect.ConnectPacket,
    connack.ConnackVariableHeader, connack.ConnackPacket,
    suback.SubackPayload, suback.SubackPacket, unsuback.UnsubackPacket, pingresp.PingRespPacket,
    packet.MQTTFixedHeader, packet.MQTTPacket, packet.PacketIdVariableHeader, adapters.BufferReader,
)  # fmt: skip

KNOWN: Final[dict[str, str]] = {
    "Broker.__init__": "5158ff3ca649",
    "Broker._init_states": "a176bbc5ba80",
    "Broker.start": "bd1c165101f6",
    "Broker._start_listeners": "5ac2d716d33b",
    "Broker._create_server_instance": "3925f4823968",
    "Broker._broadcast_loop": "371196a6242c",
    "Broker._broadcast_message": "78ad4edb7efb",
    "Broker.internal_message_broadcast": "737942352c1c",
    "Broker.retain_message": "6233eff2618b",
    "Broker._session_monitor": "5091fa20cdfd",
    "Broker.shutdown": "800adcdd80de",
    "ConnectVariableHeader": "a5f40b714c19",
    "ConnectPayload": "abf45a6bf3ed",
    "ConnectPacket": "57751da91b70",
    "ConnackVariableHeader": "585b90b382a2",
    "ConnackPacket": "9c5250aa81e4",
    "SubackPayload": "80818f0892d5",
    "SubackPacket": "1470debf6c66",
    "UnsubackPacket": "ea2042be5b92",
    "PingRespPacket": "b03beb7fd691",
    "MQTTFixedHeader": "b98fb539893a",
    "MQTTPacket": "4ea94315ded3",
    "PacketIdVariableHeader": "746fdcfef23f",
    "BufferReader": "9a168fc3a998",
    "read_or_raise": "2e310e390988",
    "decode_string": "ee421b381355",
    "decode_data_with_length": "07322308b9e5",
    "decode_packet_id": "afec44eb6972",
    "encode_string": "2af4bec6450c",
    "PluginManager.close": "5ed8c1db32e4",
    "PluginManager._load_plugins": "522ef624ee50",
}


def _watched() -> Iterator[tuple[str, Any]]:
    for name in _BROKER:
        yield f"Broker.{name}", getattr(broker.Broker, name)
    for kind in _PACKETS:
        yield kind.__name__, kind
    for name in ("read_or_raise", "decode_string", "decode_data_with_length", "decode_packet_id", "encode_string"):
        yield name, getattr(codecs_amqtt, name)
    for name in ("close", "_load_plugins"):
        yield f"PluginManager.{name}", getattr(PluginManager, name)


def fingerprints() -> dict[str, str]:
    """Return a hash of each one's source, by name."""
    return {name: hashlib.sha256(inspect.getsource(thing).encode()).hexdigest()[:12] for name, thing in _watched()}


@functools.cache
def check() -> None:
    """Check that amqtt is the version that this broker was written for.

    Raises:
        BrokerError: it is not. The message names what changed.
    """
    try:
        current = fingerprints()
    except (AttributeError, OSError, TypeError) as exc:
        raise BrokerError(f"amqtt is not the version that this broker was written for: {exc}") from exc
    changed = sorted(name for name in KNOWN.keys() | current.keys() if KNOWN.get(name) != current.get(name))
    if changed:
        raise BrokerError(f"amqtt is not the version that this broker was written for: {', '.join(changed)} changed")


if __name__ == "__main__":
    for line in fingerprints().items():
        sys.stdout.write('    "{}": "{}",\n'.format(*line))
