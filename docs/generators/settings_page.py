"""`docs/reference/settings.md`: every setting as the table that people read.

Owns the page. What a setting is, `streams.settings` says.
"""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

from streams.settings import WANTED, Settings, range_of, variable

PAGE = Path(__file__).parents[1] / "reference" / "settings.md"


def variables(settings: type[Settings]) -> list[str]:
    """The name of every variable."""
    return [variable(field.name) for field in fields(settings)]


def table() -> str:
    """The settings as a Markdown table."""
    lines = ["| variable | type | default | meaning |", "|---|---|---|---|"]
    for f in fields(Settings):
        kind = " ".join(part for part in (WANTED[str(f.type)], range_of(f)) if part)
        default = f"`{str(f.default).lower() if isinstance(f.default, bool) else f.default}`" if f.default != "" else ""
        lines.append(f"| `{variable(f.name)}` | {kind} | {default} | {f.metadata['about']} |")
    return "\n".join(lines)


def page() -> str:
    """`docs/reference/settings.md`, whole."""
    return f"""# Settings

<!-- made by python -m docs.generators.settings_page; a test compares -->

A setting comes from the first of these that has it: a command's own option, the environment variable below, the TOML
file that `FRESHET_CONFIG` names (keys: the names without `FRESHET_`, in lower case), the default. An empty variable
counts as not set. A wrong value, an unknown key or a misspelt variable ends a command with exit code 2 and a line that
names it. Secrets, and passwords in URLs, are never printed. Each secret, and each URL, may be read from a file instead:
`FRESHET_KAFKA_PASSWORD_FILE=/run/secrets/kafka` for `FRESHET_KAFKA_PASSWORD`.

{table()}
"""


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
