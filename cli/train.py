"""`freshet train reasoner`: from a log of events and a catalogue to a checkpoint the worker loads.

Owns the command's options, its progress bar and what it prints. The training itself stands in `models`.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from cli.evaluate_reasoner import changed
from cli.log_options import LogSource, TrainingLog, log_options
from cli.train_aligner import aligner
from models.encoder.aligner import Aligner
from models.reasoner import checkpoint
from models.reasoner.sampler import SlotPlan
from models.reasoner.training.config import TrainingConfig, TrainingError
from models.reasoner.training.fit import TrainingProgress
from streams.jobs.training import train_on, trained_aligner
from streams.settings import Settings

DEFAULTS = TrainingConfig()
PATIENCE = f"End after so many validations, {DEFAULTS.validate_every} steps apart, without a better answer; 0: never."


@dataclass(frozen=True, slots=True)
class Begin:
    """What a training begins from (an aligner, an earlier checkpoint, itself interrupted), and its sampler's plan."""

    aligner: Aligner | None
    warm_start: Path | None
    resume: bool
    plan: SlotPlan


@click.group()
def train() -> None:
    """Train the models Freshet runs."""


train.add_command(aligner)


@train.command()
@log_options(histories=True)
@click.option("--out", type=click.Path(path_type=Path), help="Checkpoint folder; default: where the worker looks.")
@click.option("--aligner", "aligner_file", type=click.Path(path_type=Path), help="Default: `freshet train aligner`'s.")
@click.option("--steps", default=DEFAULTS.steps, show_default=True, type=click.IntRange(1), help="Training steps.")
@click.option("--minutes", type=click.FloatRange(0, min_open=True), help="Stop after this long, if earlier.")
@click.option("--max-items", default=DEFAULTS.max_items, show_default=True, type=click.IntRange(2))
@click.option("--include-rare", is_flag=True, help="Keep rarer items in the checkpoint, known by their text alone.")
@click.option("--warm-start", type=click.Path(path_type=Path), help="Begin at the weights of this checkpoint.")
@click.option("--resume", is_flag=True, help="Go on where the same training was cut off.")
@click.option("--patience", default=DEFAULTS.patience, show_default=True, type=click.IntRange(0), help=PATIENCE)
@click.option("--no-neighbors", is_flag=True, help="Train the network alone, without co-occurrence beneath it.")
@click.option("--plan", "plans", multiple=True, metavar="NAME=VALUE", help="A field of the sampler's SlotPlan.")
@click.option("--seed", default=0, show_default=True, type=click.IntRange(0))
@click.option("--json", "as_json", is_flag=True, help="One line of JSON at the end, no progress bar.")
def reasoner(
    source: LogSource,
    out: Path | None,
    aligner_file: Path | None,
    steps: int,
    minutes: float | None,
    max_items: int,
    include_rare: bool,
    warm_start: Path | None,
    resume: bool,
    patience: int,
    no_neighbors: bool,
    plans: tuple[str, ...],
    seed: int,
    as_json: bool,
) -> None:
    """Train the reasoner on a log of events.

    The block-diffusion reasoner, over a catalogue of items.
    """
    settings = source.resolve(Settings.load())
    folder = out or (Path(settings.reasoner.checkpoint) if settings.reasoner.checkpoint else settings.home / "reasoner")
    config = TrainingConfig(
        steps=steps,
        minutes=minutes,
        max_items=max_items,
        include_rare=include_rare,
        patience=patience,
        neighbors=not no_neighbors,
        seed=seed,
    )
    plan = changed(checkpoint.DEFAULT_PLAN, plans, "--plan")
    began = time.monotonic()
    with _bar(quiet=as_json) as bar:
        try:
            # A checkpoint to begin from brings the aligner of its space.
            chosen = trained_aligner(settings, aligner_file) if aligner_file or not warm_start else None
            begin = Begin(chosen, warm_start, resume, plan)
            log = _train(source, settings, config, folder, begin, bar)
        except (TrainingError, FileNotFoundError) as error:
            raise click.ClickException(str(error)) from error
    metrics = checkpoint.load(folder).metrics
    _show({"checkpoint": str(folder), "seconds": round(time.monotonic() - began, 1), **log.told, **metrics}, as_json)


def _train(
    source: LogSource,
    settings: Settings,
    config: TrainingConfig,
    folder: Path,
    begin: Begin,
    bar: Progress,
) -> TrainingLog:
    log = source.read(settings, bar)
    encoding = bar.add_task("encoding item texts", total=None)
    training = bar.add_task("training the reasoner", total=1.0, visible=False)

    def told(progress: TrainingProgress) -> None:
        text = f"training the reasoner, step {progress.step}, loss {progress.loss:.2f}, NDCG@10 {progress.best:.3f}"
        bar.update(training, completed=progress.share, description=text, visible=True)

    train_on(
        log.events,
        log.items,
        settings,
        config,
        folder,
        plan=begin.plan,
        aligner=begin.aligner,
        warm_start=begin.warm_start,
        resume=begin.resume,
        encoded=lambda done, total: bar.update(encoding, completed=done, total=total),
        trained=told,
    )
    return log


def _bar(*, quiet: bool) -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    return Progress(*columns, console=Console(stderr=True), disable=quiet)


def _show(answer: dict[str, Any], as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(answer))
        return
    click.echo(f"checkpoint  {answer['checkpoint']}")
    early = f", best at {answer['best_step']}" if answer["best_step"] < answer["steps"] else ""
    resumed = f", resumed at {answer['resumed_at']}" if answer["resumed_at"] else ""
    click.echo(
        f"trained     {answer['steps']} steps{early}{resumed}, {answer['train_events']} events, {answer['items']} items"
    )
    for name, key in (("next new item", ""), ("next item", "all_")):
        click.echo(
            f"{name:<16}HR@10 {answer[key + 'hr10']:.4f}  (popularity {answer[key + 'popularity_hr10']:.4f})   "
            f"NDCG@10 {answer[key + 'ndcg10']:.4f}  (popularity {answer[key + 'popularity_ndcg10']:.4f})"
        )
    click.echo("next: `freshet worker` loads it; users are then refreshed by diffusion")
