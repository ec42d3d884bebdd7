"""A bridge's settings file is read, and its errors are named."""

import subprocess
from pathlib import Path

import pytest
from facewire_process import FACEWIRE, ask
from shown_commands import blocks

from facewire.photographs import Photograph
from facewire_bridge.member import poison_of, store_path
from facewire_bridge.settings import BridgeSettings, read_settings
from facewire_bridge.tables import SettingsError

GATE = '[mqtt-face.device.gate-1]\nid = "7"\nzone = "Asia/Shanghai"\n'


def read(folder: Path, text: str) -> BridgeSettings:
    path = folder / "bridge.toml"
    path.write_text(text)
    return read_settings(path)


def test_the_page_shows_a_file_that_can_be_read(tmp_path: Path) -> None:
    (tmp_path / "bridge.secret").write_text("s3cret\n")
    (text,) = blocks((Path(__file__).parent.parent / "docs" / "bridges.md").read_text(), "toml")
    settings = read(tmp_path, text)
    assert [device.name for device in (*settings.face, *settings.sophon)] == ["gate-1", "hall-1", "hall-2"]
    assert (settings.broker.password, settings.face_broker.host, settings.face[0].zone.key) == ("s3cret", "10.0.0.5", "Asia/Shanghai")
    assert settings.listen == ("0.0.0.0", 8088)  # noqa: S104  # as the page has it
    assert "of-the-path" not in repr(settings)
    assert "s3cret" not in repr(settings)


def test_the_terminals_broker_is_facewires_unless_it_is_named(tmp_path: Path) -> None:
    settings = read(tmp_path, f'[broker]\nhost = "10.0.0.1"\n{GATE}')
    assert settings.face_broker == settings.broker
    assert settings.stores == tmp_path / "stores"


def test_a_device_has_its_own_id_or_its_name(tmp_path: Path) -> None:
    settings = read(tmp_path, '[sophon.device.hall-1]\n[sophon.device.hall-2]\nid = "x"\n')
    assert [device.id for device in settings.sophon] == ["hall-1", "x"]


def test_a_secret_may_be_in_a_file_that_a_variable_leads_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    (tmp_path / "password").write_text("s3cret\nmore\n")
    settings = read(tmp_path, f'[broker]\nusername = "b"\npassword_file = "$CREDENTIALS_DIRECTORY/password"\n{GATE}')
    assert settings.broker.password == "s3cret"  # noqa: S105


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[", "Invalid initial character"),
        ("colour = 1", "unknown setting 'colour'"),
        ("[brokr]", "unknown setting 'brokr'. Did you mean 'broker'?"),
        ("[broker]\nport = 0", "[broker]: port 0 is not from 1 to 65535"),
        ('[broker]\nport = "x"', "[broker]: port 'x' is not an integer"),
        ('[broker]\npassword = "x"', "[broker]: password needs a username"),
        ('[broker]\nusername = "u"\npassword_file = "none"', "password_file 'none' cannot be read: No such file"),
        ('[broker]\ncafile = "none"', "[broker]: TLS none: No such file"),
        ('[broker]\nroot = "a//b"', "[broker]: root 'a//b': root 'a//b' is not"),
        ("[mqtt-face.device.gate-1]", "device 'gate-1': zone is missing"),
        ('[mqtt-face.device.gate-1]\nzone = "Mars"', "zone 'Mars': there is no such zone"),
        (f'{GATE}keep = ["name"]', "keep 'name' is not one of idCard, telnum"),
        (f"{GATE}resum = true", "device 'gate-1': unknown setting 'resum'. Did you mean 'resume'?"),
        (f'{GATE}since = "yesterday"', "since 'yesterday': time 'yesterday' is not YYYY-MM-DD hh:mm:ss"),
        (f"{GATE}capacity = 0", "capacity 0 is not from 1 to 100000000"),
        (f"{GATE}threshold = true", "threshold True is not a number"),
        ('[mqtt-face.device."a b"]\nzone = "UTC"', "name device 'a b' is not"),
        ("[mqtt-face]\ndevice = {a = 1}", "device.a 1 is not a table"),
        ("[sophon.device.hall-1]\nversion = 3", "version 3 is not one of 2, 5, 6"),
        ('[sophon.device.hall-1]\napi = "http://x"', "version 2 has neither api nor websocket"),
        ('[sophon.device.hall-1]\nversion = 5\nwebsocket = "ws://x"', "websocket needs api or cameras"),
        ('[sophon.device.hall-1]\nversion = 5\napi = "x"', "api 'x': is not http://HOST[:PORT]"),
        *(
            (f"[{table}]\nlisten = {text!r}", f"listen {text!r}: {text!r} is not HOST:PORT with a port up to 65535")
            for table in ("sophon", "http")
            for text in ("x", "a:b:80", "[::1:80", "::1:80", "host:65536", ":80", "a b:80")
        ),
        (f'{GATE}[sophon.device.gate-1]\nid = "b"', "gate-1 is there twice"),
        ('[sophon.device.a]\nid = "b"\n[sophon.device.b]', "the devices a and b have the same id 'b'"),
        ('[sophon.device.a]\nid = "b/c"', "id 'b/c' is empty or holds one of"),
    ],
)
def test_a_wrong_setting_is_named(tmp_path: Path, text: str, reason: str) -> None:
    with pytest.raises(SettingsError) as caught:
        read(tmp_path, text)
    assert reason in str(caught.value)
    assert str(tmp_path / "bridge.toml") in str(caught.value)


def test_a_file_that_is_no_toml_is_called_so(tmp_path: Path) -> None:
    (tmp_path / "events.jsonl").write_text('{"score": 1}\n')
    with pytest.raises(SettingsError, match=f"^{tmp_path}/events.jsonl: is no TOML: "):
        read_settings(tmp_path / "events.jsonl")


def test_check_shows_the_devices(tmp_path: Path) -> None:
    (tmp_path / "bridge.toml").write_text(GATE)
    done = subprocess.run([*FACEWIRE, "bridge", "check", tmp_path / "bridge.toml"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "mqtt-face gate-1: id 7, zone Asia/Shanghai, resume on\n")
    (tmp_path / "bridge.toml").write_text(f"{GATE}x = 1\n")
    done = subprocess.run([*FACEWIRE, "bridge", "check", tmp_path / "bridge.toml"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "unknown setting 'x'" in done.stderr


def test_poison_lists_the_records_that_could_be_no_event(tmp_path: Path) -> None:
    (tmp_path / "bridge.toml").write_text(GATE)
    raw = Photograph("ab" * 32, "application/octet-stream", b"noise")
    (tmp_path / "stores").mkdir()
    poison_of(store_path(tmp_path / "stores", "gate-1")).keep([raw])
    (row,) = ask("bridge", "poison", tmp_path / "bridge.toml")
    assert (row["device"], row["bytes"], row["sha256"]) == ("gate-1", 5, raw.sha256)
    assert Path(row["file"]).read_bytes() == b"noise"
