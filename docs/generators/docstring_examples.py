"""Examples in docstrings (`>>> ...`) as blocks of code on the site: a griffe extension that `mkdocs.yml` names.

Owns that one rewrite. Runs in the environment of `make docs`, so it must import nothing of Freshet.
"""

from __future__ import annotations

import re
from typing import Any

import griffe

# Outside of an "Examples:" section Markdown would show `>>>` as three nested quotations.
_PROMPTS = re.compile(r"(?:^(?:>>>|\.\.\.)[^\n]*\n?)+", re.MULTILINE)


class DocstringExamples(griffe.Extension):
    """Fences each run of lines that begin with a prompt, and drops the prompts so that it can be copied."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        if obj.docstring:
            obj.docstring.value = _PROMPTS.sub(fenced, obj.docstring.value)


def fenced(prompts: re.Match[str]) -> str:
    """One run of prompt lines as a block of Python."""
    lines = [line[4:] for line in prompts[0].rstrip("\n").split("\n")]
    return "\n```python\n" + "\n".join(lines) + "\n```\n"
