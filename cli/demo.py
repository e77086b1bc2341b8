"""`freshet demo`: the main job on a real log, from nothing. Owns options and errors; `local.demo` does the work."""

from __future__ import annotations

import json
import signal
import sys
from dataclasses import asdict
from pathlib import Path
from types import FrameType

import click
from rich.console import Console

from local.demo.data import NotEnoughData
from local.demo.run import DemoConfig, DemoFailed, run
from local.stack.process import ServiceError
from models.encoder.weights import WeightsError
from models.reasoner.training.config import TrainingError
from schemas.files import FileError
from streams.settings import Settings

DEFAULTS = DemoConfig()
WIDTH = 120
"""In a file, where nobody's window says how wide a line may be."""
_file = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.command()
@click.option("--items", type=_file, help="Your catalogue: parquet or JSON lines (see `freshet send items --help`).")
@click.option("--events", type=_file, help="Your log of events, with --items.")
@click.option("--rate", default=DEFAULTS.rate, show_default=True, type=click.FloatRange(1), help="Events a second.")
@click.option("--seconds", default=DEFAULTS.seconds, show_default=True, type=click.FloatRange(1), help="To play for.")
@click.option(
    "--knowledge",
    default=DEFAULTS.knowledge,
    show_default=True,
    type=click.IntRange(0),
    help="Wait for this many items distilled by the language model.",
)
@click.option("--retrain", is_flag=True, help="Train the reasoner even where last time's would do.")
@click.option("--json", "as_json", is_flag=True, help="One line of JSON at the end; the rest goes to stderr.")
def demo(
    items: Path | None,
    events: Path | None,
    rate: float,
    seconds: float,
    knowledge: int,
    retrain: bool,
    as_json: bool,
) -> None:
    """Play a real log through the whole system and show what comes out.

    Starts Kafka, Valkey and vLLM on this machine, trains the reasoner on the first part of the log, plays the rest.
    Ends by itself in a few minutes, and leaves nothing running.
    """
    if (items is None) != (events is None):
        raise click.UsageError("--items and --events go together")
    config = DemoConfig(items=items, events=events, rate=rate, seconds=seconds, knowledge=knowledge, retrain=retrain)
    console = Console(stderr=as_json)
    if not console.is_terminal:
        console.width = max(console.width, WIDTH)
    signal.signal(signal.SIGTERM, _interrupt)  # so that `kill` cleans up as Ctrl-C does
    try:
        counts = run(config, Settings.load(), console)
    except (ServiceError, WeightsError, NotEnoughData, FileError, TrainingError, DemoFailed) as error:
        raise click.ClickException(str(error)) from error
    except KeyboardInterrupt:
        console.print("Stopped; everything that was started has ended.")
        sys.exit(130)
    if as_json:
        click.echo(json.dumps(asdict(counts)))


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt
