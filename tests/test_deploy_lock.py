"""docs/deploy/requirements.lock, and how it is audited."""

import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any, Final

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

ROOT: Final = Path(__file__).parent.parent
LOCK: Final = ROOT / "docs" / "deploy" / "requirements.lock"
#: The last versions with an advisory that reaches us.
BAD: Final = {"msgpack": "1.2.0", "starlette": "1.3.0", "h11": "0.14.0", "python-multipart": "0.0.25"}


def locked() -> dict[str, tuple[Version, int]]:
    """Each package's version and number of hashes, by name."""
    found: dict[str, tuple[Version, int]] = {}
    name = ""
    for line in LOCK.read_text().splitlines():
        if match := re.match(r"([a-z0-9._-]+)==(\S+)", line):
            name = match[1]
            found[name] = (Version(match[2]), 0)
        elif "--hash=sha256:" in line:
            version, hashes = found[name]
            found[name] = (version, hashes + 1)
    return found


def required() -> list[Requirement]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    return [Requirement(text) for text in (*project["dependencies"], *(text for name in extras if name != "dev" for text in extras[name]))]


def test_each_locked_package_has_a_hash_and_each_of_ours_is_locked_above_its_floor() -> None:
    packages = locked()
    assert len(packages) > 30
    assert [name for name, (_, hashes) in packages.items() if not hashes] == []
    assert [str(one) for one in required() if packages[one.name][0] not in one.specifier] == []


@pytest.mark.parametrize(("name", "version"), BAD.items())
def test_a_floor_excludes_the_versions_with_known_advisories(name: str, version: str) -> None:
    ours = [one for one in required() if one.name == name]
    assert ours
    assert [str(one) for one in ours if version in one.specifier] == []


def test_the_container_and_the_units_install_from_the_lock() -> None:
    docker, operating = ((ROOT / "docs" / name).read_text() for name in ("deploy/Dockerfile", "operating.md"))
    for text in (docker, operating):
        assert "pip install" in text
        assert re.search(r"--require-hashes -r \S*requirements\.lock", text)
        assert "--no-deps --no-build-isolation ." in text
    assert json.loads((ROOT / "renovate.json").read_text())["osvVulnerabilityAlerts"]


@pytest.mark.process
@pytest.mark.parametrize(
    ("answer", "code", "said"),
    [
        ({"name": "a", "version": "1", "vulns": []}, 0, "audit: 1 of 1 packages have no known advisory"),
        ({"name": "a", "version": "1", "vulns": [{"id": "CVE-1", "fix_versions": ["2"]}]}, 1, "a 1: CVE-1, fixed in 2"),
        ({"name": "a", "version": "1", "skip_reason": "not found"}, 0, "audit SKIPPED: no database of advisories can be reached"),
        (None, 0, "audit SKIPPED: pip-audit says: no route"),
    ],
)
def test_an_audit_fails_for_an_advisory_and_says_if_nobody_could_be_asked(tmp_path: Path, answer: Any, code: int, said: str) -> None:
    """Another program prints pip-audit's answers, because no database can be reached here."""
    program = tmp_path / "pip-audit"
    said_by_it = "echo no route >&2" if answer is None else f"echo '{json.dumps({'dependencies': [answer]})}'"
    program.write_text(f"#!/bin/sh\n{said_by_it}\n")
    program.chmod(0o755)
    environment = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    audit = [sys.executable, "-P", str(ROOT / ".ci" / "audit.py"), str(LOCK)]
    done = subprocess.run(audit, capture_output=True, text=True, check=False, env=environment)
    assert (done.returncode, said in done.stdout) == (code, True), done
