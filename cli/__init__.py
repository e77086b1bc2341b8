"""The `freshet` command: one table of commands, each in its own file and imported only when called.

Owns the table, the exit codes (0 done, 1 failed, 2 wrong settings or usage) and how an error is shown. Must not import
anything heavier than click: `freshet --help` answers at once.
"""

from __future__ import annotations

from importlib import import_module

import click

from streams.settings import SettingError

GROUPS: dict[str, dict[str, tuple[str, str]]] = {
    "Try it": {
        "demo": ("cli.demo:demo", "Play a real log through the whole system and show the results."),
        "up": ("cli.stack:up", "Start the embedded stack: Kafka, Valkey and an LLM server."),
        "down": ("cli.stack:down", "Stop the embedded stack."),
        "status": ("cli.stack:status", "Show what runs and where it listens."),
        "settings": ("cli.settings:settings", "Show each setting and its source, or print a file to start from."),
    },
    "Platform: send data, distill knowledge, train models": {
        "topics": ("cli.topics:topics", "Create or list the topics."),
        "schemas": ("cli.schemas:schemas", "Compare the contracts with a schema registry, or register them."),
        "send": ("cli.send:send", "Send items or events from a file to Kafka."),
        "distill": ("cli.distill:distill", "Distill a file of items into a file of knowledge."),
        "models": ("cli.models:models", "Prepare the model weights."),
        "train": ("cli.train:train", "Train the user reasoner, or the aligner, on a log of events."),
        "evaluate": ("cli.evaluate:evaluation", "Measure quality against held-out truth."),
    },
    "Rankers: read features": {
        "features": ("cli.features:features", "Show what a ranker would get."),
    },
    "Operators: run and repair": {
        "worker": ("cli.worker:worker", "Run lanes: all of them, or those named."),
        "versions": ("cli.versions:versions", "Make, compare, activate, roll back and delete feature versions."),
        "replay": ("cli.replay:replay", "Bring a version up to date with what was there before it."),
        "rebuild": ("cli.rebuild:rebuild", "Fill an empty Redis from the log, and compare the two."),
        "dlq": ("cli.dlq:dlq", "Inspect dead letters, send their records again, remove them."),
        "erase": ("cli.erase:erase", "Erase users everywhere, with a receipt."),
    },
}
"""By who uses them: name to (`module:command`, the line shown in the list of commands)."""

COMMANDS = {name: entry for group in GROUPS.values() for name, entry in group.items()}


class LazyGroup(click.Group):
    """A group whose commands are imported when they are called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module, _, attribute = COMMANDS[cmd_name][0].partition(":")
        command = getattr(import_module(module), attribute)
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        widest = max(map(len, COMMANDS))  # one column for all groups
        for title, group in GROUPS.items():
            with formatter.section(title):
                formatter.write_dl([(name.ljust(widest), line) for name, (_, line) in group.items()])

    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except SettingError as error:
            click.echo(f"freshet: {error}", err=True)
            ctx.exit(2)


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="freshet-app", prog_name="freshet")
def main() -> None:
    """Keep a ranker's features fresh: item knowledge and user reasoning, streamed from Kafka to Redis.

    Settings come from FRESHET_* variables or the TOML file named by FRESHET_CONFIG.
    """
