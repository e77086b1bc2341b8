"""`freshet models prepare|list`: the weights this machine needs, fetched once."""

from __future__ import annotations

import json

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from models.encoder.weights import (
    ENCODER_NAME,
    LLMS,
    QWEN_05B,
    WeightsError,
    encoder_dir,
    llm_dir,
    prepare_encoder,
    prepare_llm,
    prepared,
)
from streams.settings import Settings


@click.group()
def models() -> None:
    """Prepare the model weights."""


@models.command()
@click.option("--encoder", "only_encoder", is_flag=True, help="Only the text encoder; no language model.")
@click.option("--llm", "llm_name", type=click.Choice(list(LLMS)), default=QWEN_05B.name, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="One line of JSON instead of a progress bar.")
def prepare(only_encoder: bool, llm_name: str, as_json: bool) -> None:
    """Fetch and check weights.

    Also vLLM's environment. What is there already is left alone.
    """
    home = Settings.load().home
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    try:
        with Progress(*columns, console=Console(stderr=True), disable=as_json, transient=True) as progress:
            task = progress.add_task("Looking at what is there", total=None)

            def report(stage: str, done: float, total: float) -> None:
                progress.update(task, description=stage, completed=done, total=total)

            folders = {"encoder": prepare_encoder(home, report)}
            if not only_encoder:
                folders["llm"] = prepare_llm(home, report, LLMS[llm_name])
    except WeightsError as error:
        raise click.ClickException(str(error)) from error
    if as_json:
        click.echo(json.dumps({name: str(folder) for name, folder in folders.items()}))
        return
    for name, folder in folders.items():
        click.echo(f"{name:8} {folder}")


@models.command("list")
@click.option("--json", "as_json", is_flag=True, help="One line of JSON.")
def list_(as_json: bool) -> None:
    """Show which weights exist, and which are here."""
    home = Settings.load().home
    rows = [(ENCODER_NAME, "text encoder, 91 MB; 384 dims", prepared(encoder_dir(home)))]
    rows += [(model.name, model.about, prepared(llm_dir(home, model))) for model in LLMS.values()]
    if as_json:
        click.echo(json.dumps([{"name": name, "about": about, "prepared": here} for name, about, here in rows]))
        return
    table = Table("model", "what", "here", box=None)
    for name, about, here in rows:
        table.add_row(name, about, "yes" if here else "no")
    Console().print(table)
    click.echo("Next: freshet models prepare")
