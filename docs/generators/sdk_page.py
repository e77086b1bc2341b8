"""`docs/reference/sdk.md`: every public name of `freshet`, whose docstrings mkdocstrings puts in their place.

Owns the order. Names are those of `freshet.__all__`, so that a new one cannot stay out.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import freshet

PAGE = Path(__file__).parents[1] / "reference" / "sdk.md"

GROUPS: dict[str, tuple[str, ...]] = {
    "Read": ("reader", "async_reader"),
    "What a read returns": ("results",),
    "Rank": ("ranking", "ranking_reader"),
    "Cache, breaker, metrics": ("local_cache", "_breaker", "metrics"),
}
"""Section to the modules whose names it holds; names of any other module come last."""
OTHERS = "Records, keys, errors"


def page() -> str:
    """The page, whole."""
    section = {f"freshet.{module}": title for title, modules in GROUPS.items() for module in modules}
    names: dict[str, list[str]] = {title: [] for title in (*GROUPS, OTHERS)}
    for name in freshet.__all__:
        names[section.get(getattr(getattr(freshet, name), "__module__", ""), OTHERS)].append(name)
    sections = [
        f"## {title}\n\n" + "\n\n".join(f"::: freshet.{name}" for name in sorted(listed)) + "\n"
        for title, listed in names.items()
    ]
    if find_spec("freshet.testing"):
        sections.append("## For your own unit tests\n\n::: freshet.testing\n    options: {show_root_heading: false}\n")
    return f"""# Python SDK

<!-- made by python -m docs.generators.sdk_page; a test compares -->

What `from freshet import ...` gives, from the docstrings. [Read features](../use/rankers/read.md) is the guide;
everything here is covered by semantic versioning, and a name that is not here is not.

{chr(10).join(sections)}"""


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
