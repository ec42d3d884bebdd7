"""A bridge's settings: a TOML file with a table for each foreign device.

stores = "/var/lib/facewire-bridge"      # a store for each device, its photographs beside it

[broker]                                 # facewire's
host = "127.0.0.1"
username = "bridge-1"
password_file = "/etc/facewire/bridge.secret"

[mqtt-face]                              # the terminals' broker; without it, facewire's
host = "10.0.0.5"

[mqtt-face.device.gate-1]                # the name of the facewire device
id = "1099001"                           # the device's own
zone = "Asia/Shanghai"
"""

import importlib
import tomllib
import zoneinfo
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from facewire.endpoint import MAX_PORT, PORT, TLS_PORT, Endpoint, parse_endpoint
from facewire.topics import DEFAULT_ROOT, Topics, check_device
from facewire_bridge.clock import read_local
from facewire_bridge.family import Family
from facewire_bridge.mqtt_face import DEFAULT_PREFIX, PRIVATE
from facewire_bridge.tables import SettingsError, Table
from facewire_device.store import MAX_CAPACITY
from facewire_mqtt.address import Address, tls_context
from facewire_system.failures import reason_of

#: A bridge stands for devices that forget once they are acked, so it holds more than a device does.
DEFAULT_CAPACITY: Final = 100_000
DEFAULT_PHOTO_BYTES: Final = 1 << 30
_MOST_PHOTO_BYTES: Final = 1 << 44
_ADDRESS_KEYS: Final = frozenset({"host", "port", "username", "password", "password_file", "cafile", "cert", "key"})
_VERSIONS: Final = (2, 5, 6)


@dataclass(frozen=True, slots=True)
class Device:
    """The settings that all families have.

    Attributes:
        name: of the facewire device.
        id: of the foreign device.
        threshold: a score above it (strictly) may be a match.
        capacity: events in its store.
        photo_bytes: bytes that its folder of photographs may hold.
        credential: user name and password at facewire's broker; None for those of `[broker]`.
    """

    name: str
    id: str
    threshold: float | None = None
    capacity: int = DEFAULT_CAPACITY
    photo_bytes: int = DEFAULT_PHOTO_BYTES
    credential: tuple[str, str | None] | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class FaceDevice(Device):
    """A terminal of the mqtt/face family.

    Attributes:
        zone: the zone of its clock.
        resume: whether `ResumefromBreakpoint` is on in it: it repeats each record until its ack.
        keep: private fields to keep.
        since: local time; a new store asks for its records from then on. Empty: it does not ask.
    """

    zone: zoneinfo.ZoneInfo = zoneinfo.ZoneInfo("UTC")  # noqa: RUF009  # frozen
    resume: bool = True
    keep: frozenset[str] = frozenset()
    since: str = ""


@dataclass(frozen=True, slots=True)
class SophonDevice(Device):
    """A SophonAI box.

    Attributes:
        version: its firmware's: 2, 5 or 6.
        secret: stands in the paths that it posts to, after its id; empty for none.
        api: URL of its event API; empty if it only pushes.
        websocket: URL of its realtime events; empty for none.
        cameras: ids of its cameras; empty to ask its API.
        login: URL of the bridge, for the answer to its login; empty to answer none.
        rabbitmq: settings of the owner's RabbitMQ, for that answer.
    """

    version: int = 2
    secret: str = field(default="", repr=False)
    api: str = ""
    websocket: str = ""
    cameras: tuple[str, ...] = ()
    login: str = ""
    rabbitmq: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class PushDevice(Device):
    """A box of a family that posts over HTTP.

    Attributes:
        family: reads its posts.
        zone: the zone of its clock.
        secret: stands in the paths that it posts to, after its id; empty for none.
    """

    family: Family = field(kw_only=True)
    zone: zoneinfo.ZoneInfo = zoneinfo.ZoneInfo("UTC")  # noqa: RUF009  # frozen
    secret: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class BridgeSettings:
    """A whole file.

    Attributes:
        stores: folder of the devices' stores.
        set_aside_damaged: whether a damaged store is renamed and a new one made: its box may send
            the same records again.
        broker: facewire's.
        as_device: whether each device logs in under its own name, with the bridge's secret.
        topics: under facewire's root.
        face_broker: the broker of the mqtt/face terminals.
        prefix: first levels of their topics.
        face: the terminals.
        listen: where SophonAI boxes post to.
        sophon: the SophonAI boxes.
        http_listen: where boxes of other families post to.
        http: the boxes of other families.
    """

    stores: Path
    set_aside_damaged: bool
    broker: Address
    as_device: bool
    topics: Topics
    face_broker: Address
    prefix: str
    face: tuple[FaceDevice, ...]
    listen: Endpoint
    sophon: tuple[SophonDevice, ...]
    http_listen: Endpoint
    http: tuple[PushDevice, ...]

    @property
    def devices(self) -> tuple[Device, ...]:
        """The devices of all families."""
        return (*self.face, *self.sophon, *self.http)


