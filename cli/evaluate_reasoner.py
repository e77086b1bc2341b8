"""`freshet evaluate reasoner`: the user reasoner against its baselines, as a person or a script sees it.

Owns options, progress bar and what is printed. What is compared, and how, is `evaluation.reasoner`'s.
"""

from __future__ import annotations

import json
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

from schemas.files import FileError
from streams.settings import Settings

if TYPE_CHECKING:
    from evaluation.reasoner.run import ReasonerOptions
    from models.reasoner.sampler import SlotPlan
    from models.reasoner.training.train import TrainingConfig

Config = TypeVar("Config", "TrainingConfig", "SlotPlan")
_in = click.Path(exists=True, dir_okay=False, path_type=Path)
STAGES = ("time", "sets", "held")


def _numbers(_context: click.Context, _option: click.Parameter, text: str) -> tuple[int, ...]:
    try:
        numbers = tuple(int(part) for part in text.split(","))
    except ValueError:
        raise click.BadParameter(f"{text!r} is not a list of whole numbers like 0,1,2") from None
    if len(set(numbers)) != len(numbers) or min(numbers) < 0:
        raise click.BadParameter(f"{text!r}: each number once, none below 0")
    return numbers


@click.command()
@click.option("--events", required=True, type=_in, help="Parquet or JSON lines: the log.")
@click.option("--items", required=True, type=_in, help="Parquet or JSON lines: the catalogue.")
@click.option("--seeds", default="0,1,2", show_default=True, callback=_numbers, help="Users' figures are averaged.")
@click.option("--steps", default="1,2,4,8,16", show_default=True, callback=_numbers, help="Denoising steps; with 1.")
@click.option("--train-steps", type=click.IntRange(1), help="Training steps of ours and of SASRec.")
@click.option("--set", "changes", multiple=True, metavar="NAME=VALUE", help="A field of our TrainingConfig.")
@click.option("--plan", "plans", multiple=True, metavar="NAME=VALUE", help="A field of the sampler's SlotPlan.")
@click.option("--between", default=0, show_default=True, type=click.IntRange(0), help="Slots in the log's gaps.")
@click.option("--stages", default=",".join(STAGES), show_default=True, help="Beside leave-last-out: which of these.")
@click.option("--users", type=click.IntRange(1), help="Ask at most so many users in each test.")
@click.option("--no-tuning", is_flag=True, help="SASRec as it comes, for a quick look; not a fair comparison.")
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), help="Folder for plots and results.json.")
@click.option("--json", "as_json", is_flag=True, help="One line of JSON at the end, no tables.")
def reasoner(
    events: Path,
    items: Path,
    seeds: tuple[int, ...],
    steps: tuple[int, ...],
    train_steps: int | None,
    changes: tuple[str, ...],
    plans: tuple[str, ...],
    between: int,
    stages: str,
    users: int | None,
    no_tuning: bool,
    out: Path | None,
    as_json: bool,
) -> None:
    """Compare the reasoner with its baselines.

    Baselines: popularity, kNN, co-occurrence and SASRec, on EVENTS over ITEMS.
    """
    from evaluation.reasoner import plots, report
    from evaluation.reasoner.run import WITHOUT_VALIDATION, ReasonerOptions
    from models.reasoner.sampler import SlotPlan
    from models.reasoner.training.train import TrainingError

    training = changed(WITHOUT_VALIDATION, changes)
    if train_steps is not None:
        training = replace(training, steps=train_steps)
    asked = tuple(stages.split(",")) if stages else ()
    if unknown := set(asked) - set(STAGES):
        raise click.BadParameter(f"no stage {', '.join(sorted(unknown))}, there is {', '.join(STAGES)}")
    if 1 not in steps:
        raise click.BadParameter("--steps must hold 1: what the others are compared with")
    options = ReasonerOptions(
        seeds=seeds,
        steps=steps,
        training=training,
        plan=changed(SlotPlan(), plans),
        between=between,
        stages=("last", *asked),
        users=users,
        tune=not no_tuning,
    )
    try:
        found = _run(events, items, options)
        files = [] if out is None else plots.draw(found, out)
    except (FileError, FileNotFoundError, TrainingError, plots.NoPlots) as error:
        raise click.ClickException(str(error)) from error
    if out is not None:
        (out / "results.json").write_text(json.dumps(found, indent=2) + "\n")
    if as_json:
        click.echo(json.dumps(found))
        return
    console = Console()
    for title, table in report.tables(found):
        click.echo(f"\n{title}")
        console.print(table)
    told = f"{found['users']} users, {found['items']} items, {found['events']} events"
    click.echo(f"{told}; intervals: 95 %, users drawn again, each user's figure the mean over seeds {list(seeds)}")
    for file in files:
        click.echo(f"plot  {file}")
    click.echo("next: `freshet train reasoner` with the same files makes the checkpoint a worker loads")


def _run(events: Path, items: Path, options: ReasonerOptions) -> dict[str, Any]:
    import torch

    from evaluation.reasoner import report
    from evaluation.reasoner.run import Evaluation
    from evaluation.reasoner.shop import load
    from models.encoder.encoder import prepared_encoder

    settings = Settings.load()
    torch.set_num_threads(settings.worker.threads)
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn())
    errors = Console(stderr=True)
    with Progress(*columns, console=errors) as bar:
        task = bar.add_task("encoding item texts", total=1.0)
        shop = load(
            events,
            items,
            prepared_encoder(settings.encoder, settings.home),
            settings.vectors.dims,
            max_items=options.training.max_items,
            encoded=lambda done, total: bar.update(task, completed=done / max(1, total)),
        )

        def told(text: str, share: float) -> None:
            if not errors.is_terminal and text != bar.tasks[task].description:
                click.echo(f"{bar.tasks[task].elapsed or 0:.0f} s: {text}", err=True)
            bar.update(task, description=text, completed=share)

        made = Evaluation(shop, options, told)
        made.run()
    return report.answer(made)


def changed(config: Config, changes: tuple[str, ...]) -> Config:
    """`config` with `NAME=VALUE` set, the value read as the field's type; raises `click.BadParameter`."""
    known = {field.name for field in fields(config)}
    for change in changes:
        name, _, text = change.partition("=")
        if name not in known:
            raise click.BadParameter(f"--set {change}: there is {', '.join(sorted(known))}")
        try:
            value = json.loads(text.lower() if text.lower() in ("true", "false") else text)
        except json.JSONDecodeError:
            value = text
        before = getattr(config, name)
        if before is not None and type(value) is not type(before) and not (type(before), type(value)) == (float, int):
            raise click.BadParameter(f"--set {change}: wanted a {type(before).__name__}")
        fitting: dict[str, Any] = {name: float(value) if isinstance(before, float) else value}
        config = replace(config, **fitting)
    return config
