"""`freshet train aligner`: from a log of events and a catalogue to the map into the collaborative space.

Owns the command's options, its progress bar and what it prints. The training itself stands in `models`.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from cli.log_options import LogSource, log_options
from models.encoder.aligner_training import AlignerConfig
from models.encoder.co_engagement import NothingToLearn
from models.encoder.contrastive import AlignerProgress, HeadConfig
from schemas.files import FileError
from schemas.knowledge_file import read_knowledge
from streams.jobs.training import ALIGNER_FILE, train_aligner_on
from streams.settings import Settings

DEFAULTS = AlignerConfig()
_file = click.Path(path_type=Path)


@click.command()
@log_options(histories=False)
@click.option("--knowledge", type=_file, help="What `freshet distill` wrote: both texts of an item are aligned.")
@click.option("--event-type", "event_types", multiple=True, help="Only events of this type; may be given again.")
@click.option("--out", type=_file, help="Safetensors file; default: where the worker looks.")
@click.option("--steps", default=DEFAULTS.head.steps, show_default=True, type=click.IntRange(1), help="At most.")
@click.option("--window-hours", default=24.0, show_default=True, type=click.FloatRange(0, min_open=True))
@click.option("--seed", default=0, show_default=True, type=click.IntRange(0))
@click.option("--json", "as_json", is_flag=True, help="One line of JSON at the end, no progress bar.")
def aligner(
    source: LogSource,
    knowledge: Path | None,
    event_types: tuple[str, ...],
    out: Path | None,
    steps: int,
    window_hours: float,
    seed: int,
    as_json: bool,
) -> None:
    """Train the aligner on a log of events.

    Items bought together get similar vectors.

    Validated on items first seen in the newest third of the log; where PCA is as good there, PCA is what is saved.
    """
    settings = source.resolve(Settings.load())
    file = out or settings.home / ALIGNER_FILE
    head = HeadConfig(dims=settings.vectors.dims, steps=steps, seed=seed)
    config = AlignerConfig(head=head, window_ms=int(window_hours * 3_600_000))
    began = time.monotonic()
    with _bar(quiet=as_json) as bar:
        encoding = bar.add_task("encoding item texts", total=None)
        training = bar.add_task("training the aligner", total=1.0, visible=False)

        def trained(progress: AlignerProgress) -> None:
            text = f"training the aligner, step {progress.step}, recall@50 {progress.score:.4f}"
            bar.update(training, completed=progress.step / progress.steps, description=text, visible=True)

        try:
            log = source.read(settings, bar)
            metrics = train_aligner_on(
                log.events,
                log.items,
                {} if knowledge is None else {record.item_id: record for record in read_knowledge(knowledge)},
                settings,
                config,
                file,
                event_types=event_types,
                encoded=lambda done, total: bar.update(encoding, completed=done, total=total),
                trained=trained,
            )
        except (FileError, FileNotFoundError, NothingToLearn) as error:
            raise click.ClickException(str(error)) from error
    _show({"aligner": str(file), "seconds": round(time.monotonic() - began, 1), **log.told, **metrics}, as_json)


def _bar(*, quiet: bool) -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    return Progress(*columns, console=Console(stderr=True), disable=quiet)


def _show(answer: Mapping[str, Any], as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(answer))
        return
    click.echo(f"aligner     {answer['aligner']}, revision {answer['revision']}, found by {answer['found_by']}")
    click.echo(f"validated   on {answer['validation_items']} {answer['validated_on']}")
    if "recall50" in answer:
        click.echo(
            f"recall@50   {answer['recall50']:.4f}  (PCA {answer['pca_recall50']:.4f}, "
            f"encoder as it is {answer['raw_recall50']:.4f})"
        )
    if answer["found_by"] == "pca":
        click.echo("the contrastive head did not beat PCA on these items: PCA was saved")
    click.echo("next: `freshet train reasoner` in this space, then give the worker a new FRESHET_VERSION")
