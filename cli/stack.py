"""`freshet up`, `down` and `status`: the embedded stack as a person, or a script, sees it.

Owns what is shown. The stack itself is `streams/embedded`'s.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import asdict
from typing import Any

import click
from confluent_kafka import KafkaException
from rich.console import Console
from rich.live import Live
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from local.stack.kafka import broker_answers
from local.stack.llm import http_ok
from local.stack.process import ServiceError, log_tail
from local.stack.stack import prepare
from local.stack.state import ServiceState, StackLock, StackState, read_state, resolve, running
from local.stack.supervise import data_folder
from models.encoder.weights import WeightsError
from schemas.setting import variable
from streams.settings import Settings

POLL_S = 0.25
DOWN_TIMEOUT_S = 60.0
COLOURS = {"ready": "green", "starting": "yellow", "restarting": "yellow", "failed": "red", "stopped": "dim"}
LABELS = {"kafka": "Kafka", "redis": "Redis", "llm": "LLM"}


@click.command()
@click.option("--no-llm", is_flag=True, help="Without the LLM server: workers leave item-distill out.")
@click.option("--prepare-only", is_flag=True, help="Fetch what is missing, start nothing.")
def up(no_llm: bool, prepare_only: bool) -> None:
    """Start the embedded stack in the background: Kafka, Valkey and an LLM server.

    What FRESHET_KAFKA, FRESHET_REDIS or FRESHET_LLM give an address for is not started. Data is kept between starts.
    """
    console, settings = Console(), Settings.load()
    if not prepare_only and (state := running(settings.home)) is not None:
        console.print("The stack is already running.")
        console.print(_table(state.services))
        return
    try:
        _prepare(console, settings, llm=not no_llm)
        if prepare_only:
            return
        state = _launch(console, settings, no_llm)
    except (ServiceError, WeightsError) as error:
        raise click.ClickException(str(error)) from error
    console.print(
        "\nNext: [bold]freshet topics create[/], then [bold]freshet worker[/]; [bold]freshet down[/] stops the stack."
    )


def _prepare(console: Console, settings: Settings, *, llm: bool) -> None:
    """Fetch what is missing, one bar a stage; nothing is shown when nothing is."""
    columns = TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:>3.0f}%"), TimeElapsedColumn()
    with Progress(*columns, console=console) as progress:
        tasks: dict[str, Any] = {}

        def report(stage: str, done: float, total: float) -> None:
            if stage not in tasks:
                tasks[stage] = progress.add_task(stage, total=None)
            progress.update(tasks[stage], completed=done, total=total or None)

        prepare(settings, llm=llm, report=report)


def _launch(console: Console, settings: Settings, no_llm: bool) -> StackState:
    """Start the supervisor, show its services until all are ready; ends it on failure and on Ctrl-C."""
    folder = data_folder(settings.home)
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / "supervisor.log"
    with log.open("w") as out:
        supervisor = subprocess.Popen(
            [sys.executable, "-m", "local.stack.supervise", *(["--no-llm"] if no_llm else [])],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            start_new_session=True,
            env={**os.environ, "FRESHET_HOME": str(settings.home)},
        )
    ready = False
    try:
        with Live(console=console, transient=not console.is_terminal, refresh_per_second=8) as live:
            while supervisor.poll() is None and not ready:
                state = read_state(settings.home)
                if state is not None and state.supervisor == supervisor.pid:
                    live.update(_table(state.services, spin=console.is_terminal))
                    ready = all(service.status == "ready" for service in state.services)
                time.sleep(POLL_S)
        if not ready:
            raise ServiceError(f"the stack did not start:\n{log_tail(log, 40)}")
        assert state is not None
        if not console.is_terminal:
            console.print(_table(state.services))
        return state
    finally:
        if not ready and supervisor.poll() is None:
            supervisor.terminate()
            supervisor.wait(DOWN_TIMEOUT_S)


@click.command()
@click.option("--erase", is_flag=True, help="Also delete the data of Kafka and Valkey.")
def down(erase: bool) -> None:
    """Stop the embedded stack and everything it started."""
    console, settings = Console(), Settings.load()
    state, lock = running(settings.home), StackLock(settings.home)
    if state is None:
        console.print("The stack is not running.")
    else:
        os.kill(state.supervisor, signal.SIGTERM)
        deadline = time.monotonic() + DOWN_TIMEOUT_S
        with console.status("Stopping"):
            while lock.held() and time.monotonic() < deadline:
                time.sleep(0.1)
            if lock.held():  # its guards end the services all the same
                os.kill(state.supervisor, signal.SIGKILL)
        console.print(f"Stopped {', '.join(s.about for s in state.services)}.")
    folder = data_folder(settings.home)
    if erase:
        shutil.rmtree(folder, ignore_errors=True)
        console.print("Its data is deleted.")
    elif folder.exists():
        console.print(
            f"Data is kept in {folder}; [bold]freshet up[/] goes on with it, [bold]freshet down --erase[/] deletes it."
        )


@click.command()
@click.option("--json", "as_json", is_flag=True, help="For machines.")
@click.option("--env", is_flag=True, help='Only the addresses, as a shell sets them: eval "$(freshet status --env)".')
def status(as_json: bool, env: bool) -> None:
    """Show what runs and where, the active version and the lags. Exit code 1 unless all of it is healthy."""
    from streams.lanes.table import asking, subscriptions

    settings = Settings.load()
    if env:
        for service in _known(settings):
            click.echo(f"export {variable(service.name)}={shlex.quote(service.address)}")
        return
    services = [_checked(service) for service in _known(settings)]
    healthy = {service["name"]: bool(service["healthy"]) for service in services}
    lag = _lags(settings) if healthy.get("kafka") else {}
    distilling = [one.group for one in subscriptions(settings, asking("llm"))]
    answer = {
        "home": str(settings.home),
        "services": services,
        "active_version": _active_version(settings) if healthy.get("redis") else None,
        "lag": lag,
        "distill": {
            "backlog": sum(lag[group] for group in distilling) if lag.keys() >= set(distilling) else None,
            "budget": _budget(settings) if healthy.get("redis") else None,
        },
    }
    if as_json:
        click.echo(json.dumps(answer, indent=2))
    else:
        _show_status(answer)
    if not services or not all(healthy.values()):
        raise SystemExit(1)


def _known(settings: Settings) -> list[ServiceState]:
    """The running stack's services, and the addresses that the settings give."""
    state = running(settings.home)
    services = list(state.services) if state else []
    for name in LABELS:
        if address := settings.value(name):
            services = [service for service in services if service.name != name]
            services.append(ServiceState(name, "given by the settings", "ready", address, 0, ""))
    return services


