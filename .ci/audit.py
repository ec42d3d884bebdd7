"""Ask for the known advisories of locked packages. No database that can be reached is a notice.

python .ci/audit.py requirements.lock
"""

import json
import shutil
import subprocess
import sys

#: pip-audit gives up on a database after this time, s.
TIMEOUT = "10"


def main(lock: str) -> int:
    """Print what is known; 1 if a package has an advisory."""
    if shutil.which("pip-audit") is None:
        return skipped("pip-audit is not installed")
    options = ["--disable-pip", "--require-hashes", "--format", "json", "--progress-spinner", "off", "--timeout", TIMEOUT]
    done = subprocess.run(["pip-audit", "--requirement", lock, *options], capture_output=True, text=True, check=False)  # noqa: S603, S607
    try:
        packages = json.loads(done.stdout)["dependencies"]
    except (ValueError, KeyError):
        return skipped(f"pip-audit says: {(done.stderr.strip().splitlines() or ['nothing'])[-1]}")
    known = [(package, found) for package in packages for found in package.get("vulns", ())]
    for package, found in known:
        print(f"{package['name']} {package['version']}: {found['id']}, fixed in {', '.join(found['fix_versions']) or 'no version'}")
    asked = [package for package in packages if "vulns" in package]
    if known:
        return 1
    if not asked:
        return skipped("no database of advisories can be reached")
    print(f"audit: {len(asked)} of {len(packages)} packages have no known advisory, the others could not be asked about")
    return 0


def skipped(reason: str) -> int:
    """Say that nothing was found out."""
    print(f"audit SKIPPED: {reason}")
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
