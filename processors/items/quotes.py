"""Finds a model's quote in an item's own words, and gives back those words.

Owns what counts as standing in a text: space, case and the shape of quotation marks do not matter, whole words do. Must
not judge what a quote means.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass

INCH = "\u2033"
"""What prompts show for `"`: inside JSON a model leaves the escaped inch mark of 21" away."""

# One look for each kind of mark, so that a model may write the one for the other.
_ALIKE = {
    **dict.fromkeys("\u2033\u201c\u201d\u201e\u00a8\u3003\uff02", '"'),
    **dict.fromkeys("\u2032\u2018\u2019\u201a\u0060\u00b4", "'"),
    **dict.fromkeys("\u2010\u2011\u2012\u2013\u2014\u2212", "-"),
}
# A number takes its unit along: 256 of 256MB, 21 of 21". Longer words were only glued to it.
_UNIT = re.compile(r"[A-Za-z]{1,4}(?![A-Za-z0-9])")
_MEASURE = re.compile(r"(?<![\w.-])\d{1,4}(?:[-. ]\d{1,3})?(?:/\d{1,3})?$|[x×/]\s?\d{1,3}(?:\.\d+)?$")
_UNIT_SIGN = re.compile(r"[\"'%°″′”’]")


@dataclass(frozen=True, slots=True)
class Source:
    """A text made ready for many searches: `squeezed` is without space and case, `places` leads back to `text`."""

    text: str
    squeezed: str
    places: tuple[int, ...]

    @classmethod
    def of(cls, *parts: str) -> Source:
        """All of an item's fields; no quote reaches from one into the next."""
        text = "\n".join(" ".join(part.split()) for part in parts if part.strip())
        squeezed, places = _squeeze(text, keep="\n")
        return cls(text, squeezed, places)

    def find(self, quote: str) -> str | None:
        """The words of the text that `quote` repeats, whole: 21 of 21" gives 21", 1.3 oz gives 1.3oz; None if absent.

        The first place counts where the quote neither begins nor ends inside a word or a number.
        """
        wanted, _ = _squeeze(quote)
        if not any(character.isalnum() for character in wanted):
            return None
        begin = self.squeezed.find(wanted)
        while begin >= 0:
            first, last = self.places[begin], self.places[begin + len(wanted) - 1]
            if (span := self._whole(first, last + 1)) is not None:
                return span
            begin = self.squeezed.find(wanted, begin + 1)
        return None

    def _whole(self, first: int, end: int) -> str | None:
        text = self.text
        if first > 0 and _joined(text[first - 1], text[first]):
            return None
        if end < len(text) and text[end - 1].isdigit() and text[end].isalpha():
            unit = _UNIT.match(text, end)
            end = unit.end() if unit else end
        if end < len(text) and _joined(text[end - 1], text[end]):
            return None
        if _MEASURE.search(text, max(0, end - 12), end) and (sign := _UNIT_SIGN.match(text, end)):
            end = sign.end()
        return text[first:end]


def _joined(left: str, right: str) -> bool:
    """Whether a cut between the two would go through a word or a number.

    It would not in 10x12 and 30oz, nor where a page's lines were glued together: hard DriveFor, 840010INNER.
    """
    if left.isdigit() or right.isdigit():
        return left.isdigit() and right.isdigit()
    if _ideograph(left) or _ideograph(right):  # scripts without spaces: every character may begin a word
        return False
    return left.isalpha() and right.isalpha() and not (left.islower() and right.isupper())


def _ideograph(character: str) -> bool:
    return ord(character) >= 0x2E80 and character.isalpha()


def _squeeze(text: str, keep: str = "") -> tuple[str, tuple[int, ...]]:
    kept: list[str] = []
    places: list[int] = []
    for place, character in enumerate(text):
        if character.isspace() and character not in keep:
            continue
        alike = _ALIKE.get(character, character)
        for folded in unicodedata.normalize("NFKC", alike).casefold():
            if not folded.isspace() or folded in keep:
                kept.append(folded)
                places.append(place)
    return "".join(kept), tuple(places)
