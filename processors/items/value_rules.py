"""Brings a value into the form that a catalogue's rule asks for, by code.

Owns which instructions are understood: a rule is prose for people, and each reader here looks for the words it knows. A
rule that nobody understands leaves the value without a normal form; nothing is guessed. Must not ask a model.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache

Normalizer = Callable[[str], str | None]
"""From a value to its normal form; None where the value does not fit the rule."""
Chooser = Callable[[str, tuple[str, ...]], str | None]
"""From a value and the allowed ones to the allowed one that is meant."""

_CM = {"cm": 1.0, "mm": 0.1, "m": 100.0, "in": 2.54, "inch": 2.54, "inches": 2.54, '"': 2.54, "″": 2.54, "”": 2.54}
_CM |= {
    "ft": 30.48,
    "feet": 30.48,
    "foot": 30.48,
    "'": 30.48,
    "′": 30.48,
    "yd": 91.44,
    "yds": 91.44,
    "yard": 91.44,
    "yards": 91.44,
}
_GRAMS = {"g": 1.0, "gram": 1.0, "grams": 1.0, "kg": 1000.0, "mg": 0.001, "oz": 28.3495, "ounce": 28.3495}
_GRAMS |= {"ounces": 28.3495, "lb": 453.592, "lbs": 453.592, "pound": 453.592, "pounds": 453.592, "#": 453.592}
NUMBER_WORDS: dict[str, int] = {
    "zero": 0,
    "one": 1,
    "two": 2,
    "three": 3,
    "four": 4,
    "five": 5,
    "six": 6,
    "seven": 7,
    "eight": 8,
    "nine": 9,
    "ten": 10,
    "eleven": 11,
    "twelve": 12,
    "single": 1,
    "dual": 2,
    "double": 2,
    "pair": 2,
    "triple": 3,
    "trio": 3,
    "quad": 4,
    "hexa": 6,
    "half": 6,
    "octa": 8,
    "dozen": 12,
    "each": 1,
    "uno": 1,
    "duo": 2,
    "sp": 1,
    "dp": 2,
    "dc": 2,
    "qc": 4,
}
"""Numbers as listings spell them; "half" is the one of "half dozen"."""
_NUMBER = r"\d+(?:,\d{3})+(?:\.\d+)?|\d*\.?\d+"
_MEASURE = re.compile(
    rf"(?:(?P<whole>{_NUMBER})(?!\d*\s?/\s?\d))?(?:[\s-]?(?P<top>\d+)\s?/\s?(?P<bottom>\d+))?[\s-]*"
    r"(?P<unit>[a-z]+|[\"″”'′#])?"
)
# The phrases that ask for a bare number.
_BARE = re.compile(r"single numeric|full numeric|numeric (?:equivalents?|format|number)|corresponding numeric")


@lru_cache(maxsize=4_096)
def normalizer(rule: str, choose: Chooser | None = None) -> Normalizer | None:
    """What `rule` asks for, or None where it is not understood; `choose` picks among allowed values (by meaning)."""
    text = " ".join(rule.split()).casefold()
    if options := allowed(rule):
        return lambda value: _pick(value, options, choose)
    if "digits 2 to 6" in text:
        return lambda value: _digits(value, 1, 6)
    if "non-alphanumeric" in text:
        return lambda value: "".join(c for c in value if c.isalnum()) or None
    for words, units, places in ((("centimeter",), _CM, 1), (("to kilogram",), _GRAMS, 1), (("to grams",), _GRAMS, 0)):
        if any(word in text for word in words):
            scale, default = (1000.0, None) if "kilogram" in words[0] else (1.0, "in" if units is _CM else None)
            return _measure(units, scale, places, default)
    if "uppercase" in text:
        return str.upper
    if pairs := dict(re.findall(r"'([A-Za-z]{1,4})' (?:with|to) '([A-Za-z]+)'", rule)):
        return lambda value: _spelled_units(value, pairs)
    if _BARE.search(text):
        return _number
    return None


def allowed(rule: str) -> tuple[str, ...]:
    """The values of a rule that allows one of a list (`- a`, each on a line), else nothing."""
    if not re.search(r"\bone of the following\b", rule, re.IGNORECASE):
        return ()
    return tuple(option.strip() for option in re.findall(r"^\s*[-*]\s*(.+?)\s*$", rule, re.MULTILINE))


def _pick(value: str, options: tuple[str, ...], choose: Chooser | None) -> str | None:
    said = set(re.findall(r"[a-z]{3,}", value.casefold()))
    best = max(options, key=lambda option: _overlap(said, option))
    if _overlap(said, best) > 0:
        return best
    return choose(value, options) if choose is not None else None


def _overlap(said: set[str], option: str) -> float:
    words = set(re.findall(r"[a-z]{3,}", option.casefold())) - {"and", "the", "for"}
    return sum(any(word.startswith(one) or one.startswith(word) for one in said) for word in words) / (len(words) + 1)


def _digits(value: str, begin: int, end: int) -> str | None:
    digits = "".join(c for c in value if c.isdigit())
    return digits[begin:end] if len(digits) >= end else None


def _measure(units: dict[str, float], scale: float, places: int, default: str | None) -> Normalizer:
    def convert(value: str) -> str | None:
        found = [_amount(match, units, default) for match in _MEASURE.finditer(value.casefold())]
        amounts = [amount for amount in found if amount is not None]
        if not amounts:
            return None
        amount = round(max(amounts) / scale, places)
        return f"{amount:.{places}f}" if places else str(int(amount))

    return convert


def _amount(match: re.Match[str], units: dict[str, float], default: str | None) -> float | None:
    whole, top, bottom = match["whole"], match["top"], match["bottom"]
    if whole is None and top is None:
        return None
    unit = match["unit"] if match["unit"] in units else default
    if unit is None:
        return None
    amount = float(whole.replace(",", "")) if whole else 0.0
    if top and int(bottom):
        amount += int(top) / int(bottom)
    return amount * units[unit]


def _spelled_units(value: str, pairs: dict[str, str]) -> str | None:
    by_case = {short.casefold(): long for short, long in pairs.items()}
    match = re.search(rf"({_NUMBER})[\s-]*([A-Za-z]+)", value)
    if match is None or match[2].casefold() not in by_case:
        return None
    return f"{match[1]} {by_case[match[2].casefold()]}"


def _number(value: str) -> str | None:
    if match := re.search(rf"({_NUMBER})\s?(k\b)?", value.casefold()):
        number = float(match[1].replace(",", "")) * (1000 if match[2] else 1)
        return str(int(number)) if number == int(number) else str(number)
    counts = [NUMBER_WORDS[word] for word in re.findall(r"[a-z]+", value.casefold()) if word in NUMBER_WORDS]
    return str(counts[0]) if counts else None
