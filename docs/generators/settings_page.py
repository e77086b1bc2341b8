"""`docs/reference/settings.md`: every setting as the tables that people read.

Owns the page. What a setting is, `schemas.setting` and the groups say.
"""

from __future__ import annotations

from itertools import groupby
from pathlib import Path

from schemas.setting import kind, variable
from streams.settings import Named, Settings, every_setting

PAGE = Path(__file__).parents[1] / "reference" / "settings.md"


def descriptions() -> dict[str, str]:
    """What each setting is for, by its variable."""
    return {variable(one.name): one.field.metadata["about"] for one in every_setting()}


def tables() -> str:
    """The settings as one Markdown table per group."""
    parts = []
    for group, members in groupby(every_setting(), key=lambda one: one.group):
        about = (type(getattr(Settings(), group)).__doc__ or "").partition(": ")[2] if group else ""
        parts.append(f"## `[{group}]`\n\n{about[:1].upper()}{about[1:]}\n" if group else "## Outside any group\n")
        parts.append("| variable | type | default | meaning |\n|---|---|---|---|")
        parts += [_row(one) for one in members]
        parts.append("")
    return "\n".join(parts).rstrip()


def _row(one: Named) -> str:
    default = str(one.default).lower() if isinstance(one.default, bool) else str(one.default)
    key = f" (in TOML `{one.field.name}`)" if one.name == one.group else ""
    shown = f"`{default}`" if default else ""
    return f"| `{variable(one.name)}` | {kind(one.field)} | {shown} | {one.field.metadata['about']}{key} |"


def page() -> str:
    """The page, whole."""
    return f"""# Settings

<!-- made by python -m docs.generators.settings_page; a test compares -->

A setting comes from the first of these that has it: an option of the command, the environment variable below, the TOML
file that `FRESHET_CONFIG` names, the default. `freshet settings` shows what is in force and where it comes from;
`freshet settings --toml` prints a commented file to start from.

In the file each group is a table, and a key is the name after the two underscores: `security` in `[kafka]` is
`FRESHET_KAFKA__SECURITY`. The bare name of a group sets its first setting: `FRESHET_KAFKA=host:9092`. In a variable one
underscore does as well as two, and the group may be left out where no other has a setting of that name.

An empty variable counts as not set. A wrong value, an unknown key or a misspelled variable ends a command with exit
code 2 and a line that names it. Secrets, and passwords in URLs, are never printed. Each secret and each URL may come
from a file instead: `FRESHET_KAFKA__PASSWORD_FILE=/run/secrets/kafka` for `FRESHET_KAFKA__PASSWORD`.

{tables()}
"""


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
