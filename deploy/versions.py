"""Compares each place that names a version with the table `deploy/versions.toml`; with `--write` mends it."""

from __future__ import annotations

import re
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TABLE = ROOT / "deploy" / "versions.toml"


@dataclass(frozen=True)
class Place:
    """Where a version is written: `template`, with `{}` for the version, in `file`."""

    name: str
    version: str
    file: str
    template: str

    @property
    def pattern(self) -> re.Pattern[str]:
        """The template with any version."""
        before, after = (re.escape(part) for part in self.template.split("{}"))
        return re.compile(rf"(?<={before})\d[\w.]*{f'(?={after})' if after else ''}")

    def found(self, root: Path = ROOT) -> list[str]:
        """The versions that stand there."""
        return self.pattern.findall((root / self.file).read_text(encoding="utf-8"))

    def write(self, root: Path = ROOT) -> None:
        """Put the table's version there."""
        path = root / self.file
        path.write_text(self.pattern.sub(self.version, path.read_text(encoding="utf-8")), encoding="utf-8")


def places(table: Path = TABLE) -> Iterator[Place]:
    """Every place of the table."""
    for name, entry in tomllib.loads(table.read_text(encoding="utf-8")).items():
        for file, template in entry["places"]:
            yield Place(name, entry["version"], file, template)


def stale(root: Path = ROOT) -> Iterator[str]:
    """A line for each place that says another version, or none."""
    for place in places(root / TABLE.relative_to(ROOT)):
        found = place.found(root)
        if not found or set(found) != {place.version}:
            said = ", ".join(found) or "nothing"
            yield f"{place.file}: {place.template} says {said}; {place.name} is {place.version}"


def main(write: bool) -> int:
    """Exit code 1 where a place is stale still."""
    if write:
        for place in places():
            place.write()
    left = list(stale())
    print("\n".join(left) or "every place says what deploy/versions.toml says")
    return 1 if left else 0


if __name__ == "__main__":
    sys.exit(main("--write" in sys.argv[1:]))
