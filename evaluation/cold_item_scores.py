"""Ways to score a cold item against known ones, from its title, its knowledge and what others were bought with.

Owns the score matrices. Must not read files nor see the truth of the items it scores: a score is made of texts and of
events before the split.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from freshet.records import Item, ItemKnowledge
from models.encoder.co_engagement import Pairs
from models.encoder.cold_start import ColdItems
from models.encoder.encoder import TextEncoder, Vectors
from processors.items.knowledge_text import knowledge_text

Scores = NDArray[np.float64]
KNOWLEDGE_SHARE = 0.5
"""Weight of the knowledge's cosine beside the title's in a joined vector."""
NEIGHBOURS = 10


@dataclass(frozen=True, slots=True, eq=False)
class Encoded:
    """What each row says (N, dims each): its title, its knowledge alone (zeros where there is none), both in one text.

    `phrases[r]` are the claims of row r as a shopper would say them; `goes_with[r]` the complements among them.
    """

    title: Vectors
    knowledge: Vectors
    one_text: Vectors
    known: NDArray[np.bool_]
    phrases: Sequence[Sequence[str]]
    goes_with: Sequence[Sequence[str]]

    def joined(self) -> Vectors:
        """Title and knowledge side by side (N, 2 dims), unit: a cosine is the weighted mean of the two cosines."""
        both = np.hstack([self.title, self.knowledge * KNOWLEDGE_SHARE**0.5])
        unit: Vectors = (both / np.linalg.norm(both, axis=1, keepdims=True)).astype(np.float32)
        return unit


def shuffled(items: Sequence[Item], knowledge: Mapping[str, ItemKnowledge], seed: int) -> dict[str, ItemKnowledge]:
    """Each title's knowledge given to another title: what is left of a gain is not knowledge."""
    of_title = {item.title: knowledge[item.item_id] for item in items if item.item_id in knowledge}
    titles = sorted(of_title)
    order = np.random.default_rng(seed).permutation(len(titles))
    given = {titles[order[at]]: of_title[titles[order[at - 1]]] for at in range(len(titles))}
    return {item.item_id: given[item.title] for item in items if item.item_id in knowledge}


def encoded(items: Sequence[Item], knowledge: Mapping[str, ItemKnowledge], encoder: TextEncoder) -> Encoded:
    """Encode titles (lower case: shops that shout say nothing by it) and knowledge."""
    titles = [item.title.lower() for item in items]
    made = [knowledge.get(item.item_id) for item in items]
    plain = [replace(item, title="", brand="", category=(), attributes={}, description="") for item in items]
    knowledge_texts = [
        "" if k is None else knowledge_text(item, k).lower() for item, k in zip(plain, made, strict=True)
    ]
    both = [f"{title}. {text}" if text else title for title, text in zip(titles, knowledge_texts, strict=True)]
    known = np.array([bool(text) for text in knowledge_texts], dtype=np.bool_)
    return Encoded(
        encoder.encode(titles),
        np.where(known[:, None], encoder.encode(knowledge_texts), 0).astype(np.float32),
        encoder.encode(both),
        known,
        [() if k is None else [claim.value.lower() for claim in k.claims] for k in made],
        [() if k is None else [c.value.lower() for c in k.claims if c.kind == "complement"] for k in made],
    )


def cosines(vectors: Vectors, question: ColdItems) -> Scores:
    """(C, K) from vectors (N, dims)."""
    return (vectors[question.cold] @ vectors[question.known].T).astype(np.float64)


def complements(texts: Encoded, encoder: TextEncoder, question: ColdItems) -> Scores:
    """How well each known title answers the best of the cold item's predicted complements (C, K)."""
    asked = [texts.goes_with[row] for row in question.cold]
    distinct = sorted({phrase for phrases in asked for phrase in phrases})
    place = {phrase: row for row, phrase in enumerate(distinct)}
    answers = encoder.encode(distinct or [""]) @ texts.title[question.known].T  # (P, K)
    none = np.zeros(len(question.known))
    best = [answers[[place[p] for p in phrases]].max(0) if phrases else none for phrases in asked]
    return np.stack(best).astype(np.float64)


def vocabulary(texts: Encoded, encoder: TextEncoder, question: ColdItems, terms: int = 120, seed: int = 0) -> Scores:
    """Cosine of sparse features (C, K): each claim becomes the nearest of `terms` needs learned from known items.

    Spherical k-means over the known items' claims makes the vocabulary; a need that many items share weighs less.
    """
    distinct = sorted({phrase for phrases in texts.phrases for phrase in phrases})
    if not distinct:
        return np.zeros((len(question.cold), len(question.known)))
    place = {phrase: row for row, phrase in enumerate(distinct)}
    vectors = encoder.encode(distinct)
    learned = sorted({place[phrase] for row in question.known for phrase in texts.phrases[row]})
    rng = np.random.default_rng(seed)
    centres = vectors[rng.choice(learned or len(distinct), min(terms, len(learned) or 1), replace=False)]
    for _ in range(15):
        nearest = (vectors[learned] @ centres.T).argmax(1)
        sums = np.zeros_like(centres)
        np.add.at(sums, nearest, vectors[learned])
        centres = sums / np.maximum(np.linalg.norm(sums, axis=1, keepdims=True), 1e-9)
    term = (vectors @ centres.T).argmax(1)
    features = np.zeros((len(texts.phrases), len(centres)))
    for row in (*question.cold, *question.known):
        features[row, [term[place[phrase]] for phrase in texts.phrases[row]]] = 1
    weight = np.log(len(question.known) / (1 + features[question.known].sum(0))).clip(min=0)
    unit = features * weight
    unit /= np.maximum(np.linalg.norm(unit, axis=1, keepdims=True), 1e-9)
    scores: Scores = unit[question.cold] @ unit[question.known].T
    return scores


def companions(near: Scores, pairs: Pairs, question: ColdItems, damping: float = 10.0) -> Scores:
    """What the nearest known items were bought with before the split, weighed by nearness (C, K), rows of length 1.

    `near` (C, K) says how near; `pairs` are of rows, before the split.
    """
    place = np.full(len(pairs.totals), -1, dtype=np.int64)
    place[question.known] = np.arange(len(question.known))
    inside = (place[pairs.left] >= 0) & (place[pairs.right] >= 0) & (pairs.counts >= 2)
    lift = np.zeros((len(question.known),) * 2)
    lift[place[pairs.left[inside]], place[pairs.right[inside]]] = pairs.lift(damping)[inside] ** 0.5
    least = np.partition(near, -NEIGHBOURS, axis=1)[:, -NEIGHBOURS][:, None]
    weights = np.where(near >= least, np.maximum(near, 0), 0) ** 3
    found = weights @ lift
    scores: Scores = found / np.maximum(np.linalg.norm(found, axis=1, keepdims=True), 1e-9)
    return scores


def together(scores: Scores, more: Scores, weight: float) -> Scores:
    """Sum of two scores whose rows are brought to length 1 first; `weight` for the second."""
    unit = scores / np.maximum(np.linalg.norm(scores, axis=1, keepdims=True), 1e-9)
    other = more / np.maximum(np.linalg.norm(more, axis=1, keepdims=True), 1e-9)
    summed: Scores = unit + weight * other
    return summed
