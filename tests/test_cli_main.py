import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

from facewire.errors import CredentialsRefused, StoreError
from facewire_cli import main as entry
from facewire_cli.main import COMMANDS, cli, read_settings


def run(*words: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([sys.executable, "-P", "-m", "facewire_cli", *words], capture_output=True, text=True, check=False)


def modules_after(statement: str) -> set[str]:
    code = f"{statement}\nimport sys\nprint(*sys.modules)"
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True)
    return {name.partition(".")[0] for name in done.stdout.split()}


def test_the_device_imports_neither_the_broker_nor_what_the_platform_needs() -> None:
    # Which a device does not install, and peewee imports wherever it is.
    without = "import sys; sys.modules['psycopg'] = None"
    loaded = modules_after(f"{without}\nimport facewire_cli.main, facewire_device_cli.device")
    assert {"paho", "peewee", "msgpack", "click"} <= loaded
    assert loaded & {"amqtt", "rich", "facewire_broker", "facewire_platform", "asyncio"} == set()


def test_help_imports_no_command() -> None:
    assert not {"facewire_device", "facewire_platform", "facewire_broker", "paho"} & modules_after("import facewire_cli.main")


def test_every_command_can_be_loaded() -> None:
    with click.Context(cli) as ctx:
        for name in COMMANDS:
            command = cli.get_command(ctx, name)
            assert command is not None
            assert command.name == name


def test_an_unknown_command_suggests_the_near_miss() -> None:
    done = run("statsu")
    assert done.returncode == 2
    assert "Did you mean 'status'?" in done.stderr


def test_an_option_of_all_commands_behind_the_command_is_told_its_place() -> None:
    done = run("device", "status", "--log-level", "error")
    assert done.returncode == 2
    assert "--log-level goes before the command: facewire --log-level … COMMAND" in done.stderr


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(COMMANDS, "broker", ("a_module_that_is_not_there:broker", "", "broker"))
    result = CliRunner().invoke(cli, ["broker", "run"])
    assert result.exit_code == 1
    assert "pip install 'facewire[broker]'" in result.output


def settings(tmp_path: Path, text: str) -> dict[str, Any]:
    path = tmp_path / "facewire.toml"
    path.write_text(text)
    with click.Context(cli) as ctx:
        return read_settings(path, cli, ctx)


def test_settings_become_defaults_of_their_command(tmp_path: Path) -> None:
    assert settings(tmp_path, '[device.run]\ncatch-up = 5\nperiod = "30s"') == {"device": {"run": {"catch_up": 5, "period": "30s"}}}


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("[device.run]\ntreshold = 1", r"device: run: unknown setting 'treshold'\. Did you mean 'threshold'\?"),
        ("[devise.run]\nperiod = 30", r"unknown setting 'devise'\. Did you mean 'device'\?"),
        ("xyzzy = 1", r"unknown setting 'xyzzy'$"),
        ("[device", r"facewire\.toml: "),
    ],
)
def test_an_unknown_setting_is_an_error_that_suggests_the_near_miss(tmp_path: Path, text: str, complaint: str) -> None:
    with pytest.raises(click.UsageError, match=complaint):
        settings(tmp_path, text)


def test_flag_wins_over_environment_over_file(tmp_path: Path) -> None:
    path = tmp_path / "facewire.toml"
    path.write_text("[device.run]\nperiod = 11")
    words = ["--config", str(path), "device", "run", "--id", "a", "--store", str(tmp_path / "s")]
    assert "11 s is below" in CliRunner().invoke(cli, words).output
    by_environment = CliRunner(env={"FACEWIRE_DEVICE_RUN_PERIOD": "12"}).invoke(cli, words, auto_envvar_prefix="FACEWIRE")
    assert "12 s is below" in by_environment.output
    assert "13 s is below" in CliRunner(env={"FACEWIRE_DEVICE_RUN_PERIOD": "12"}).invoke(cli, [*words, "--period", "13"]).output


@pytest.mark.parametrize(
    ("raised", "code"),
    [
        (click.UsageError("x"), 2),
        (StoreError("x"), 1),
        (CredentialsRefused("x"), 5),
        (KeyboardInterrupt(), 130),
        (click.exceptions.Exit(124), 124),
    ],
)
def test_each_end_has_its_exit_code(raised: BaseException, code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(**_: object) -> None:
        raise raised

    monkeypatch.setattr(entry.cli, "main", fail)
    assert entry._run() == code
