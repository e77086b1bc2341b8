"""`freshet distill`: a file of items into a file of knowledge, to be stopped and gone on with at will.

Owns the command's options, its progress bar and what it prints. The loop is `streams.jobs.distill_file`'s. Must not
import a Kafka or Redis client: the command also runs in vLLM's own environment, which has neither.
"""

from __future__ import annotations

import asyncio
import json
import logging
import signal
import sys
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from freshet.clock import wall_clock
from freshet.records import Item
from local.stack.state import resolve
from models.encoder.backends import prepared_encoder
from models.encoder.weights import encoder_dir, prepared
from models.llm.backends import BACKENDS, Endpoint, connect
from models.llm.client import LanguageModel, LLMForbidden, OpenAIClient
from models.llm.limits import AdaptiveLimit, LimitedModel
from models.llm.vllm_engine import EngineError, VllmEngine
from processors.items.distiller import DistillationConfig, Distiller
from schemas.files import FileError, read_items
from schemas.knowledge_file import KnowledgeFile
from streams.backoff import Backoff
from streams.jobs.distill_file import LONGEST_PAUSE_S, NAME, DistillCounts, OfflineRun, chosen, watched
from streams.metrics import Metrics
from streams.settings import SettingError, Settings
from streams.wiring.distillation import distillation_config

_in = click.Path(exists=True, dir_okay=False, path_type=Path)
_out = click.Path(dir_okay=False, path_type=Path)


@dataclass(frozen=True, slots=True)
class DistillOptions:
    """What was asked for."""

    items: Path
    out: Path
    limit: int | None
    seed: int
    concurrency: int


@click.command()
@click.option("--items", required=True, type=_in, help="Parquet or JSON lines: the catalogue to distill.")
@click.option("--out", required=True, type=_out, help="JSON lines, or .parquet; goes on where it stands.")
@click.option(
    "--catalogue", type=_in, help="Wanted attributes per category; default: FRESHET_KNOWLEDGE__CATALOGUE, else open."
)
@click.option("--examples", type=_in, help="Annotated items, as worked examples; default: FRESHET_KNOWLEDGE__EXAMPLES.")
@click.option("--agents", help="Agent set or agents that are asked; default: FRESHET_KNOWLEDGE__AGENTS.")
@click.option("--llm", help="Base URL of an OpenAI-compatible endpoint; default: FRESHET_LLM or `freshet up`.")
@click.option(
    "--engine", metavar="WEIGHTS", help="Instead: vLLM in this process, on a folder of weights or a hub name."
)
@click.option("--limit", type=click.IntRange(1), help="Only so many items, drawn with --seed.")
@click.option("--seed", default=0, show_default=True, type=click.IntRange(0), help="Which items --limit draws.")
@click.option("--concurrency", type=click.IntRange(1, 1024), help="Items under way; default: FRESHET_LLM__CONCURRENCY.")
@click.option("--json", "as_json", is_flag=True, help="One line of JSON at the end, no progress bar.")
def distill(
    items: Path,
    out: Path,
    llm: str | None,
    engine: str | None,
    limit: int | None,
    seed: int,
    concurrency: int | None,
    as_json: bool,
    **distillation: Any,
) -> None:
    """Distill ITEMS into OUT with a language model.

    Columns of ITEMS: as `freshet send items`. OUT gets a line as each item is ready; the same command again does only
    what is missing, changed or failed (OUT.failed.jsonl says why). While the endpoint is away it waits.
    """
    settings = _settings(llm, engine, llm_concurrency=concurrency, **distillation)
    options = DistillOptions(items, out, limit, seed, settings.llm.concurrency)
    # What Backoff logs stands in the bar.
    logging.getLogger("streams.backoff").addHandler(logging.NullHandler())
    before = signal.signal(signal.SIGTERM, _interrupt)  # so that `kill` ends as Ctrl-C does
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as a shell's background job inherits it
        signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        tally, file = _run(settings, options, quiet=as_json)
    except (FileError, EngineError, LLMForbidden) as error:
        raise click.ClickException(str(error)) from error
    finally:
        signal.signal(signal.SIGTERM, before)
    _show(tally, file, options, as_json)
    if not tally.complete:
        sys.exit(130)
    if tally.failed and not tally.made + tally.there:
        sys.exit(1)


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    """As Ctrl-C: asyncio cancels what is under way; an exception out of a handler would hit whichever task runs."""
    signal.raise_signal(signal.SIGINT)


def _settings(llm: str | None, engine: str | None, **others: Any) -> Settings:
    """With a model to ask; raises `SettingError` where none is named."""
    if llm and engine:
        raise click.UsageError("--llm and --engine exclude each other")
    chosen_engine: dict[str, Any] = {"llm_backend": "vllm", "llm_model": engine} if engine else {}
    others = {name: str(value) if isinstance(value, Path) else value for name, value in others.items()}
    settings = Settings.load(llm=llm, **others, **chosen_engine)
    if settings.llm.backend not in BACKENDS:
        raise SettingError("llm.backend", settings.llm.backend, f"one of {', '.join(BACKENDS)}")
    if settings.llm.backend == "vllm":
        if not settings.llm.model:
            raise SettingError("llm.model", "", "a folder of weights or a hub name, as the back end is vllm")
        return settings
    try:
        return resolve(settings, "llm")
    except SettingError:
        raise click.UsageError(
            "no language model to ask: give --llm URL, set FRESHET_LLM, start the stack with `freshet up`, or let "
            "--engine WEIGHTS compute in this process"
        ) from None


