"""The `freshet` command: one table of commands, each in its own file and imported only when called.

Owns the table, the exit codes (0 done, 1 failed, 2 wrong settings or usage) and how an error is shown. Must not import
anything heavier than click: `freshet --help` answers at once.
"""

from __future__ import annotations

from importlib import import_module

import click

from streams.settings import SettingError

COMMANDS: dict[str, tuple[str, str]] = {
    "demo": ("cli.demo:demo", "Play a real log through the whole system and show what comes out."),
    "up": ("cli.stack:up", "Start the embedded stack: Kafka, Valkey and an LLM server."),
    "down": ("cli.stack:down", "Stop the embedded stack."),
    "status": ("cli.stack:status", "Show what runs and where it listens."),
    "worker": ("cli.worker:worker", "Run lanes: all of them, or those named."),
    "topics": ("cli.topics:topics", "Create or list the topics."),
    "schemas": ("cli.schemas:schemas", "Compare the contracts with a schema registry, or register them."),
    "send": ("cli.send:send", "Send items or events from a file to Kafka."),
    "distill": ("cli.distill:distill", "Distil a file of items into a file of knowledge."),
    "features": ("cli.features:features", "Show what a ranker would get."),
    "versions": (
        "cli.versions:versions",
        "Make, compare, activate, roll back and delete feature versions.",
    ),
    "replay": ("cli.replay:replay", "Bring a version up to date with what was there before it."),
    "rebuild": ("cli.rebuild:rebuild", "Fill an empty Redis from the log, and compare the two."),
    "dlq": ("cli.dlq:dlq", "Look at dead letters, send their records again, remove them."),
    "erase": ("cli.erase:erase", "Forget users everywhere, with a receipt."),
    "train": ("cli.train:train", "Train the user reasoner, or the aligner, on a log of events."),
    "evaluate": ("cli.evaluate:evaluation", "Measure quality against held-out truth."),
    "settings": ("cli.settings:settings", "Show each setting's value and source, or a file to start from."),
    "models": ("cli.models:models", "Prepare the model weights."),
}
"""Name to (`module:command`, the line shown in the list of commands)."""


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
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in COMMANDS.items()])

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
