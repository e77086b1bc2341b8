"""`freshet worker`: run all lanes, or some, until it is stopped.

Owns the options. The life of the process is `streams.worker.worker`'s.
"""

from __future__ import annotations

import asyncio
import os
import sys

import click

from local.stack.state import resolve
from streams.lanes.table import LANES, UnknownLane, asking, dependencies, lane_specs
from streams.settings import Settings


class LanesOption(click.Option):
    """Its help names the lanes that the table has when it is asked for."""

    def get_help_record(self, ctx: click.Context) -> tuple[str, str] | None:
        self.help = f"Comma-separated; default all: {', '.join(LANES)}."
        return super().get_help_record(ctx)


@click.command()
@click.option("--lanes", cls=LanesOption, default="")
@click.option(
    "--metrics-port", type=click.IntRange(0, 65535), help="Answer /metrics, /livez and /readyz here; 0: don't."
)
def worker(lanes: str, metrics_port: int | None) -> None:
    """Run lanes until SIGTERM or Ctrl-C, then finish what is under way.

    Exit code 0: stopped on purpose; 1: a lane failed for good (the log says why); 2: wrong settings. Several workers
    share the load; any lane may run alone.
    """
    try:
        names = [spec.name for spec in lane_specs(_names(lanes) or LANES)]
    except UnknownLane as error:
        raise click.BadParameter(str(error), param_hint="--lanes") from error
    settings = resolve(Settings.load(metrics_port=metrics_port))
    if not lanes and not settings.llm.url and settings.llm.backend == "openai":
        # Nobody named a lane, so a missing endpoint must not keep those that ask none from running.
        names, left_out = [name for name in names if name not in asking("llm")], ", ".join(asking("llm"))
        click.echo(f"freshet: no FRESHET_LLM, so {left_out} does not run; the other lanes do", err=True)
    settings = resolve(settings, *dependencies(names))
    # Read when torch is imported. Several busy computations on few cores wait for each other's threads: with two
    # threads each, a loaded machine trains and infers up to seventy times slower than with one.
    os.environ["OMP_NUM_THREADS"] = str(settings.worker.threads)
    # Heavy from here on; a wrong option has been answered without it.
    from streams import logs
    from streams.wiring.resources import Resources
    from streams.worker.worker import run

    logs.configure(settings.log_level)
    sys.exit(asyncio.run(run(names, Resources(settings, member=True))))


def _names(lanes: str) -> list[str]:
    return [name for part in lanes.split(",") if (name := part.strip())]