def _run(settings: Settings, options: DistillOptions, *, quiet: bool) -> tuple[DistillCounts, KnowledgeFile]:
    items = chosen(read_items(options.items, default_time=wall_clock()), options.limit, options.seed)
    file = KnowledgeFile(options.out)
    try:
        with _Bar(len(items), quiet=quiet) as bar:
            tally = DistillCounts(items=len(items))
            with suppress(KeyboardInterrupt):  # the tally says how far it came
                asyncio.run(_distill(items, file, settings, bar, tally))
        if tally.complete:
            file.finish()
    finally:
        file.close()
    return tally, file


async def _distill(items: list[Item], file: KnowledgeFile, settings: Settings, bar: _Bar, tally: DistillCounts) -> None:
    llm = connect(
        settings.llm.backend,
        Endpoint(settings.llm.url, settings.llm.model, settings.llm.timeout_s, 2 * settings.llm.concurrency),
    )
    try:
        await _ready(llm, bar)
        distillation = await asyncio.to_thread(_distillation_config, settings)
        distiller = Distiller(_limited(llm, settings), wall_clock, distillation=distillation, version=settings.version)
        run = OfflineRun(
            items,
            file,
            distiller,
            bar,
            wall_clock,
            tally,
            concurrency=settings.llm.concurrency,
            version=settings.version,
            sharing=settings.knowledge.share,
        )
        await run.run()
    finally:
        await llm.aclose()


def _distillation_config(settings: Settings) -> DistillationConfig:
    """What the settings ask for; without a prepared encoder the first examples are shown, not the nearest."""
    folder = Path(settings.encoder.folder) if settings.encoder.folder else encoder_dir(settings.home)
    return distillation_config(
        settings,
        prepared_encoder(settings.encoder, settings.home) if prepared(folder) or settings.encoder.folder else None,
    )


def _limited(llm: LanguageModel, settings: Settings) -> LanguageModel:
    """An endpoint may say that it is busy, and gets less; the engine queues by itself."""
    if settings.llm.backend == "vllm":
        return llm
    return LimitedModel(llm, AdaptiveLimit(settings.llm.concurrency))


async def _ready(llm: LanguageModel, bar: _Bar) -> None:
    """Wait until the endpoint says which model it serves, as its name is part of what tells done from to do.

    An engine loads now, so that its minute does not count as a slow first item.
    """
    if isinstance(llm, VllmEngine):
        bar.say("Loading the weights")
        llm.start()
        bar.say("Distilling")
    if isinstance(llm, OpenAIClient):
        backoff = Backoff(NAME, Metrics(), most_s=LONGEST_PAUSE_S)
        await backoff.persevere(lambda: watched(llm.served_model, bar))


class _Bar:
    """The progress of a run, as `jobs.distill_file.Watcher`; without a terminal only waits are shown, in lines."""

    def __init__(self, total: int, *, quiet: bool) -> None:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        self._console = Console(stderr=True)
        self._progress = Progress(*columns, console=self._console, disable=quiet, transient=True)
        self._task = self._progress.add_task("Distilling", total=total)
        self._cause = ""

    def __enter__(self) -> _Bar:
        self._progress.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._progress.stop()

    def item(self, tally: DistillCounts) -> None:
        """See `Watcher.item`."""
        tried = tally.items - tally.left
        failed = f", {tally.failed} failed" if tally.failed else ""
        self._progress.update(self._task, completed=tried, description=f"Distilling{failed}")

    def waiting(self, cause: str) -> None:
        """See `Watcher.waiting`."""
        if bool(cause) == bool(self._cause):
            return
        self._cause = cause
        text = f"Waiting for the language model ({cause[:100]})" if cause else "Distilling"
        self.say(text)
        if self._progress.disable or not self._console.is_terminal:
            click.echo(text if cause else "The language model is back", err=True)

    def say(self, text: str) -> None:
        """Put `text` before the bar."""
        self._progress.update(self._task, description=text)


def _show(tally: DistillCounts, file: KnowledgeFile, options: DistillOptions, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(_answer(tally, file)))
        return
    click.echo(f"{tally.items:,} items: {tally.there:,} were there, {tally.made:,} distilled, {tally.failed:,} failed")
    if tally.made or tally.failed:
        click.echo(f"origin    {tally.fresh:,} fresh, {tally.cache:,} from the cache, {tally.shared:,} shared")
        click.echo(
            f"cost      {tally.calls:,} calls, {tally.tokens_in:,} tokens in, {tally.tokens_out:,} out; "
            f"{tally.per_second:.2f} items/s"
        )
    if tally.failed:
        click.echo(f"failed    {file.failures.path} says why, with the model's answers; the same command tries again")
    if not tally.complete:
        click.echo(f"stopped   {tally.left:,} items are left; the same command goes on in {file.lines.path}")
        return
    click.echo(f"knowledge {options.out}")
    click.echo("next: freshet evaluate knowledge measures the same configuration where gold attributes are known")


def _answer(tally: DistillCounts, file: KnowledgeFile) -> dict[str, Any]:
    return {
        **asdict(tally),
        "left": tally.left,
        "seconds": round(tally.seconds, 3),
        "items_per_s": round(tally.per_second, 3),
        "out": str(file.out),
        "failures": str(file.failures.path),
    }
