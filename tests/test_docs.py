"""What the documentation shows works: every command in README.md is run, every command there is is shown."""

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import click
import pytest
from broker_engines import free_port
from shown_commands import blocks, environment, typed_with_jobs

from facewire_cli.main import cli

ROOT: Final = Path(__file__).parent.parent
README: Final = (ROOT / "README.md").read_text(encoding="utf-8")
#: The README's broker listens here; the test gives it a free port.
PORT: Final = "1883"
#: The same of its page.
WEB: Final = "8080"


def commands(group: click.Group, words: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    with click.Context(group) as ctx:
        for name in group.list_commands(ctx):
            command = group.get_command(ctx, name)
            if isinstance(command, click.Group):
                yield from commands(command, (*words, name))
            else:
                yield (*words, name)


@pytest.mark.network
@pytest.mark.process
def test_the_commands_of_the_readme_work_one_after_the_other(tmp_path: Path) -> None:
    port = str(free_port())
    script = "\n".join(blocks(README)).replace(PORT, port).replace(WEB, str(free_port()))
    python = (block.replace("threshold=0.8)", f"threshold=0.8, address=Address(port={port}))") for block in blocks(README, "python"))
    script += "\n" + "".join(f"python - <<'PYTHON'\nfrom facewire_mqtt.address import Address\n{block}PYTHON\n" for block in python)
    # Broker and platform are jobs that end well when asked; the tail has ended by itself.
    script += "\nkill %2; wait %2\nkill %1; wait %1\n"
    printed = typed_with_jobs(script, tmp_path, 120)
    assert "Traceback" not in printed, printed
    assert "Recorded(epoch=" in printed
    assert len((tmp_path / "tail.jsonl").read_text().splitlines()) == 4


def test_the_settings_of_the_readme_are_settings(tmp_path: Path) -> None:
    (settings,) = blocks(README, "toml")
    (tmp_path / "settings.toml").write_text(settings)
    command = ["facewire", "--config", str(tmp_path / "settings.toml"), "device", "run", "--help"]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_every_make_target_of_the_readme_exists() -> None:
    targets = set(re.findall(r"make ([a-z]+)", README))
    assert {"demo", "test"} <= targets
    makefile = (ROOT / "Makefile").read_text()
    assert {target for target in targets - {"bench"} if not re.search(rf"^{target}:", makefile, re.MULTILINE)} == set()
    benches = set(re.findall(r"make bench-([a-z]+)", README))
    assert {name for name in benches if not (ROOT / "tests" / "bench" / f"bench_{name}.py").exists()} == set()


@pytest.mark.process
@pytest.mark.parametrize("bench", sorted((ROOT / "tests" / "bench").glob("bench_*.py")), ids=lambda path: path.stem)
def test_every_benchmark_starts_as_make_starts_it(bench: Path) -> None:
    done = subprocess.run(["python", bench, "--help"], env=environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_every_command_is_shown_in_the_documentation() -> None:
    shown = README + "".join(path.read_text(encoding="utf-8") for path in (ROOT / "docs").glob("*.md"))
    assert isinstance(cli, click.Group)
    missing = [" ".join(words) for words in commands(cli) if f"facewire {' '.join(words)}" not in shown]
    assert missing == []


@pytest.mark.parametrize("words", [(), *commands(cli)], ids=" ".join)
def test_help_fits_80_columns(words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    done = subprocess.run(["facewire", *words, "--help"], env=environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert [line for line in done.stdout.splitlines() if len(line) > 80] == []
    assert "-h, --help" not in done.stdout
