"""The documentation runs: every shell and Python block of README, Start and Use, in order, on an empty home.

One story. README and Start run as a new user would read them, in a folder that looks like a clone. Then the pages of
Use run on the deployment that the tutorial made: its servers, its shop, a worker.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from docs.generators.metrics_page import READER, series
from local.stack.process import ChildProcess, free_port
from streams.metrics import Metrics
from streams.settings import Settings
from tests.docs.blocks import Block, BlockFailed, Terminal, blocks
from tests.support import servers
from tests.support.fakes_llm import FakeLlmServer

ROOT = Path(__file__).parents[2]
START = [
    "README.md",
    "docs/index.md",
    *(f"docs/start/{name}.md" for name in ("install", "tutorial", "concepts", "glossary")),
]
USE = [
    f"docs/use/{door}/{page}.md"
    for door, pages in {
        "platform": ("send", "train", "distill", "evaluate", "text-diffusion"),
        "rankers": ("read", "rank", "unit-tests", "other-languages"),
        "operators": (
            *("deploy", "versions", "replay", "dead-letters", "rebuild", "erase", "monitor", "runbook", "security"),
        ),
    }.items()
    for page in pages
]
PAGES = [*START, *USE]
MOST_NOT_RUN = 12
"""Each block that nobody runs may be wrong tomorrow: make room for another one by running one of these."""

FETCHED = {"freshet models prepare --encoder": "models", "freshet up": "kafka"}
"""What a command downloads into an empty home, by its folder there: taken from this machine's home instead."""
DEPLOYMENT = """\
eval "$(freshet status --env)"
freshet topics create
"""
WORKER = "freshet worker\n"

pytestmark = pytest.mark.timeout(600)