def read_settings(path: Path) -> BridgeSettings:
    """Read a settings file.

    Raises:
        SettingsError: it cannot be read, or something in it is wrong or unknown.
    """
    try:
        top = Table(tomllib.loads(path.read_text()), str(path), path.parent)
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as exc:
        reason = reason_of(exc) if isinstance(exc, OSError) else f"is no TOML: {exc}"
        raise SettingsError(f"{path}: {reason}") from exc
    with top, top.table("broker") as broker, top.table("mqtt-face") as face, top.table("sophon") as sophon, top.table("http") as http:
        facewire_broker = _address(broker)
        settings = BridgeSettings(
            stores=path.parent / top.pop("stores", str, "stores"),
            set_aside_damaged=top.pop("set_aside_damaged", bool, False),
            broker=facewire_broker,
            as_device=broker.pop("as_device", bool, False),
            topics=broker.parse("root", Topics, DEFAULT_ROOT),
            face_broker=_address(face) if face.has(_ADDRESS_KEYS) else facewire_broker,
            prefix=face.pop("prefix", str, DEFAULT_PREFIX).strip("/"),
            face=tuple(_face_device(name, table) for name, table in face.tables("device")),
            listen=sophon.parse("listen", parse_endpoint, "127.0.0.1:8088"),
            sophon=tuple(_sophon_device(name, table) for name, table in sophon.tables("device")),
            http_listen=http.parse("listen", parse_endpoint, "127.0.0.1:8089"),
            http=tuple(_push_device(name, table) for name, table in http.tables("device")),
        )
    _check_unique(settings, str(path))
    return settings


def _address(table: Table) -> Address:
    username, password = table.pop_optional("username", str), table.secret("password")
    if password is not None and username is None:
        raise table.error("password", "needs a username (MQTT 3.1.1 section 3.1.2.9)")
    files = {key: table.pop_optional(key, str) for key in ("cafile", "cert", "key")}
    port = table.pop("port", int, TLS_PORT if any(files.values()) else PORT)
    if not 1 <= port <= MAX_PORT:
        raise table.error("port", f"{port} is not from 1 to {MAX_PORT}")
    address = Address(host=table.pop("host", str, "127.0.0.1"), port=port, username=username, password=password, **files)
    try:
        tls_context(address)
    except ValueError as exc:
        raise table.error("TLS", str(exc)) from exc
    return address


def _common(name: str, table: Table, *, threshold: float | None) -> dict[str, Any]:
    """The settings that every device has."""
    try:
        check_device(name)
    except ValueError as exc:
        raise table.error("name", str(exc)) from exc
    username, password = table.pop_optional("username", str), table.secret("password")
    return {
        "name": name,
        "id": table.pop("id", str, name),
        "threshold": threshold if (given := table.pop_optional("threshold", float)) is None else given,
        "capacity": _positive(table, "capacity", DEFAULT_CAPACITY, MAX_CAPACITY),
        "photo_bytes": _positive(table, "photo_bytes", DEFAULT_PHOTO_BYTES, _MOST_PHOTO_BYTES),
        "credential": None if username is None else (username, password),
    }


def _positive(table: Table, key: str, default: int, most: int) -> int:
    value = table.pop(key, int, default)
    if not 1 <= value <= most:
        raise table.error(key, f"{value} is not from 1 to {most}")
    return value