def _checked(service: ServiceState) -> dict[str, Any]:
    """The service and whether it answers now."""
    return {**asdict(service), "healthy": bool(service.address) and _answers(service)}


def _answers(service: ServiceState) -> bool:
    if service.name == "kafka":
        return broker_answers(service.address)
    if service.name == "llm":
        return http_ok(f"{service.address.rstrip('/')}/models")
    import redis

    from freshet.connect import connect

    try:
        with connect(service.address, socket_timeout=2, socket_connect_timeout=2) as client:
            return bool(client.ping())
    except (redis.RedisError, redis.exceptions.RedisClusterException):
        return False


def _active_version(settings: Settings) -> str | None:
    from freshet.connect import connect
    from store.versions import Versions

    with connect(resolve(settings).redis.url, socket_timeout=2) as client:
        return Versions(client, settings.key_prefix).active()


def _budget(settings: Settings) -> dict[str, int | float] | None:
    """The hour's tokens as the workers left them; None where neither they nor these settings know of a limit."""
    import redis

    from freshet.connect import connect
    from store.token_budget import budget_state

    with connect(resolve(settings).redis.url, socket_timeout=2) as client:
        try:
            state = budget_state(client, settings.key_prefix)
        except redis.RedisError:
            return None
    limit = state.limit or settings.llm.tokens_per_hour
    return {**asdict(state), "limit": limit} if limit else None


def _lags(settings: Settings) -> dict[str, int]:
    """Records behind, for each lane of this deployment that reads Kafka."""
    from streams.kafka.lag import GroupLag
    from streams.kafka.producer import kafka_config
    from streams.lanes.table import consumer_groups

    settings = resolve(settings)
    try:
        with GroupLag(kafka_config(settings), consumer_groups(settings)) as lag:
            return lag.read(timeout_s=5)
    except KafkaException:
        return {}


def _show_status(answer: dict[str, Any]) -> None:
    console = Console()
    if not answer["services"]:
        console.print("Nothing is running. [bold]freshet up[/] starts Kafka, Valkey and an LLM server.")
        return
    fields = ServiceState.__dataclass_fields__
    states = [ServiceState(**{k: v for k, v in s.items() if k in fields}) for s in answer["services"]]
    console.print(_table(states, health={s["name"]: s["healthy"] for s in answer["services"]}))
    version = answer["active_version"]
    console.print(f"Active version: {version or 'none yet; a worker activates the first'}")
    for group, lag in answer["lag"].items():
        console.print(f"  {group}: {lag:,} records behind", highlight=False)
    distill = answer["distill"]
    if (backlog := distill["backlog"]) is not None:
        console.print(f"Items waiting for the LLM: {backlog:,}", highlight=False)
    if budget := distill["budget"]:
        left = "spent, new items wait" if budget["spent"] >= budget["limit"] else f"{budget['held']:,} held by calls"
        console.print(
            f"LLM tokens this hour: {budget['spent']:,} of {budget['limit']:,} ({left}; "
            f"starts anew in {budget['resets_in_s'] / 60:.0f} min)",
            highlight=False,
        )


def _table(services: Any, *, health: dict[str, bool] | None = None, spin: bool = False) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for title in ("", "what", "state", "address", "pid"):
        table.add_column(title, header_style="dim", overflow="fold")
    for service in services:
        shown = service.status
        if health is not None and service.status == "ready" and not health[service.name]:
            shown = "no answer"
        state: Text | Spinner = Text(shown, style=COLOURS.get(shown, "red"))
        if spin and shown in ("starting", "restarting"):
            state = Spinner("dots", Text(shown, style="yellow"))
        if service.restarts:
            shown += f" ({service.restarts} restarts)"
        about = Text(service.about, style="bold yellow" if "demo only" in service.about else "")
        table.add_row(LABELS.get(service.name, service.name), about, state, service.address, str(service.pid or ""))
    return table


__all__ = ["down", "status", "up"]