def text(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


@dataclass(frozen=True)
class Machine:
    """A new user's machine: a clone, an empty home, and what the pages' examples stand for."""

    folder: Path
    environment: dict[str, str]
    stands_for: dict[str, str]

    def terminal(self, name: str) -> Terminal:
        scratch = self.folder.parent / "logs" / re.sub(r"\W", "-", name)
        scratch.mkdir(parents=True)
        return Terminal(self.folder, dict(self.environment), scratch, self.stands_for)

    def run(self, terminal: Terminal, block: Block) -> None:
        """Run a block, and let it fetch what it would download."""
        if block.how == "not run":
            return
        for command, folder in FETCHED.items():
            link = Path(self.environment["FRESHET_HOME"]) / folder
            if command in block.code and not link.exists():
                link.symlink_to(_fetched_before(folder))
        terminal.run(block)


def _fetched_before(folder: str) -> Path:
    there = Settings.load().home / folder
    if not there.exists():
        servers.missing(f"no {there}: run `freshet models prepare --encoder` and `freshet up --no-llm --prepare-only`")
    return there


def new_machine(base: Path) -> Machine:
    clone, home = base / "freshet", base / "home"
    (clone / ".venv" / "bin").mkdir(parents=True)
    home.mkdir()
    for entry in ROOT.iterdir():  # what blocks write stays in `clone`
        if not entry.name.startswith("."):
            (clone / entry.name).symlink_to(entry)
    ours = str(Path(sys.executable).parent)
    (clone / ".venv" / "bin" / "activate").write_text(f'export PATH="{ours}:$PATH"\n')
    kept = {name: value for name, value in os.environ.items() if not name.startswith("FRESHET_")}
    path = os.pathsep.join(one for one in kept["PATH"].split(os.pathsep) if one != ours)
    # Of the terminal, so that what the commands print is the same everywhere.
    fixed = {"HOME": str(home), "FRESHET_HOME": str(home), "PATH": path, "COLUMNS": "120", "TERM": "dumb"}
    return Machine(clone, {**kept, **fixed}, {})


@pytest.fixture(scope="module")
def after_start(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """The machine of somebody who has followed README and Start to their end."""
    machine = new_machine(tmp_path_factory.mktemp("docs"))
    with stack_ends(machine), machine.terminal("start") as terminal:
        for page in START:
            for block in blocks(page, text(page)):
                machine.run(terminal, block)
        machine.environment.update(terminal.environment)
        for name in ("FRESHET_KAFKA", "FRESHET_REDIS"):  # the tutorial stopped them
            machine.environment.pop(name, None)
        yield machine


@contextmanager
def stack_ends(machine: Machine) -> Iterator[None]:
    """`freshet up` starts a daemon: a child that ends with this process, however that ends, takes it down."""
    down = f"trap '{sys.executable} -m cli down --erase; exit' TERM; while :; do sleep 1; done"
    log = machine.folder.parent / "down.log"
    child = ChildProcess("down", ["bash", "-c", down], log=log, env=machine.environment, cwd=ROOT, grace_s=60.0)
    child.start()
    try:
        yield
    finally:
        child.stop()


@pytest.fixture(scope="module")
def deployment(after_start: Machine) -> Iterator[Machine]:
    """The tutorial's servers and shop, and a worker: what the pages of Use work on."""
    machine = after_start
    with machine.terminal("deployment") as terminal, FakeLlmServer() as llm:
        terminal.run(Block("deployment", 1, "bash", "freshet up --no-llm"))
        terminal.run(Block("deployment", 2, "bash", DEPLOYMENT))
        terminal.run(Block("deployment", 3, "bash", WORKER, "second terminal"))
        machine.environment.update(terminal.environment)
        machine.stands_for.update(
            {
                "redis://features:6379/0": machine.environment["FRESHET_REDIS"],
                "http://llm:8000/v1": llm.url,
                "9464": str(free_port()),
            }
        )
        yield machine


def test_readme_and_start_run(after_start: Machine) -> None:
    """Catches a first page whose commands fail, need a thing that the text does not say, or come in the wrong order."""
    assert (after_start.folder / "events.jsonl").exists()


@pytest.mark.parametrize("page", [page for page in USE if any(b.how != "not run" for b in blocks(page, text(page)))])
def test_page_runs(page: str, deployment: Machine) -> None:
    """Catches a command, option, name or file on a page that does not exist or does not do what the page says."""
    with deployment.terminal(page) as terminal:
        for block in blocks(page, text(page)):
            deployment.run(terminal, block)


def test_every_page_is_told_here() -> None:
    """Catches a page, or a kind of block, that nobody runs."""
    there = {"README.md", "docs/index.md", *(str(p.relative_to(ROOT)) for p in ROOT.glob("docs/start/*.md"))}
    there |= {str(p.relative_to(ROOT)) for p in ROOT.glob("docs/use/**/*.md")}
    assert there == set(PAGES)
    for page in PAGES:
        languages = re.findall(r"^ *```(\S+)", text(page), re.M)
        assert set(languages) <= {"bash", "python", "mermaid"}, page
        assert len(blocks(page, text(page))) == sum(one != "mermaid" for one in languages), page


def test_few_blocks_are_not_run(capsys: pytest.CaptureFixture[str]) -> None:
    """Catches a block that was switched off because it failed."""
    left = [block for page in PAGES for block in blocks(page, text(page)) if block.how == "not run"]
    with capsys.disabled():
        print("".join(f"\n{block.name} is not run: {block.why}" for block in left))
    assert len(left) <= MOST_NOT_RUN


def test_what_pages_name_exists() -> None:
    """Catches a setting or metric in prose that was renamed, and advice to install another project's package."""
    settings = text("docs/reference/settings.md")
    metrics = {name: one[0] for name, one in series(Metrics()).items()} | {one[0]: one[1] for one in READER}
    for page in [*PAGES, "SECURITY.md"]:
        words = text(page)
        assert not re.search(r"pip install [^\n]*\bfreshet\b(?!-)", words), page
        for name in set(re.findall(r"\bFRESHET_[A-Z_]+[A-Z]\b", words)):
            assert f"`{name.removesuffix('_FILE')}`" in settings, f"{page}: no setting {name}"
        for name in set(re.findall(r"\bfreshet_[a-z_]+[a-z]\b", words)):
            assert name in metrics, f"{page}: no metric {name}"


def test_links_lead_somewhere() -> None:
    """Catches a page that moved, also from README, which the site's own check does not see."""
    for page in [*PAGES, "SECURITY.md", "CONTRIBUTING.md"]:
        for link in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", text(page)):
            if not link.startswith(("http://", "https://")):
                assert (ROOT / page).parent.joinpath(link).resolve().exists(), f"{page}: {link}"


def test_a_block_that_fails_is_noticed(tmp_path: Path) -> None:
    """Guards the tests above: each way to be wrong must end in an error that shows where."""
    environment = {"PATH": os.environ["PATH"]}
    wrong = {
        "bash": ["false\ntrue", "no-such-command", "echo $NO_SUCH_VARIABLE", "false | true"],
        "python": ["no_such_name", "assert 1 == 2", "import sys; sys.exit(3)"],
    }
    for language, codes in wrong.items():
        for code in codes:
            with Terminal(tmp_path, environment, tmp_path) as terminal, pytest.raises(BlockFailed, match=r"page\.md:7"):
                terminal.run(Block("page.md", 7, language, code))
    with pytest.raises(BlockFailed, match=r"page\.md:9"), Terminal(tmp_path, environment, tmp_path) as terminal:
        terminal.run(Block("page.md", 9, "bash", "sleep 0.5; exit 3", "second terminal"))


def test_blocks_share_folder_variables_and_names(tmp_path: Path) -> None:
    """Guards the harness: a page reads as one session."""
    page = "```bash\nexport A=1\nmkdir b && cd b\n```\n\n```python\nimport os\nname = os.environ['A']\n```\n\n"
    page += "<!-- not run: because -->\n```bash\nfalse\n```\n\n"
    page += "```python\nassert name == '1' and os.getcwd().endswith('b')\n```\n"
    found = blocks("page.md", page)
    assert [(block.line, block.how) for block in found] == [(1, "once"), (6, "once"), (12, "not run"), (16, "once")]
    with Terminal(tmp_path, {"PATH": os.environ["PATH"]}, tmp_path) as terminal:
        for block in found:
            if block.how != "not run":
                terminal.run(block)
    with pytest.raises(ValueError, match=r"page\.md:2"):
        blocks("page.md", "<!-- run: sometimes -->\n```bash\ntrue\n```\n")
