"""The guard: reads every answer of a model and says why it must not become knowledge.

Owns the judgment of an answer's text, in code; the phrases are files in `phrases/`, for a person to read and edit.
Must not call a model, nor mend an answer: what is suspect is kept for a person, with its reason. The `reasoning` field
is not judged, since it is never published: a model may say there that a listing commands it, and answer well.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator, Mapping
from functools import cache, lru_cache
from importlib.resources import files
from itertools import groupby
from typing import Any

from freshet.records import Item
from processors.items.confusables import Unmasked, fold, unmask, visible
from processors.items.item_text import LINKS, MAX_FIELD, MAX_TITLE, TOKENS, clean, encoded

UNJUDGED = frozenset({"reasoning"})
PROMPT_WORDS, PROMPT_IDEOGRAMS = 6, 12
"""So many words (ideograms) of the prompt in a row, which the item does not say, are an echo of it."""
MOST_REPEATS = 5
"""A word may follow itself so often: "Boom, Boom, Boom, Boom!!" is a song."""
_MOST_CHARACTERS = 4_000
_BLOB = re.compile(r"[A-Za-z0-9+/]{28,}={0,2}")
_NUMERALS = re.compile(r"\b(?:[0-9a-f]{2}[ :]?){24,}\b|(?:\\x[0-9a-f]{2}){4,}|\b(?:[01]{8}\s?){4,}\b|(?:&#\d+;){3,}")
_DOMAIN = re.compile(
    r"\b(?:[a-z0-9-]{1,63}\.){1,4}"
    r"(?:com|net|org|info|biz|ru|cn|io|xyz|top|shop|site|online|store|club|click|link|tk|example)\b"
)
_WORD = re.compile(r"[^\W_]+")
_SPELLED = re.compile(r"\b(?:[a-z][ .\-_*]){4,}[a-z]\b")
_IDEOGRAM = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]")
_LOOP = re.compile(r"(.{3,40}?)\1{5,}")
_RUN = re.compile(r"(\w)\1{39,}")


def inspect(item: Item, prompt: str, document: Mapping[str, Any]) -> str:
    """Why `document`, an agent's parsed answer about `item`, must be quarantined; "" where it is fine.

    `prompt` is the agent's instructions, without its examples: what an answer must not repeat. A reason names its kind
    and the field ("a link or address in audience[0]"), never the text. Raises nothing, whatever the document holds.
    """
    own = fold(" ".join(_own(item)))
    said: list[str] = []
    for path, text in _strings(document):
        looked_at = unmask(visible(text[:_MOST_CHARACTERS]))
        plain = " ".join(looked_at.text.split())
        if kind := _kind(looked_at, plain, own, item):
            return f"{kind} in {path}"
        said.append(plain)
    together = " ".join(said)
    if phrases("talk").search(together):
        return "talk to or of the model, over several fields"
    return "an echo of the prompt" if _echoes(together, prompt, own) else ""


def _kind(looked_at: Unmasked, plain: str, own: str, item: Item) -> str:
    """What is wrong with one string, or ""."""
    spelled = _SPELLED.sub(lambda match: re.sub(r"[ .\-_*]", "", match.group()), plain)
    readings = (plain, spelled, codecs.encode(plain, "rot13"))
    if next(looked_at.spans(TOKENS), None):
        return "markup or template tokens"
    if next(looked_at.spans(LINKS), None) or _foreign_domain(plain, item):
        return "a link or address"
    if any(phrases("talk").search(reading) for reading in readings):
        return "talk to or of the model"
    if any(phrases("sell").search(reading) for reading in readings):
        return "advertising or defamation"
    if any(match.group().strip() not in own for match in phrases("price").finditer(plain)):
        return "a price or discount of its own"
    if phrases("code").search(plain):
        return "program text"
    if any(encoded(match.group()) for match in _BLOB.finditer(looked_at.written)) or _NUMERALS.search(plain):
        return "encoded text"
    return "repetition without end" if _repeats(plain, own) else ""


@cache
def phrases(name: str) -> re.Pattern[str]:
    """The patterns of `phrases/NAME.txt` as one; `@PART = pattern` names a part, a line in quotes is a phrase."""
    parts: dict[str, str] = {}
    patterns: list[str] = []
    for line in (files("processors") / "phrases" / f"{name}.txt").read_text(encoding="utf-8").splitlines():
        if not line.strip() or line.startswith("#"):
            continue
        for part, pattern in parts.items():
            line = line.replace(f"@{part}", pattern)
        if line.startswith("@"):
            part, _, pattern = line[1:].partition(" = ")
            parts[part] = pattern
        elif line.startswith('"') and line.endswith('"'):
            patterns.append(re.escape(fold(line[1:-1])))  # folding lends Cyrillic and Greek letters a Latin look
        else:
            patterns.append(f"(?:{line})")
    return re.compile("|".join(patterns))


def _own(item: Item) -> Iterator[str]:
    """Every word of the item, as far as it could matter."""
    for text in (item.title, item.brand, *item.category[:20], item.description):
        yield text[: 2 * _MOST_CHARACTERS]
    for name, value in sorted(item.attributes.items())[:100]:
        yield from (name[:_MOST_CHARACTERS], value[:_MOST_CHARACTERS])


def _strings(document: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Every judged string with its path, in the document's order."""
    waiting: list[tuple[str, Any]] = [("", document)]
    while waiting:
        path, value = waiting.pop()
        if isinstance(value, str):
            yield path, value
        elif isinstance(value, Mapping):
            judged = [(name, part) for name, part in value.items() if path or name not in UNJUDGED]
            waiting += [(f"{path}.{name}"[:80].lstrip("."), part) for name, part in reversed(judged)]
        elif isinstance(value, list | tuple):
            waiting += [(f"{path}[{number}]", value[number]) for number in reversed(range(len(value)))]


def _foreign_domain(plain: str, item: Item) -> bool:
    """Whether a domain is named that is not the product's own name, as in "Booking.com gift card"."""
    names = fold(f"{clean(item.title, MAX_TITLE)} {clean(item.brand, MAX_FIELD)}")  # links are no names
    return any(match.group() not in names for match in _DOMAIN.finditer(plain))


def _repeats(plain: str, own: str) -> bool:
    words = _WORD.findall(plain)
    longest = max((sum(1 for _ in run) for _, run in groupby(words)), default=0)
    if longest > MOST_REPEATS or (len(words) >= 16 and len(set(words)) * 5 <= len(words)):
        return True
    return bool(_RUN.search(plain)) or any(loop.group() not in own for loop in _LOOP.finditer(plain))


def _echoes(together: str, prompt: str, own: str) -> bool:
    """Whether the answer repeats the prompt at length."""
    echoed = _grams(together) & _prompt_grams(prompt)
    return bool(echoed) and not echoed <= _grams(own)


@lru_cache(maxsize=64)
def _prompt_grams(prompt: str) -> frozenset[str]:
    return _grams(fold(prompt))


def _grams(folded: str) -> frozenset[str]:
    words, signs = _WORD.findall(folded), "".join(_IDEOGRAM.findall(folded))
    rows = (" ".join(words[at : at + PROMPT_WORDS]) for at in range(len(words) - PROMPT_WORDS + 1))
    return frozenset((*rows, *(signs[at : at + PROMPT_IDEOGRAMS] for at in range(len(signs) - PROMPT_IDEOGRAMS + 1))))
