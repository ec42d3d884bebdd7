"""The commands that a page of the documentation shows, typed in as its reader would."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path


def blocks(page: str, language: str = "sh") -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)


def environment(**more: str) -> dict[str, str]:
    """With our `facewire`, and as safe as `make` has it."""
    return {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "PYTHONSAFEPATH": "1", **more}


def typed(script: str, folder: Path, **more: str) -> "subprocess.CompletedProcess[str]":
    """Run a script that leaves nothing running; it ends at the first command that fails, which fails the test."""
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


def typed_with_jobs(script: str, folder: Path, within: float) -> str:
    """Run a script that has jobs in the background; what all of it printed. None of it is left after so many seconds."""
    with (folder / "out").open("w+") as out:
        process = subprocess.Popen(
            ["bash", "-c", f"set -eu\n{script}"], cwd=folder, env=environment(), stdout=out, stderr=out, start_new_session=True
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
