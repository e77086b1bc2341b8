"""What `mkdocs build --strict` does not see: pages out of the nav, paths, settings and links that name nothing."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
FOLDERS = (
    "benchmarks", "cli", "deploy", "docs", "evaluation", "local", "models", "processors", "schemas", "sdk", "store",
    "streams", "tests",
)  # fmt: skip
MADE_LATER = ("deploy/secrets/",)  # by a command that the page names
NOT_SETTINGS = {
    "FRESHET_CONFIG",  # names the file of settings
    "FRESHET_CORES", "FRESHET_FAULTS_FILE", "FRESHET_REQUIRE_SERVERS", "FRESHET_TEST_SERVERS",  # the tests' own
    "FRESHET_SHAPE", "FRESHET_RETIRED",  # errors of the server-side functions
}  # fmt: skip


def pages() -> list[Path]:
    return sorted(DOCS.rglob("*.md"))


def nav() -> dict[str, Any]:
    class Loader(yaml.SafeLoader):
        """Reads `mkdocs.yml`, whose `!!python/name:` tags are mkdocs' business."""

    Loader.add_multi_constructor("tag:yaml.org,2002:python/name:", lambda *_: None)
    loaded: dict[str, Any] = yaml.load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"), Loader)
    return loaded


def leaves(entry: Any) -> Iterator[str]:
    if isinstance(entry, str):
        yield entry
    else:
        for inner in entry if isinstance(entry, list) else entry.values():
            yield from leaves(inner)


def test_every_page_is_in_the_nav_once() -> None:
    """Catches a page that nobody can reach, and a line of the nav that leads nowhere."""
    listed = list(leaves(nav()["nav"]))
    assert sorted(listed) == sorted(str(page.relative_to(DOCS)) for page in pages())


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md", "sdk/README.md"])
def test_links_outside_the_site_lead_somewhere(name: str) -> None:
    """Catches a link to a page that has moved."""
    page = ROOT / name
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text(encoding="utf-8")):
        assert re.match(r"[a-z]+:", target) or (page.parent / target).exists(), target


def test_paths_in_code_are_there() -> None:
    """Catches `streams/OLD.py` in a page after the file has moved; reports describe their own commit."""
    path = re.compile(rf"`((?:{'|'.join(FOLDERS)})/[\w./-]*)`")
    missing = [
        f"{page.relative_to(ROOT)}: {named}"
        for page in (*pages(), *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md")))
        if page.parent.name != "reports"
        for named in path.findall(page.read_text(encoding="utf-8"))
        if not re.search(r"NAME|RECORD", named) and not (ROOT / named).exists() and not named.startswith(MADE_LATER)
    ]
    assert not missing, "\n".join(missing)


def test_variables_are_settings() -> None:
    """Catches a page that tells somebody to set a variable that is no setting any more."""
    known = set(re.findall(r"`(FRESHET_[A-Z0-9_]+)", (DOCS / "reference" / "settings.md").read_text(encoding="utf-8")))
    known |= {f"{name}_FILE" for name in known} | NOT_SETTINGS
    unknown = [
        f"{page.relative_to(ROOT)}: {name}"
        for page in (*pages(), ROOT / "README.md", ROOT / "SECURITY.md")
        for name in re.findall(r"\bFRESHET_[A-Z0-9_]*[A-Z0-9]\b(?!\*|_)", page.read_text(encoding="utf-8"))
        if name not in known
    ]
    assert not unknown, "\n".join(unknown)


@pytest.mark.parametrize("page", sorted({page.name for page in (DOCS / "reports").glob("*.md")} - {"index.md"}))
def test_a_report_says_when_and_how(page: str) -> None:
    """Catches figures without a date, a commit or a command, and a report that the overview leaves out."""
    text = (DOCS / "reports" / page).read_text(encoding="utf-8")
    assert re.search(r"^\*\*Measured\*\* 20\d\d-\d\d-\d\d · commits? `[0-9a-f]{7,}`.* · .+", text, re.M)
    assert f"]({page})" in (DOCS / "reports" / "index.md").read_text(encoding="utf-8")
