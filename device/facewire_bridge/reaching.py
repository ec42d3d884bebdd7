"""Tries the connections that a bridge's settings name: `facewire bridge check --connect`. Blocks.

    facewire's broker   session, credential, right to the acks of the devices
    terminals' broker   session, credential, right to the messages of terminals
    listen              the address is free, or a bridge of ours has it
    api, websocket      the box answers

It publishes nothing, and writes nothing to a box. Its messages hold no secret: they show only host
and port of a URL.
"""

import contextlib
import http.client
import json
import socket
from collections.abc import Iterator, Sequence
from typing import Final
from urllib.parse import urlsplit

from facewire.endpoint import Endpoint
from facewire.errors import BrokerError, CredentialsRefused, SubscriptionRefused
from facewire.finding import Finding
from facewire_bridge import mqtt_face, sophon
from facewire_bridge.members import address_of
from facewire_bridge.settings import BridgeSettings, SophonDevice
from facewire_mqtt.address import Address
from facewire_mqtt.visit import Visit, remedy_of
from facewire_system.failures import reason_of

#: How long a box or a server may take to answer, s.
_PATIENCE: Final = 5.0
#: Most bytes of an answer that we read.
_MOST_ANSWER: Final = 4 << 20
_NO_PATH: Final = b'{"status":404,"message":"no such path"}'
_PORTS: Final = {"http": 80, "https": 443, "ws": 80, "wss": 443}


def check_connections(settings: BridgeSettings) -> Iterator[Finding]:
    """Try each connection that the bridges of a settings file need."""
    yield from _check_own_broker(settings)
    if settings.face:
        filters = [(name, 0) for name in mqtt_face.subscriptions(settings.prefix)]
        lacks = "it may not receive the messages of terminals: on our broker it needs the role bridge"
        yield _check_broker("terminals' broker", settings.face_broker, filters, lacks)
    if settings.sophon:
        yield _check_listen("sophon listen", settings.listen)
    if settings.http:
        yield _check_listen("http listen", settings.http_listen)
    for box in settings.sophon:
        if box.api:
            yield _check_api(box)
        if box.websocket:
            yield _check_websocket(box)


def _check_own_broker(settings: BridgeSettings) -> Iterator[Finding]:
    acks: dict[Address, list[tuple[str, int]]] = {}
    for device in settings.devices:
        acks.setdefault(address_of(settings, device), []).append((settings.topics.of(device.name, "ack"), 1))
    for address, filters in acks.items():
        lacks = "name all devices: facewire broker users add NAME --role bridge --devices …"
        yield _check_broker("broker", address, filters, lacks)


def _check_broker(check: str, address: Address, filters: Sequence[tuple[str, int]], lacks: str) -> Finding:
    user = address.username or "nobody"
    try:
        with Visit(address, "fw-check", filters):
            return Finding(check, "ok", f"{address} accepts {user}")
    except CredentialsRefused as exc:
        return Finding(check, "FAIL", f"{user}: {exc}", "check username and password; see facewire broker users list, passwd")
    except SubscriptionRefused as exc:
        return Finding(check, "FAIL", f"{user}: {exc}", lacks)
    except BrokerError as exc:
        if "dentifier" in str(exc):  # "identifier rejected", MQTT 3.1.1 section 3.2.2.3
            return Finding(check, "warn", f"{address} answers, but {user} is bound to a device's client id: not tried", "start the bridge")
        return Finding(check, "FAIL", str(exc), remedy_of(exc))


def _check_listen(check: str, listen: Endpoint) -> Finding:
    try:
        with socket.create_server(listen, family=socket.AF_INET6 if ":" in listen.host else socket.AF_INET):
            return Finding(check, "ok", f"{listen} is free")
    except OSError as exc:
        if _is_bridge(*listen):
            return Finding(check, "ok", f"a bridge listens on {listen} already")
        remedy = "stop the process that listens there, or give another address in listen"
        return Finding(check, "FAIL", f"cannot listen on {listen}: {reason_of(exc)}", remedy)


def _is_bridge(host: str, port: int) -> bool:
    # It may listen on all addresses: nobody can connect to that one, so we take the loopback.
    connection = http.client.HTTPConnection({"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host), port, timeout=_PATIENCE)  # noqa: S104
    with contextlib.closing(connection), contextlib.suppress(OSError, http.client.HTTPException):
        connection.request("GET", "/")
        return connection.getresponse().read(1000) == _NO_PATH
    return False


def _check_api(box: SophonDevice) -> Finding:
    check, where = f"{box.name} api", _endpoint(box.api)
    remedy = "is it the box's address, and is its version right?"
    url = urlsplit(box.api)
    kind = http.client.HTTPSConnection if url.scheme == "https" else http.client.HTTPConnection
    method, path, body = ("GET", sophon.V5_CAMERAS, None) if box.version == 5 else ("POST", sophon.V6_CAMERAS, "{}")
    connection = kind(str(url.hostname), url.port, timeout=_PATIENCE)
    try:
        connection.request(method, url.path + path, body, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        if answer.status != http.client.OK:
            return Finding(check, "FAIL", f"{where}{path} answers with {answer.status}", remedy)
        cameras = sophon.cameras(json.loads(answer.read(_MOST_ANSWER)))
    except (OSError, http.client.HTTPException) as exc:
        return Finding(check, "FAIL", f"cannot reach {where}: {reason_of(exc) if isinstance(exc, OSError) else type(exc).__name__}", remedy)
    except ValueError:
        return Finding(check, "FAIL", f"{where}{path} is not answered in JSON", remedy)
    finally:
        connection.close()
    if not cameras and not box.cameras:
        return Finding(check, "warn", f"{where} answers, but names no camera", "add its cameras, or name them in cameras")
    return Finding(check, "ok", f"{where} answers, cameras: {len(cameras)}")


def _check_websocket(box: SophonDevice) -> Finding:
    check, where, url = f"{box.name} websocket", _endpoint(box.websocket), urlsplit(box.websocket)
    try:
        with socket.create_connection((str(url.hostname), url.port or _PORTS[url.scheme]), _PATIENCE):
            return Finding(check, "ok", f"{where} can be reached")
    except OSError as exc:
        return Finding(check, "FAIL", f"cannot reach {where}: {reason_of(exc)}", "is it the box's address?")


def _endpoint(text: str) -> str:
    """Host and port of a URL, which may hold a user's password."""
    url = urlsplit(text)
    return f"{url.hostname}:{url.port or _PORTS[url.scheme]}"
