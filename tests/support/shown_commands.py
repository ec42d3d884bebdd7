"""The commands that a page of the documentation shows, typed in as its reader would.

```sh                 typed into one shell, one block after the other
facewire status       a block that ends with & leaves a job running
```
```python             given to python in the same folder
```text               the output of the block right before it, as a terminal shows it:
device  … ago         … stands for what varies in a line, alone for any number of lines
```                   (of a job, the beginning)
"""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import click

from facewire_cli.main import cli

BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$(?:\n+```text\n(.*?)^```$)?", re.MULTILINE | re.DOTALL)


class Step(NamedTuple):
    """A block of a page, and the output that the page shows for it."""

    language: str
    code: str
    shown: str | None

    @property
    def is_job(self) -> bool:
        return self.code.rstrip().endswith("&")


def steps(page: str) -> list[Step]:
    """The blocks of a page that its reader types."""
    found = (Step(language, code, shown or None) for language, code, shown in BLOCK.findall(page))
    return [step for step in found if step.language in {"sh", "python"}]


def blocks(page: str, language: str = "sh") -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)


def commands(ctx: click.Context | None = None) -> Iterator[tuple[tuple[str, ...], click.Context]]:
    """The words of every command that is no group, and the context in which it would run."""
    ctx = ctx or cli.make_context("facewire", [], resilient_parsing=True)
    if not isinstance(ctx.command, click.Group):
        yield tuple(ctx.command_path.split()[1:]), ctx
        return
    for name in ctx.command.list_commands(ctx):
        command = ctx.command.get_command(ctx, name)
        assert command is not None
        yield from commands(command.make_context(name, [], parent=ctx, resilient_parsing=True))


def operating_commands(section: str) -> str:
    """The commands of one section of docs/operating.md."""
    page = Path(__file__).parents[2] / "docs" / "operating.md"
    shown = blocks(page.read_text(encoding="utf-8").partition(f"\n## {section}\n")[2].partition("\n## ")[0])
    assert shown, section
    return "".join(shown)


def environment(**more: str) -> dict[str, str]:
    """With our `facewire`, and as safe as `make` has it."""
    return {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "PYTHONSAFEPATH": "1", **more}


def as_on_a_terminal() -> dict[str, str]:
    """Tables, in the time of the pages."""
    options = ((ctx, param) for _, ctx in commands() for param in ctx.command.params)
    tables = [f"{ctx.auto_envvar_prefix}_{param.name}".upper() for ctx, param in options if "pretty" in getattr(param.type, "choices", ())]
    return {"TZ": "UTC", **dict.fromkeys(tables, "pretty")}


def typed(script: str, folder: Path, **more: str) -> "subprocess.CompletedProcess[str]":
    """Run a script that leaves nothing running; the first command that fails fails the test."""
    done = subprocess.run(
        ["bash", "-c", f"set -eu\n{script}"],
        cwd=folder,
        env=environment(**more),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done


def typed_with_jobs(script: str, folder: Path, within: float, **more: str) -> str:
    """Run a script with background jobs; returns all output. Kills them after `within` seconds."""
    with (folder / "out").open("w+") as out:
        process = subprocess.Popen(
            ["bash", "-c", f"set -eu\n{script}"], cwd=folder, env=environment(**more), stdout=out, stderr=out, start_new_session=True
        )
        try:
            code = process.wait(within)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
    printed = (folder / "out").read_text()
    assert code == 0, printed
    return printed


def play(page: str, folder: Path, changed: Mapping[str, str] | None = None, *, last: str = "", within: float = 120) -> list[str]:
    """Type a page's blocks into one shell, and compare all output that the page shows.

    Args:
        page: its text.
        folder: where the shell starts.
        changed: words of the page, such as ports, and what the test has for them.
        last: typed at the end.
        within: seconds after which nothing of it is left.

    Returns:
        The output of each block.
    """
    for word, other in (changed or {}).items():
        page = page.replace(word, other)
    shown_steps = steps(page)
    outs = [folder / f"out-{number}" for number in range(len(shown_steps))]
    script = ["exec 3>&1", "trap 'cat out-* >&3' ERR", *map(_typed, shown_steps, outs), "exec >&3 2>&1", last]
    typed_with_jobs("\n".join(script), folder, within, **as_on_a_terminal())
    printed = [out.read_text(encoding="utf-8") for out in outs]
    assert "Traceback" not in "".join(printed), printed
    for step, text in zip(shown_steps, printed, strict=True):
        if step.shown is not None:
            check_shown(step.shown, text, begins=step.is_job)
    return printed


def check_shown(shown: str, printed: str, *, begins: bool = False) -> None:
    """Compare output with what a page shows of it, however wide its columns are."""
    lines = [" ".join(line.split()) for line in printed.strip().splitlines()]
    pattern = "".join("(?:.*\n)*?" if line.strip() == "…" else f"{_pattern(line)}\n" for line in shown.strip().splitlines())
    found = re.match(pattern if begins else f"{pattern}\\Z", "".join(f"{line}\n" for line in lines))
    assert found, f"The page shows:\n{shown}\nIt prints:\n{printed}"


def _pattern(line: str) -> str:
    return re.escape(" ".join(line.split())).replace("…", ".*")


def _typed(step: Step, out: Path) -> str:
    """The shell's text for a step: its output goes into a file of its own, a job's from then on."""
    code = f"python - <<'PYTHON'\n{step.code}PYTHON\n" if step.language == "python" else step.code
    wait = ""
    if step.is_job and step.shown:  # as a reader would
        lines = len(step.shown.strip().splitlines())
        wait = f"for _ in $(seq 200); do [ $(wc -l < '{out.name}') -ge {lines} ] && break; sleep 0.1; done\n"
    return f"exec > '{out}' 2>&1\n{code}{wait}"
