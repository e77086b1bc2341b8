"""`freshet evaluate knowledge`: distilled attributes against gold, as a person or a script sees it.

Owns options, progress bar and what is printed. The measures are `evaluation.knowledge`'s.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from cli.evaluate_reasoner import reasoner
from evaluation.knowledge import Extractor, Score, evaluate, measures, split, without_products
from evaluation.naive_extractor import NaiveExtractor
from freshet.clock import wall_clock
from freshet.records import ItemKnowledge
from local.stack.state import resolve
from models.encoder.backends import prepared_encoder
from models.llm.client import LLMForbidden, LLMUnavailable, OpenAIClient
from processors.items.agents import ATTRIBUTE_ANALYST, UnknownAgentSet
from processors.items.attribute_catalogue import AttributeCatalogue
from processors.items.distiller import Distiller
from schemas.annotated import Annotated, read_annotated
from schemas.files import FileError
from streams.settings import Settings
from streams.wiring.distillation import make_distillation_config, read_catalogue

TEAM, NAIVE, NO_EXAMPLES = "team", "naive", "no-examples"
_in = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.group("evaluate")
def evaluation() -> None:
    """Measure quality against held-out truth."""


evaluation.add_command(reasoner)


@evaluation.command()
@click.option("--items", required=True, type=_in, help="Items with gold attributes: {attribute: [accepted forms]}.")
@click.option("--catalogue", "catalogue_file", required=True, type=_in, help="Attributes per category.")
@click.option(
    "--examples",
    "examples_file",
    type=_in,
    help="Annotated items to show; default: other products of --items, outside the sample where --limit leaves any.",
)
@click.option("--limit", type=click.IntRange(1), help="Only so many items, drawn with --seed.")
@click.option("--seed", default=0, show_default=True, type=click.IntRange(0), help="Which items --limit draws.")
@click.option(
    "--who",
    type=click.Choice([TEAM, NAIVE, NO_EXAMPLES]),
    default=TEAM,
    show_default=True,
    help="The agent set, or a baseline: one naive call; the agent set without examples.",
)
@click.option("--agents", default=ATTRIBUTE_ANALYST, show_default=True, help="Agent set or agents that are asked.")
@click.option("--shown", default=3, show_default=True, type=click.IntRange(0, 32), help="Examples in a prompt.")
@click.option("--llm", help="Base URL of an OpenAI-compatible endpoint; default: FRESHET_LLM or `freshet up`.")
@click.option("--concurrency", default=16, show_default=True, type=click.IntRange(1, 1024))
@click.option("--answers", type=click.Path(dir_okay=False, path_type=Path), help="Write every answer here, JSON lines.")
@click.option("--json", "as_json", is_flag=True, help="One line of JSON at the end, no progress bar.")
def knowledge(as_json: bool, **asked: Any) -> None:
    """Score distilled attributes against gold ones."""
    try:
        score = _run(KnowledgeOptions(**asked), quiet=as_json)
    except (FileError, FileNotFoundError, UnknownAgentSet, LLMForbidden, LLMUnavailable) as error:
        raise click.ClickException(str(error)) from error
    if as_json:
        click.echo(json.dumps(score.summary()))
    else:
        _show(score)


@dataclass(frozen=True, slots=True, kw_only=True)
class KnowledgeOptions:
    """What was asked for."""

    items: Path
    catalogue_file: Path
    examples_file: Path | None
    limit: int | None
    seed: int
    who: str
    agents: str
    shown: int
    llm: str | None
    concurrency: int
    answers: Path | None


def _run(options: KnowledgeOptions, *, quiet: bool) -> Score:
    settings = resolve(Settings.load(llm=options.llm), "llm")
    catalogue = read_catalogue(options.catalogue_file)
    rows, rest = split(read_annotated(options.items), options.limit, options.seed)
    if options.examples_file is not None:
        rest = without_products(read_annotated(options.examples_file), rows)
    elif not rest:  # everything is asked about: each item sees examples of other products
        rest = rows
    return asyncio.run(_score(settings, catalogue, rows, rest, options, quiet))


async def _score(
    settings: Settings,
    catalogue: AttributeCatalogue,
    rows: list[Annotated],
    rest: list[Annotated],
    options: KnowledgeOptions,
    quiet: bool,
) -> Score:
    columns = (TextColumn("asking"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    connections = 2 * options.concurrency
    async with OpenAIClient(settings.llm.url, settings.llm.model, timeout_s=600, max_connections=connections) as client:
        extractor = _extractor(client, settings, catalogue, rest, options)
        with Progress(*columns, console=Console(stderr=True), disable=quiet) as bar:
            task = bar.add_task("asking", total=len(rows))

            def done(row: Annotated, made: ItemKnowledge | None) -> None:
                bar.advance(task)
                if options.answers is not None:
                    _append(options.answers, row, made)

            return await evaluate(extractor, rows, catalogue, concurrency=options.concurrency, done=done)


def _extractor(
    client: OpenAIClient,
    settings: Settings,
    catalogue: AttributeCatalogue,
    rest: list[Annotated],
    options: KnowledgeOptions,
) -> Extractor:
    if options.who == NAIVE:
        return NaiveExtractor(client, wall_clock, catalogue)
    distillation = make_distillation_config(
        prepared_encoder(settings.encoder, settings.home),
        profile=options.agents,
        catalogue=catalogue,
        examples=rest,
        shown=0 if options.who == NO_EXAMPLES else options.shown,
    )
    return Distiller(client, wall_clock, distillation=distillation)


def _append(path: Path, row: Annotated, made: ItemKnowledge | None) -> None:
    said = {claim.name: claim.value for claim in made.claims if not claim.inferred} if made else None
    with path.open("a", encoding="utf-8") as out:
        line = {"item_id": row.item.item_id, "title": row.item.title, "said": said, "gold": row.gold}
        out.write(json.dumps(line, ensure_ascii=False) + "\n")


def _show(score: Score) -> None:
    table = Table("category", "precision", "recall", "F1", "hallucination", "coverage", box=None)
    for name, boxes in sorted(score.by_category.items()):
        table.add_row(name or "(no category)", *_cells(measures(boxes)))
    table.add_row("all", *_cells(score.summary()), style="bold")
    Console().print(table)
    found = score.summary()
    click.echo(
        f"{found['n_items']} items, {score.failed} without an answer; {found['tokens_per_item']:.0f} tokens and "
        f"{found['calls_per_item']:.2f} calls an item"
    )
    click.echo("next: --who naive or --who no-examples scores a baseline on the same items")


def _cells(found: Mapping[str, float]) -> list[str]:
    return [f"{found[name]:.3f}" for name in ("precision", "recall", "f1", "hallucination", "coverage")]
