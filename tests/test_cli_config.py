import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result

from facewire_cli.main import COMMANDS, cli

TYPED = "xyzzy"
SETTINGS = """
log-level = "debug"
[platform.run]
database = "postgresql://me:secret@db/x?password=secret"
[device.run]
period = "30s"
"""


def run(*words: str, **environment: str) -> Result:
    # The environment of the tests has variables of its own.
    others = {name: None for name in os.environ if name.startswith("FACEWIRE_")}
    return CliRunner(env={**others, **environment}).invoke(cli, words, auto_envvar_prefix="FACEWIRE")


def settings_of(result: Result) -> dict[tuple[str, str], tuple[Any, str]]:
    assert result.exit_code == 0, result.output
    rows = [json.loads(line) for line in result.stdout.splitlines()]
    return {(row["command"], row["setting"]): (row["value"], row["source"]) for row in rows}


@pytest.fixture
def file(tmp_path: Path) -> str:
    (tmp_path / "facewire.toml").write_text(SETTINGS)
    return str(tmp_path / "facewire.toml")


def test_settings_are_shown_with_their_source(file: str) -> None:
    assert settings_of(run("--config", file, "config", "show", FACEWIRE_TAIL_HOST="broker.lan", FACEWIRE_LOG_FORMAT="json")) == {
        ("", "config"): (file, "flag"),
        ("", "log_level"): ("debug", "file"),
        ("", "log_format"): ("json", "environment"),
        ("device run", "period"): (30.0, "file"),
        ("platform run", "database"): ("postgresql://me:***@db/x?password=***", "file"),
        ("doctor", "database"): ("postgresql://me:***@db/x?password=***", "file"),  # it looks at what the worker has
        ("tail", "host"): ("broker.lan", "environment"),
    }


def test_show_lists_all_settings_of_a_command_with_its_flags(file: str) -> None:
    shown = settings_of(run("--config", file, "config", "show", "device", "run", "--capacity", "500", FACEWIRE_DEVICE_RUN_PASSWORD=TYPED))
    assert shown["device run", "period"] == (30.0, "file")
    assert shown["device run", "capacity"] == (500, "flag")
    assert shown["device run", "password"] == ("***", "environment")
    assert shown["device run", "host"] == ("127.0.0.1", "default")
    assert shown["device run", "username"] == (None, "default")


def test_a_default_that_its_command_applies_is_shown(tmp_path: Path) -> None:
    shown = settings_of(run("config", "show", "device", "run"))
    assert (shown["device run", "port"], shown["device run", "capacity"]) == ((1883, "default"), (10_000, "default"))
    assert shown["device run", "threshold"] == ("no matches, history only", "default")
    (tmp_path / "ca.pem").touch()
    assert settings_of(run("config", "show", "tail", "--cafile", str(tmp_path / "ca.pem")))["tail", "port"] == (8883, "default")


def test_a_flag_wins_over_environment_over_file(file: str) -> None:
    words = ["--config", file, "config", "show", "device", "run"]
    assert settings_of(run(*words, FACEWIRE_DEVICE_RUN_PERIOD="40"))["device run", "period"] == (40.0, "environment")
    assert settings_of(run(*words, "--period", "50", FACEWIRE_DEVICE_RUN_PERIOD="40"))["device run", "period"] == (50.0, "flag")


def test_a_group_is_not_a_command() -> None:
    done = run("config", "show", "broker")
    assert done.exit_code == 2
    assert "facewire broker is a group" in done.stderr.replace("cli ", "facewire ")


def test_check_names_unknown_variables_and_bad_values(file: str) -> None:
    done = run("--config", file, "config", "check", FACEWIRE_TAIL_HOTS="x", FACEWIRE_TAIL_COUNT="many", FACEWIRE_DEVICE_RUN_PERIOD="soon")
    assert done.exit_code == 2
    unknown, period, count = done.stderr.splitlines()
    assert unknown == "FACEWIRE_TAIL_HOTS: no command has such a setting. Did you mean FACEWIRE_TAIL_HOST?"
    assert period.startswith("device run period, from the environment: 'soon' is not a duration")
    assert count.startswith("tail count, from the environment: 'many' is not")


def test_check_says_that_all_is_fine(file: str) -> None:
    done = run("--config", file, "config", "check")
    assert (done.exit_code, done.stderr) == (0, "all settings are fine\n")


def test_the_level_of_the_log_is_a_setting_of_the_file_too(file: str) -> None:
    words = [sys.executable, "-P", "-m", "facewire_cli", "--config", file, "config", "show"]
    assert '"log_level"' in subprocess.run(words, capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_each_shell_gets_its_completion_script(shell: str) -> None:
    done = run("completion", shell)
    assert done.exit_code == 0
    assert "_FACEWIRE_COMPLETE" in done.stdout
    if program := shutil.which(shell):
        subprocess.run([program, "-n"], input=done.stdout, text=True, check=True)


@pytest.mark.parametrize(("words", "found"), [("facewire st", "plain,status"), ("facewire device r", "plain,run")])
def test_commands_are_completed(words: str, found: str) -> None:
    asked = {"_FACEWIRE_COMPLETE": "bash_complete", "COMP_WORDS": words, "COMP_CWORD": str(words.count(" "))}
    program = str(Path(sys.executable).parent / "facewire")
    assert found in subprocess.run([program], env=os.environ | asked, capture_output=True, text=True, check=True).stdout


def test_commands_are_completed_even_if_one_cannot_be_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(COMMANDS, "status", ("a_module_that_is_not_there:status", "", "platform"))
    with click.Context(cli) as ctx:
        assert [item.value for item in cli.shell_complete(ctx, "s")] == ["status", "simulate"]
