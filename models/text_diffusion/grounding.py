"""From words to items: the nearest live item of the catalogue, by the encoder that made the items' vectors.

Owns the threshold, de-duplication and the seen filter of text reasoners. Must not call a language model.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from freshet.records import InferredBehavior
from models.encoder.aligner import Aligner
from models.encoder.encoder import TextEncoder
from models.reasoner.catalogue import Catalogue, Vectors
from models.reasoner.reasoner import Inference
from models.text_diffusion.prompt import Line

CANDIDATES = 8
"""Items looked at for one line: the nearest may be seen or taken already."""
_SCORES_AT_ONCE = 8_000_000
"""Cosines held at once (32 MB), as in the block reasoner."""


class Grounder:
    """Gives each line the nearest item at a cosine of at least `threshold`; what has none stays text alone.

    A confidence is the model's own times that cosine: of two lines that a model is equally sure of, the one that the
    catalogue knows better counts for more, and words far from everything here move a user's vector little. Not for two
    threads at once.
    """

    def __init__(self, encoder: TextEncoder, aligner: Aligner, threshold: float) -> None:
        if not 0 < threshold <= 1:
            raise ValueError(f"the threshold is {threshold}, wanted a cosine above 0")  # a removed item has cosine 0
        self._encoder = encoder
        self._aligner = aligner
        self._threshold = threshold
        self._catalogue: Catalogue | None = None
        self._revision = self._size = 0
        self._vectors: Vectors = np.zeros((0, aligner.dims), dtype=np.float32)

    def ground(
        self, lines: Sequence[Line], history: Sequence[str], shown: Sequence[str], catalogue: Catalogue, slots: int
    ) -> Inference:
        """At most `slots` behaviors of one user: no item of `history`, no title of `shown`, nothing twice."""
        if not lines:
            return Inference()
        texts = self._aligner.align(self._encoder.encode([line.text for line in lines]))  # (T, dims)
        rows, cosines = self._nearest(texts, catalogue)  # (T, C) each
        ids = catalogue.item_ids
        taken, said = set(history), {title.casefold() for title in shown}
        behaviors: list[InferredBehavior] = []
        inexact = np.zeros(catalogue.dims, dtype=np.float32)
        for line, text, near, scores in zip(lines, texts, rows, cosines, strict=True):
            if len(behaviors) == slots:
                break
            best = float(scores[0]) if len(scores) else 0.0
            if best < self._threshold:
                if line.text.casefold() not in said:
                    said.add(line.text.casefold())
                    confidence = _share(line.confidence * best)
                    behaviors.append(InferredBehavior("", confidence, line.text))
                    inexact += confidence * text
                continue
            free = (
                (ids[row], float(score))
                for row, score in zip(near, scores, strict=True)
                if score >= self._threshold and ids[row] not in taken
            )
            if (found := next(free, None)) is not None:
                item_id, score = found
                taken.add(item_id)
                behaviors.append(InferredBehavior(item_id, _share(line.confidence * score)))
        behaviors.sort(key=lambda one: -one.confidence)
        return Inference(tuple(behaviors), text_vector=inexact if inexact.any() else None)

    def _nearest(self, texts: Vectors, catalogue: Catalogue) -> tuple[NDArray[np.int64], Vectors]:
        """Rows and cosines (T, at most CANDIDATES) of the live items nearest to each text, nearest first."""
        self._refresh(catalogue)
        size = self._size
        count = min(CANDIDATES, size)
        rows = np.zeros((len(texts), count), dtype=np.int64)
        cosines = np.zeros((len(texts), count), dtype=np.float32)
        step = max(1, _SCORES_AT_ONCE // max(1, size))
        for start in range(0, len(texts) if count else 0, step):
            scores = texts[start : start + step] @ self._vectors[:size].T  # (S, N)
            top = np.argpartition(-scores, count - 1, axis=1)[:, :count]
            found = np.take_along_axis(scores, top, axis=1)
            order = np.lexsort((top, -found), axis=1)  # of equals the older item
            rows[start : start + step] = np.take_along_axis(top, order, axis=1)
            cosines[start : start + step] = np.take_along_axis(found, order, axis=1)
        return rows, cosines

    def _refresh(self, catalogue: Catalogue) -> None:
        """Take over what changed; a removed item's vector becomes zero and its cosine never reaches a threshold."""
        if catalogue is not self._catalogue:
            self._catalogue, self._revision, self._size = catalogue, 0, 0
            self._vectors = np.zeros((0, catalogue.dims), dtype=np.float32)
        if catalogue.revision == self._revision:
            return
        changes = catalogue.changes(self._revision)
        if changes.size > len(self._vectors):
            grown = np.zeros((max(changes.size, 2 * len(self._vectors)), catalogue.dims), dtype=np.float32)
            grown[: len(self._vectors)] = self._vectors
            self._vectors = grown
        norms = np.linalg.norm(changes.vectors, axis=1, keepdims=True)
        unit = changes.vectors / np.where(norms > 0, norms, 1)
        self._vectors[changes.rows] = np.where(changes.alive[:, None], unit, 0)
        self._revision, self._size = changes.revision, changes.size


def _share(value: float) -> float:
    return min(1.0, max(0.0, value))
