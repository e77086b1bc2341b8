"""`docs/reference/cli.md`: every command with its usage, help and options, grouped by who uses it.

Owns the form of the page. Texts are the commands' own, and the groups those of `freshet --help`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import click

from cli import GROUPS, main

PAGE = Path(__file__).parents[1] / "reference" / "cli.md"


def commands() -> Iterator[tuple[str, click.Command, click.Context]]:
    """Every command by its full name, `freshet dlq list`, after the group it is in."""
    root = click.Context(main, info_name="freshet")
    yield from _walk(main, root)


def page() -> str:
    """The page, whole."""
    entries: dict[str, list[str]] = {}
    for path, command, context in commands():
        words = path.split()
        if len(words) > 1:
            entries.setdefault(words[1], []).append(_entry(path, command, context))
    sections = [
        f"## {title}\n\n" + "\n".join(entry for name in names for entry in entries.get(name, ()))
        for title, names in GROUPS.items()
    ]
    overview = [
        f"| {title} | {', '.join(f'[`{name}`](#freshet-{name})' for name in names)} |"
        for title, names in GROUPS.items()
    ]
    return f"""# Commands

<!-- made by python -m docs.generators.cli_page; a test compares -->

`freshet COMMAND --help` prints the same text. Addresses and credentials are [settings](settings.md), the same for
all commands.

| exit code | meaning |
|---|---|
| 0 | done |
| 1 | failed, refused or stopped; a line on standard error says why |
| 2 | wrong options or settings; the line names the one that is wrong |

| for | commands |
|---|---|
{chr(10).join(overview)}

{chr(10).join(sections)}"""


def text(words: str) -> str:
    """Help text as Markdown: outside of code, nothing in it is markup."""
    parts = re.split(r"(`[^`]*`)", words)
    return "".join(one if one.startswith("`") else re.sub(r"([*_<\[\]])", r"\\\1", one) for one in parts)


def paragraphs(help_text: str) -> list[str]:
    """Help text in paragraphs, each in one line."""
    return [" ".join(one.split()) for one in re.split(r"\n\s*\n", help_text.strip()) if one.strip("\b \n")]


def _walk(command: click.Command, context: click.Context) -> Iterator[tuple[str, click.Command, click.Context]]:
    yield context.command_path, command, context
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            inner = command.get_command(context, name)
            if inner is not None and not inner.hidden:
                yield from _walk(inner, click.Context(inner, info_name=name, parent=context))


def _entry(path: str, command: click.Command, context: click.Context) -> str:
    usage = " ".join([path, *command.collect_usage_pieces(context)])
    lines = [f"{'#' * (len(path.split()) + 1)} {path}", "", f"    {usage}", ""]
    for paragraph in paragraphs(command.help or ""):
        lines += [text(paragraph), ""]
    options = [record for one in command.get_params(context) if (record := one.get_help_record(context))]
    for names, about in options:
        if "--help" not in names:
            lines.append(f"- `{' '.join(names.split())}`: {text(' '.join(about.split()))}")
    return "\n".join([*lines, ""]) if lines[-1] else "\n".join(lines)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