def _face_device(name: str, table: Table) -> FaceDevice:
    with table:
        keep = frozenset(map(str, table.pop("keep", list, [])))
        if strange := sorted(keep - PRIVATE):
            raise table.error("keep", f"{strange[0]!r} is not one of {', '.join(sorted(PRIVATE))}")
        if not table.has(["zone"]):
            raise table.error("zone", 'is missing: the device sends local time without one; give its own, such as zone = "Asia/Shanghai"')
        return FaceDevice(
            **_common(name, table, threshold=0.0),
            zone=table.parse("zone", _zone, "UTC"),
            resume=table.pop("resume", bool, True),
            keep=keep,
            since=table.parse("since", _local_time, ""),
        )


def _sophon_device(name: str, table: Table) -> SophonDevice:
    with table:
        version = table.pop("version", int, 2)
        if version not in _VERSIONS:
            raise table.error("version", f"{version} is not one of {', '.join(map(str, _VERSIONS))}")
        device = SophonDevice(
            # An SE3 posts as realtime only events above its own threshold. The others send all
            # events, and tell their threshold.
            **_common(name, table, threshold=0.0 if version == 2 else None),
            version=version,
            secret=table.secret("secret") or "",
            api=table.parse("api", _url("http", "https"), ""),
            websocket=table.parse("websocket", _url("ws", "wss"), ""),
            cameras=tuple(map(str, table.pop("cameras", list, []))),
            login=table.parse("login", _url("http", "https"), ""),
            rabbitmq=table.pop("rabbitmq", dict, {}),
        )
        if version == 2 and (device.api or device.websocket):
            raise table.error("version", "2 has neither api nor websocket: it only posts")
        if device.websocket and not device.api and not device.cameras:
            raise table.error("websocket", "needs api or cameras: the box sends nothing until it is told its cameras")
        return device


def _push_device(name: str, table: Table) -> PushDevice:
    with table:
        return PushDevice(
            **_common(name, table, threshold=0.0),
            family=table.parse("family", _family, ""),
            zone=table.parse("zone", _zone, "UTC"),
            secret=table.secret("secret") or "",
        )


def _local_time(text: str) -> str:
    if text:
        read_local(text, zoneinfo.ZoneInfo("UTC"))
    return text


def _family(text: str) -> Family:
    """Import the family of a module, which anybody may have written."""
    try:
        family = importlib.import_module(text).FAMILY if text else None
    except (ImportError, AttributeError) as exc:
        raise ValueError(f"cannot be used: {exc}") from exc
    if not isinstance(family, Family):
        raise ValueError("is not the name of a module with a FAMILY, such as my_boxes")  # noqa: TRY004  # of a setting
    return family


def _zone(text: str) -> zoneinfo.ZoneInfo:
    try:
        return zoneinfo.ZoneInfo(text)
    except (zoneinfo.ZoneInfoNotFoundError, OSError) as exc:
        raise ValueError("there is no such zone; it is a name such as Asia/Shanghai") from exc


def _url(*schemes: str) -> Callable[[str], str]:
    def read(text: str) -> str:
        if text and (urlsplit(text).scheme not in schemes or not urlsplit(text).hostname):
            raise ValueError(f"is not {schemes[0]}://HOST[:PORT]")
        return text.rstrip("/")

    return read


def _check_unique(settings: BridgeSettings, where: str) -> None:
    devices = settings.devices
    by_name: dict[str, Device] = {}
    for device in devices:
        if by_name.setdefault(device.name, device) is not device:
            raise SettingsError(f"{where}: device {device.name} is there twice")
    by_id: dict[tuple[type[Device], str], Device] = {}
    for device in devices:
        if (one := by_id.setdefault((type(device), device.id), device)) is not device:
            raise SettingsError(f"{where}: the devices {one.name} and {device.name} have the same id {one.id!r}")
    if bad := next((device.id for device in devices if not device.id or set(device.id) & set("/+#?%")), None):
        raise SettingsError(f"{where}: id {bad!r} is empty or holds one of / + # ? %")
