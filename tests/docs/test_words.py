"""One word for one thing: old terms stay out of the docs, the help texts, the metrics and the settings.

WORDS is the list. A term that has honest uses (a letter of the alphabet, a house that is sold) has a pattern that
leaves them alone. Reports may quote names of their commit in code, so their code is not read.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from docs.generators.cli_page import commands
from docs.generators.metrics_page import READER, series
from docs.generators.settings_page import descriptions
from streams.metrics import Metrics

ROOT = Path(__file__).parents[2]

WORDS: dict[str, str] = {
    # Private terms, and the field's own.
    r"(?<![Dd]ead[ -])(?<!capital )\bletters?\b(?!,? (and |or )?(digit|spac|\(A))": "dead letter",
    r"\bdesks?\b": "operator session",
    r"\b(agent|LLM|the) teams?\b|\bteams? of agents\b|\bFRESHET_PROFILE\b|\bagent profiles?\b": "agent set",
    r"\bfirehose": "batch consumer",
    r"\bsliding windows?\b|\bwindow of calls\b|\bcalls in the window\b": "in-flight limiter",
    r"\bbatch windows?\b": "batcher",
    r"\bdue[- ]sets?\b|\bset of (the )?due users\b": "refresh queue",
    r"\bmark(s|ed|ing)? (users? |them |those users )?(as )?due\b": "enqueue",
    r"\bclaim(s|ed|ing)? (due )?users?\b|\busers? (is|are|was|were) claimed\b": "lease",
    r"(?<!in-)\bthe house\b|\bfloors?\b(?= (of|above|below|knows|owns))": "package layout, layer",
    r"\bneighbors? (is|are|was|were) (away|back|down|busy|slow)\b|\bwaits? for a neighbor\b": "dependency",
    r"\brecipes?\b(?! (book|site|app))": "distillation config",
    r"\bthrifty\b": "cached distiller",
    r"\blistings?\b": "item text",
    r"\bdisguise": "confusables",
    r"\bmoments? (from|at) (which|when)\b|\b(at|up to|of) (the|this|that|what|which|one) moment\b": "timestamp, time",
    r"\b(was|were|is|are|has|have) told\b|\btells? of\b|\bheard (of|from)\b": "reported",
    r"\b(text|knowledge|fallback|diffusion|higher|lower)[- ]tiers?\b|\bboth tiers\b": "quality level",
    # What a native engineer stumbled at.
    r"\band what not\b": "what these results do and don't show",
    r"\b[Hh]eld (by|in) (`tests|two ways)": "covered by",
    r"\bmend(s|ed|ing)?\b": "fix, repair",
    r"\bhangs? on\b": "depends on",
    r"\bbears?\b(?! market)": "carries, contains",
    r"\banew\b": "again",
    r"\bends to (grow|be)\b": "stops growing",
    r"\b(answers?|claims?|knows?|makes?) no more\b": "no longer answers",
    r"\bto be had\b": "available",
    r"\blives (start|begin|end|by)\b": "TTL",
    r"\b(go|goes|going) on where (it|they) (was|were|stood)\b": "resumes",
    r"\bas young as\b": "at or after",
    r"\bfor want of\b": "for lack of",
    r"\bof (no|every|one) record\b[^.]{0,40}\bknows\b": "say who knows what",
    r"\btogether with what came of (it|them)\b": "with the results",
    r"\bwhomever\b": "every user that",
    # American spelling.
    r"\b\w*(behaviour|colour|neighbour|favour|flavour|honour|labour)\w*": "-or",
    r"\bdistil(s|ling)?\b(?<!distill)(?<!distilling)": "distill",
    r"\b(normal|vector|organ|recogn|optim|serial|initial|summar|token|quant)is(e|ing|ation)": "-ize",
    r"\banalys(e|ed|ing)\b": "analyze",
    r"\blicenc\w*": "license",
    r"\b(centi|milli|kilo)?(metre|litre)s?\b|\bcentre\w*": "-er",
    r"\bmisspelt\b|\bwhilst\b|\bartefact\w*|\bgrey\b|\bmodell(ed|ing)\b|\blabell(ed|ing)\b": "American spelling",
    # The name on PyPI belongs to another project.
    r"pip3? install (?:\S+ )*[\"']?freshet(?![-\w/])": "pip install freshet-sdk",
}


def found(text: str) -> list[str]:
    """Every old term in a text, with some of what stands around it and the word to use."""
    return [
        f"...{text[max(0, hit.start() - 30) : hit.end() + 30]!r}: {hit[0]!r} → {new}"
        for old, new in WORDS.items()
        for hit in re.finditer(old, text)
    ]


def pages() -> list[Path]:
    beside = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md", "sdk/README.md")]
    # It quotes contracts that are registered: registries take another doc text for another schema.
    quoted = ROOT / "docs" / "reference" / "schemas.md"
    return [*sorted({*(ROOT / "docs").rglob("*.md")} - {quoted}), *beside]


def without_code(text: str) -> str:
    return re.sub(r"`[^`\n]*`", "`code`", re.sub(r"^```.*?^```", "", text, flags=re.M | re.S))


@pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_pages_use_the_words(page: Path) -> None:
    """Catches a page that calls a thing by a name nobody else knows."""
    text = page.read_text(encoding="utf-8")
    hits = found(without_code(text) if page.parent.name == "reports" else text)
    assert not hits, "\n".join(hits)


def test_help_uses_the_words() -> None:
    """Catches a help text with a private term."""
    hits = []
    for path, command, context in commands():
        options = [record[1] for one in command.get_params(context) if (record := one.get_help_record(context))]
        for text in (command.help or "", command.short_help or "", *options):
            hits += [f"{path}: {hit}" for hit in found(" ".join(text.split()))]
    assert not hits, "\n".join(hits)


def test_metrics_use_the_words() -> None:
    """Catches a metric described with a private term."""
    texts = {name: about for name, (_, _, about) in series(Metrics()).items()} | {one[0]: one[3] for one in READER}
    hits = [f"{name}: {hit}" for name, about in texts.items() for hit in found(about)]
    assert not hits, "\n".join(hits)


def test_settings_use_the_words() -> None:
    """Catches a setting described with a private term."""
    hits = [f"{name}: {hit}" for name, about in descriptions().items() for hit in found(about)]
    assert not hits, "\n".join(hits)


@pytest.mark.parametrize(
    "text",
    [
        "three letters were sent", "the desk opens Kafka", "a team of agents", "the firehose", "its sliding window",
        "mark users due", "waits for a neighbor", "the thrifty one", "the seller's listing", "neighbour", "distil",
        "at the moment of the write", "it is told to stop", "mend the producer", "pip install freshet",
        "pip install -U 'freshet[worker]'", "both tiers", "answers no more",
    ],
)  # fmt: skip
def test_old_terms_are_found(text: str) -> None:
    """Catches a pattern that finds nothing."""
    assert found(text)


@pytest.mark.parametrize(
    "text",
    [
        "a dead letter", "dead-letter topic", "letters, digits, `-`", "capital letters", "other teams", "a household",
        "a window of time", "nearest neighbors", "a claim about an item", "distilled", "distillation", "distilling",
        "license", "analysis", "pip install freshet-sdk", "pip install freshet_sdk-1.whl", "at any moment",
    ],
)  # fmt: skip
def test_honest_uses_pass(text: str) -> None:
    """Catches a false alarm, which would teach people to ignore the list."""
    assert not found(text)
