"""What a text hides: invisible characters, look-alike letters, entities and escapes, folded to what a model may read.

Owns the folding and the way back from folded to written text. Must not know which words are dangerous, nor change what
a person sees: `unmask` is for looking, never for showing.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from html.entities import html5

_LINE_ENDS = frozenset("\n\r\v\f\x1c\x1d\x1e\x85\u2028\u2029")
# Seen by nobody, read by a tokenizer: joiners, fillers, selectors. Bidi marks are of Cf and become spaces below.
_DROPPED = frozenset(
    "\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b\u180c\u180d\u180e\u180f\u200b\u200c\u200d\u2060\u2061\u2062"
    "\u2063\u2064\u2800\u3164\ufeff\uffa0"
)
_MOST_MARKS = 3
"""Combining marks kept after one character: no script needs more, and more is how text is made unreadable."""

# Letters that look Latin, after NFKC and case folding.
_LOOK_ALIKES = str.maketrans(
    "авеікмнорсстухјѕԁһӏԛԝ" + "αβεζηικμνορτυχ" + "ıɡɑᴀʙᴄᴅᴇꜰɢʜɪᴊᴋʟᴍɴᴏᴘʀꜱᴛᴜᴠᴡʏᴢ",
    "abeikmhopcctyxjsdhlqw" + "abezhikmnoptux" + "igaabcdefghijklmnoprstuvwyz",
)
_ESCAPE = re.compile(
    r"&(?:amp;){0,4}(?:#(?P<dec>\d{1,7})|#x(?P<hex>[0-9a-f]{1,6})|(?P<name>[a-z]{2,8}));?"
    r"|\\u(?P<u>[0-9a-f]{4})|\\x(?P<x>[0-9a-f]{2})|%(?P<percent>[0-9a-f]{2})|\\(?P<c>[nrt])(?![a-z])",
    re.IGNORECASE,
)


def visible(text: str) -> str:
    """`text` as a person sees it: nothing invisible, newlines for line ends, spaces for other control characters.

    Drops zero-width and tag characters and variation selectors; at most three combining marks stay on a character.
    """
    if text.isascii() and text.isprintable():
        return text
    shown: list[str] = []
    marks = 0
    for character in text:
        seen, is_mark = _seen(character)
        marks = marks + 1 if is_mark else 0 if seen else marks
        if marks <= _MOST_MARKS:
            shown.append(seen)
    return "".join(shown)


@lru_cache(maxsize=16_384)
def _seen(character: str) -> tuple[str, bool]:
    """How one character is shown, and whether it is a mark on the one before."""
    code = ord(character)
    if character in _LINE_ENDS:
        return "\n", False
    if character in _DROPPED or 0xFE00 <= code <= 0xFE0F or 0xE0000 <= code <= 0xE0FFF:
        return "", False
    category = unicodedata.category(character)
    if category in ("Cc", "Cf", "Co", "Cs", "Cn", "Zs"):
        return " ", False
    return character, category in ("Mn", "Me")


@dataclass(frozen=True, slots=True)
class Unmasked:
    """A text folded for looking: plain lower case, entities decoded; `spans` leads back to the text as written."""

    text: str
    written: str
    places: tuple[tuple[int, int], ...] | None
    """Start and end in `written` of each character of `text`; None where both are the same, case aside."""

    def spans(self, patterns: Iterable[re.Pattern[str]]) -> Iterator[tuple[int, int]]:
        """Where in `written` the patterns match: the group `cut` where a pattern has one, else the whole match."""
        for pattern in patterns:
            group = "cut" if "cut" in pattern.groupindex else 0
            for match in pattern.finditer(self.text):
                start, end = match.span(group)
                if start < end:
                    yield (start, end) if self.places is None else (self.places[start][0], self.places[end - 1][1])


def unmask(text: str) -> Unmasked:
    """Fold what makes one character look like another, decode entities, escapes and percent codes, in lower case."""
    if text.isascii() and not any(mark in text for mark in "&\\%"):
        return Unmasked(text.lower(), text, None)
    folded: list[str] = []
    places: list[tuple[int, int]] = []
    for start, end, character in _characters(text):
        for plain in _plain(character):
            folded.append(plain)
            places.append((start, end))
    return Unmasked("".join(folded), text, tuple(places))


def fold(text: str) -> str:
    """`unmask` without the way back, single spaces: for comparing."""
    return " ".join(unmask(visible(text)).text.split())


def _characters(text: str) -> Iterator[tuple[int, int, str]]:
    """Each character with where it is written; an entity or escape is one character."""
    at = 0
    for match in _ESCAPE.finditer(text):
        if (decoded := _decoded(match)) is None:
            continue
        yield from ((place, place + 1, text[place]) for place in range(at, match.start()))
        yield match.start(), match.end(), decoded
        at = match.end()
    yield from ((place, place + 1, text[place]) for place in range(at, len(text)))


def _decoded(match: re.Match[str]) -> str | None:
    """The character an escape stands for; None where it stands for nothing, as in `black&white`."""
    groups = match.groupdict()
    if groups["name"]:
        return html5.get(groups["name"].lower() + ";")
    if groups["c"]:
        return " " if groups["c"].lower() == "t" else "\n"
    code = (
        int(groups["dec"])
        if groups["dec"]
        else int(groups["hex"] or groups["u"] or groups["x"] or groups["percent"], 16)
    )
    return visible(chr(code)) if code <= 0x10FFFF else None


@lru_cache(maxsize=16_384)
def _plain(character: str) -> str:
    folded = unicodedata.normalize("NFKC", character).casefold()
    if len(folded) == 1 and ("\u00c0" <= folded <= "\u052f" or "\u1e00" <= folded <= "\u1fff"):
        base = unicodedata.normalize("NFKD", folded)[0]
        folded = base.casefold() if base.isalpha() else folded
    if len(folded) == 1 and "\u0300" <= folded <= "\u036f":
        return ""
    return folded.translate(_LOOK_ALIKES)
