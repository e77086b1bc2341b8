"""Known weaknesses of the pinned dependencies: `python deploy/audit.py CONSTRAINTS...`, with pip-audit installed.

Exit code 1 where there is one. What could not be looked up is said aloud, as a machine without the advisories' address
looks up nothing; that alone is no failure.
"""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any


def audited(file: str) -> list[dict[str, Any]]:
    """pip-audit's answer for each pin of a file."""
    command = [sys.executable, "-m", "pip_audit", "-r", file, "--no-deps", "--disable-pip", "--format", "json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    try:
        found: list[dict[str, Any]] = json.loads(done.stdout)["dependencies"]
    except (ValueError, KeyError):
        sys.exit(f"pip-audit did not answer for {file}:\n{done.stderr[-2000:]}")
    return found


def main(files: list[str]) -> int:
    """Tell what was found; the exit code."""
    weak = skipped = looked_up = 0
    for file in files:
        for one in audited(file):
            skipped += "skip_reason" in one
            looked_up += "skip_reason" not in one
            for weakness in one.get("vulns", ()):
                weak += 1
                fixed = ", ".join(weakness["fix_versions"]) or "no release yet"
                print(f"{file}: {one['name']} {one['version']} has {weakness['id']}, fixed in {fixed}")
    print(f"{looked_up} dependencies looked up, {weak} known weaknesses.")
    if skipped:
        print(f"NOT LOOKED UP: {skipped} dependencies; the advisories of PyPI could not be reached for them.")
    return 1 if weak else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
