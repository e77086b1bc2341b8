"""An item as data for a prompt: which fields a model sees, cleaned, capped and delimited; and their fingerprint.

Owns what a model is shown of an item. Must not know prompts nor call a model. `clean` takes out what has no business in
an item text and could steer a model or come back in its answer: chat-template tokens and our own delimiters in any
disguise, markup, links, addresses, encoded blobs. Words stay as they are written: quotes must be found again.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

from freshet.records import Item
from processors.items.confusables import unmask, visible

MAX_TITLE, MAX_DESCRIPTION, MAX_FIELD, MAX_FIELDS, MAX_LEVELS = 300, 1_200, 120, 20, 8
_READ_AHEAD = 8
"""Of a text, this many times its limit is read at all: what is cut away must not cost time."""
_ROUNDS = 8
"""Removals that may lay bare another token before a text loses all of its punctuation instead."""

_OPEN, _CLOSE, _BAR = "<‹〈⟨❮≺˂ᐸ〈", ">›〉⟩❯≻˃ᐳ〉", "|¦│┃ǀ∣❘丨"
_OURS = r"(?:i\s?t\s?e\s?m|listing|claim|candidate|example|catalogue)s?"
_ROLES = r"(?:system|user|developer|tool|human|assistant|系统|用户|助手|人类|指令)"
# Chat-template tokens and delimiters: ChatML, Llama 2 to 4, Gemma, Mistral, DeepSeek, Phi, Qwen, GLM, BERT, Alpaca.
TOKENS = tuple(
    re.compile(pattern)
    for pattern in (
        rf"[{_OPEN}]\s?[{_BAR}][^<>\n]{{0,60}}?[{_BAR}]\s?[{_CLOSE}]",
        rf"[{_OPEN}]\s?[{_BAR}]|[{_BAR}]\s?[{_CLOSE}]",
        rf"[{_OPEN}]{{1,2}}\s*/\s*{_OURS}[^<>\n]{{0,20}}?[{_CLOSE}]{{0,2}}",
        rf"[{_OPEN}«《]{{1,2}}\s*/?\s*(?:{_OURS}|{_ROLES}|sys|s|[be]os|start_of_\w+|end_of_\w+|think\w*|tool\w*|instructions?"
        rf"|prompt|admin)\s*[{_CLOSE}»》]{{1,2}}",
        r"<[/!?]?\s*[a-z_][^<>]{0,300}>|<!--|-->|<\s*/?\s*(?:script|iframe|img|svg|style|item)\b",
        r"[\[【]\s*/?\s*(?:[be]_)?(?:inst|sys|available_tools|tool_(?:calls?|results?|content)|g?mask|s?mask|sop|eop|cls|sep"
        r"|pad|unk|bos|eos|img|prefix|suffix|middle|system_prompt|think|modality)\s*[\]】]",
        r"#{1,6}\s*(?:new\s+|end\s+of\s+)?(?:instructions?|system|user|human|assistant|response|input|output|prompt|task"
        r"|answer|example|question|指令|系统|输入|输出|回答)(?:\s+\w{1,12})?\s*:",
        r"`{3,}|~{4,}|={4,}",
    )
)
# A role at the start of a line or sentence loses its colon; "Operating system: Android" keeps it.
_SPEAKERS = (
    re.compile(rf"(?:^|[\n.!?。\"'\])}}>;])\s*{_ROLES}\s*(?P<cut>:)"),
    re.compile(r"\b(?:human|assistant|chatgpt)\s*(?P<cut>:)"),
)
_ENDINGS = (
    "com|net|org|info|biz|ru|cn|io|co|xyz|top|shop|site|online|store|club|click|link|app|dev|me|ly|gg|tk|example|test"
)
LINKS = (
    re.compile(r"\b(?:[a-z][a-z0-9+.\-]{1,15}\s?:\s?//|(?:javascript|vbscript|mailto):(?=\S)|data:[a-z]{2,12}/)\S*"),
    re.compile(r"\bwww\d?\s?[.。]\s?[^\s]{2,}"),
    re.compile(rf"\b[a-z0-9][a-z0-9\-]{{0,62}}(?:\.[a-z0-9\-]{{1,63}}){{0,4}}\.(?:{_ENDINGS})(?::\d+)?/\S*"),
    re.compile(r"[\w.+\-]{1,64}@[\w\-]{1,63}(?:\.[\w\-]{1,63}){1,4}"),
    re.compile(r"!?\[[^\[\]\n]{0,200}\]\([^()\n]{0,300}\)"),
)
_LONGEST = 40
_BLOB = re.compile(rf"(?<![A-Za-z0-9+/])[A-Za-z0-9+/]{{{_LONGEST},}}={{0,2}}")


def used_fields(item: Item) -> dict[str, Any]:
    """What the prompts show of an item: cleaned, capped, and without its price, which changes daily and says little."""
    levels = [clean(part, MAX_FIELD) for part in item.category[:MAX_LEVELS]]
    fields: dict[str, Any] = {
        "title": clean(item.title, MAX_TITLE),
        "brand": clean(item.brand, MAX_FIELD),
        # Cleaned as a whole too: " > " must not close what a level opened.
        "category": clean(" > ".join(level for level in levels if level), MAX_LEVELS * (MAX_FIELD + 3)),
        "attributes": _attributes(item.attributes),
        "description": clean(item.description, MAX_DESCRIPTION),
    }
    return {name: value for name, value in fields.items() if value}


def _attributes(attributes: Mapping[str, str]) -> dict[str, str]:
    """The first attributes by name that say something; of two names that clean alike the first is shown."""
    shown: dict[str, str] = {}
    for name, value in sorted(attributes.items())[:MAX_FIELDS]:
        name, value = clean(name, MAX_FIELD), clean(value, MAX_FIELD)
        if name and value:
            shown.setdefault(name, value)
    return shown


def prompt_text(item: Item) -> str:
    """The used fields as one JSON object, as the prompts show them."""
    return compact(used_fields(item))


def delimited(text: str) -> str:
    """`text` between the tags that prompts announce as data."""
    return f"<item>{text}</item>"


def compact(document: Mapping[str, Any]) -> str:
    """JSON without needless spaces."""
    return json.dumps(document, ensure_ascii=False, separators=(",", ":"))


def clean(text: str, limit: int) -> str:
    """Text as data: nothing invisible, no tokens, markup or links, single spaces, at most `limit` characters.

    Total and idempotent: `clean(clean(x, n), n) == clean(x, n)`. Text is cut to 8 times `limit` before it is read.
    """
    text = text[: _READ_AHEAD * limit]
    for _ in range(_ROUNDS):  # "<|<|x|>|>" hides a token in a token
        shorter = _cleaned(text, limit)
        if shorter == text:
            return text
        text = shorter
    words = "".join(c if c.isalpha() or c.isdecimal() else " " for c in text).split()
    return " ".join(word[: _LONGEST - 1] for word in words)[:limit].rstrip()


def _cleaned(text: str, limit: int) -> str:
    text = visible(text)
    parts: list[str] = []
    at = 0
    for start, end in sorted(_unwanted(text)):
        if start >= at:
            parts += (text[at:start], " ")
        at = max(at, end)
    parts.append(text[at:])
    return " ".join("".join(parts).split())[:limit].rstrip()


def _unwanted(text: str) -> list[tuple[int, int]]:
    """Spans of `text` that an item text should not hold."""
    blobs = [match.span() for match in _BLOB.finditer(text) if encoded(match.group())]
    return [*blobs, *unmask(text).spans((*TOKENS, *LINKS, *_SPEAKERS))]


def encoded(word: str) -> bool:
    """Whether an unbroken run of letters and digits turns from case to case as base64 does, and no part number does."""
    letters = [character for character in word if character.isalpha()]
    turns = sum(a.islower() != b.islower() for a, b in pairwise(letters))
    return turns * 4 >= len(letters) > 0 and any(character.isdecimal() for character in word)


def content_fingerprint(item: Item) -> str:
    """Identity of what prompts show of `item`: the same one, the same text for a model, whatever its price."""
    return digest(used_fields(item))


def digest(*parts: Any) -> str:
    """sha256 (hex) over JSON of the parts; the identity of content, never of code."""
    text = json.dumps(parts, ensure_ascii=False, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()
