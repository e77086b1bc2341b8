"""Near-duplicates: which items are variants of one product in size or colour, and what one may tell of another.

Owns the key that variants have in common, and what is dropped when one's knowledge becomes another's. Pure. Careful
rather than clever: two products under one key would pass invention off as fact, a variant missed costs one call more.
"""

from __future__ import annotations

import re
from dataclasses import replace

from freshet.records import Claim, Item, ItemKnowledge
from processors.items.editor import normalize
from processors.items.item_text import MAX_TITLE, clean, digest
from processors.items.quotes import Source

_NUMBER = r"\d+(?:[.,/]\d+)*"
# Not mg, mm, GB, W or V: a dose, a focal length or a capacity makes another product.
_UNITS = (
    r"fl\.? ?oz|oz|ounces?|lbs?|pounds?|kg|ml|cl|cm|inch(?:es)?|feet|ft|gallons?|quarts?|pints?|litres?|liters?|grams?"
    r"|ct|count|pk|packs?|pcs|pieces?|rolls?|sheets?|毫升|公斤|千克|厘米|片|包|瓶|盒|件装?"
)
# One letter is a unit only apart from its number: "5 g" is a weight, 5G a network and 3M a brand.
_MEASURE = re.compile(
    rf"(?<![0-9A-Za-z.-])(?:{_NUMBER} ?x ?)?{_NUMBER}(?:[ -]?(?:{_UNITS})| (?:g|l|m))\.?(?![0-9A-Za-z-])"
    r"|\b(?:pack|set|box|case|bundle) of \d+\b|\bsize:? ?(?:\d+(?:\.\d+)?|xxs|xs|s|m|l|xl|xxl|[2-6]xl)\b",
    re.IGNORECASE,
)


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_COLOURS = _words(
    "black white red blue green yellow orange purple violet pink brown grey gray beige navy ivory teal turquoise "
    "maroon burgundy khaki magenta cyan fuchsia taupe mauve silver gold charcoal multicolor multicolour multicolored "
    "multicoloured"
)
_SIZES = _words("xxs xs s m l xl xxl xxxl 2xl 3xl 4xl 5xl 6xl small medium large x-small x-large xx-large")
_FILLERS = _words("dark light bright deep pale matte royal sky extra size colour color one fits all")
_CHINESE_COLOUR = re.compile(r"[\u4e00-\u9fff]{1,3}色")
# Of these a colour is a kind: green tea is no black tea, wherever its listing puts the word.
_COLOUR_IS_KIND = re.compile(
    r"\b(?:teas?|coffee|pepper|rice|wines?|beans?|lentils?|sugar|bread|chocolate|pudding|olives?|onions?|mustard|grapes?|"
    r"vinegar|currants?|cabbage|juice|soda|drinks?|ink|toner|paint|dye|salt|corn|potato(?:es)?|apples?|meat)\b|茶|酒|豆|糖"
)
# A colour inside a title may be the product ("green tea", "black pepper"); between separators it is a variant.
_SEPARATOR = re.compile(r"\s*[,;|/()\[\]（）【】，；、]\s*|\s+[-–—:]\s+")
_VARIANT_ATTRIBUTES = re.compile(
    r"colou?r|size|quantity|count|pack|volume|weight|length|width|height|depth|dimension|颜色|尺寸|尺码|规格|重量|容量",
    re.IGNORECASE,
)
_LEAST_KEPT = 0.5
"""Knowledge is shared only where at least so much of what was quoted stands in the other item's text as well; all of it
where it answers a catalogue."""


def sharing_key(item: Item) -> str:
    """What variants of one product have in common, as a digest; "" where an item says too little to be sure.

    Title (without case, measures, and parts that only name a size or colour), brand, category, and every attribute
    that is no size, colour or amount. Model numbers stay, and every number without a unit.
    """
    title = _core(clean(item.title, MAX_TITLE).casefold())
    brand = normalize(item.brand)
    if not title or (len(title.split()) < 3 and not brand and not _long_han(title)):
        return ""  # "Shirt" of nobody in particular is no product
    fixed = {
        normalize(name): normalize(value)
        for name, value in item.attributes.items()
        if not _VARIANT_ATTRIBUTES.search(name)
    }
    return digest("variants", title, brand, [normalize(part) for part in item.category], fixed)


def share(knowledge: ItemKnowledge, item: Item) -> ItemKnowledge | None:
    """What of another item's `knowledge` holds for `item`; None where it is too little to stand for it.

    1. A quoted claim stays only with its quote, as whole words, in this item's text.
    2. An inferred claim stays unless it names a size or colour that this item does not.
    3. So does the summary, without such words. That something was absent there says nothing here.
    """
    source = Source.of(item.title, item.brand, *item.category, *item.attributes.values(), item.description)
    quoted = [claim for claim in knowledge.claims if not claim.inferred]
    kept = [claim for claim in knowledge.claims if _holds(claim, source)]
    least = 1.0 if knowledge.category else _LEAST_KEPT  # a catalogue's attributes want an answer, not a gap
    if not kept or sum(not claim.inferred for claim in kept) < least * len(quoted):
        return None
    return replace(knowledge, summary=_without_foreign(knowledge.summary, source), claims=tuple(kept), absent=())


def _core(title: str) -> str:
    kinds = _COLOUR_IS_KIND.search(title) is not None
    parts = [" ".join(part.split()) for part in _SEPARATOR.split(_MEASURE.sub(" ", title))]
    return " ".join(part for part in parts if part and not _is_variant(part, kinds)).strip(" -–—:")


def _is_variant(part: str, kinds: bool) -> bool:
    """Whether a part of a title names nothing but a size or, unless colours are kinds, a colour."""
    words = re.findall(r"[\w-]+", part)
    told = [w for w in words if w in _SIZES or (not kinds and (w in _COLOURS or _CHINESE_COLOUR.fullmatch(w)))]
    return bool(told or "size" in words) and all(word in told or word in _FILLERS for word in words)


def _long_han(title: str) -> bool:
    """Chinese puts no spaces between words: six characters say as much as three words."""
    return len(re.findall(r"[\u4e00-\u9fff]", title)) >= 6


def _holds(claim: Claim, source: Source) -> bool:
    if claim.inferred:
        return all(source.find(word) is not None for word in _variant_words(claim.value))
    return bool(claim.quote) and source.find(claim.quote or "") is not None


def _variant_words(text: str) -> list[str]:
    """Sizes, measures and colours that a text names, in lower case."""
    lower = normalize(text)
    words = re.findall(r"[\w-]+", lower)
    named = [word for word in words if word in _COLOURS or (word in _SIZES and len(word) > 1)]
    return [match.group() for match in _MEASURE.finditer(lower)] + named + _CHINESE_COLOUR.findall(lower)


def _without_foreign(summary: str, source: Source) -> str:
    for word in _variant_words(summary):
        if source.find(word) is None:
            summary = re.sub(rf"(?<![0-9A-Za-z]){re.escape(word)}(?![0-9A-Za-z])", " ", summary, flags=re.IGNORECASE)
    return " ".join(summary.split())
