"""An events file and an items file as what a reasoner is judged on: coded events, item vectors, categories.

Owns which events and items count. Must not split, train or score anything.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from freshet.records import Item
from models.encoder.aligner import LinearAligner
from models.encoder.aligner_training import AlignerConfig, train_aligner
from models.encoder.contrastive import Texts
from models.encoder.encoder import TextEncoder
from models.encoder.pairs import NothingToLearn
from models.reasoner.catalogue import Catalogue, Vectors
from models.reasoner.sequences import TrainingEvents, TrainingLog, code, most_frequent
from processors.items.embed_texts import encoded_texts
from schemas.files import FileError, read_events, read_items

Bools = NDArray[np.bool_]
CLUSTERS = 20
"""Kinds of items that k-means makes where the listing names no category."""
ALIGNER = AlignerConfig()
NOT_ENGAGED = ("return", "refund", "cancel")


@dataclass(frozen=True, slots=True, eq=False)
class Shop:
    """Rows are items, in the catalogue's order; `log` holds all events.

    `texts` are the encoded texts, `vectors` (N, dims) their PCA: it learns from texts alone, so that nothing of the log
    is in it. `categories` (N, G) says which categories an item is of; `clustered` where k-means made them.
    """

    items: Sequence[Item]
    log: TrainingLog
    texts: Texts
    catalogue: Catalogue
    vectors: Vectors
    categories: Bools
    category_names: Sequence[str]
    clustered: bool

    def __len__(self) -> int:
        return len(self.items)

    def columns(self, log: TrainingLog) -> TrainingEvents:
        """A part of the log by names, as training wants it."""
        ids = self.catalogue.item_ids
        return TrainingEvents([f"u{user}" for user in log.users], [ids[row] for row in log.items], log.times)


def load(
    events: Path,
    items: Path,
    encoder: TextEncoder,
    dims: int,
    *,
    max_items: int = 20_000,
    encoded: Callable[[int, int], None] = lambda _done, _total: None,
) -> Shop:
    """Read and encode; raises `FileError` where nothing is left.

    Left out are returns (by type or a negative value), items without a title or that say of themselves `is_product:
    false`, items nobody engaged with, and items beyond the `max_items` most frequent. Attributes are dropped: those of
    `online_retail_2011` (median price, first seen) come from the whole log, the truth included.
    """
    wanted = {
        item.item_id: replace(item, attributes={}, price=None)
        for item in read_items(items, default_time=0)
        if item.title and item.attributes.get("is_product") != "false"
    }
    table = engaged(read_events(events))
    table = table.filter(pc.is_in(table["item_id"], pa.array(sorted(wanted), pa.string())))
    if not table.num_rows:
        raise FileError(f"{events}: no event is about one of the {len(wanted)} items of {items}")
    ids = table["item_id"].to_pylist()
    names = sorted(set(ids))
    row_of = {name: row for row, name in enumerate(names)}
    rows = np.array([row_of[item_id] for item_id in ids], dtype=np.int64)
    chosen = np.sort(most_frequent(rows, max_items))
    place = np.full(len(names), -1, dtype=np.int64)
    place[chosen] = np.arange(len(chosen))
    times = table["event_time"].to_numpy().astype(np.int64)
    log = code(TrainingEvents(table["user_id"].to_pylist(), ids, times), place[rows])
    kept = [wanted[names[row]] for row in chosen]
    texts = encoded_texts(kept, {}, encoder, report=encoded)
    vectors = LinearAligner.fit_pca(np.unique(texts.text, axis=0), dims).align(texts.text)
    catalogue = Catalogue([item.item_id for item in kept], vectors)
    return Shop(kept, log, texts, catalogue, vectors, *_categories(kept, vectors))


def co_engaged_vectors(shop: Shop, train: TrainingLog, *, seed: int = 0) -> Vectors:
    """Vectors (N, dims) of an aligner trained on a part of the log, as `freshet train aligner` does on all of it.

    The PCA where nothing is to be learned.
    """
    config = replace(ALIGNER, head=replace(ALIGNER.head, dims=shop.vectors.shape[1], seed=seed))
    try:
        aligner, _ = train_aligner(shop.columns(train), shop.catalogue.item_ids, shop.texts, config)
    except NothingToLearn:
        return shop.vectors
    return aligner.align(shop.texts.text)


def engaged(events: pa.Table) -> pa.Table:
    """Events without returns: by their type, or by a negative value."""
    back = pc.is_in(events["event_type"], pa.array(NOT_ENGAGED))
    negative = pc.fill_null(pc.less(events["value"], 0.0), False)
    return events.filter(pc.invert(pc.or_(back, negative)))


def _categories(items: Sequence[Item], vectors: Vectors) -> tuple[Bools, list[str], bool]:
    names = sorted({part for item in items for part in item.category})
    if len(names) > 1:
        column = {name: number for number, name in enumerate(names)}
        table = np.zeros((len(items), len(names)), dtype=np.bool_)
        for row, item in enumerate(items):
            table[row, [column[part] for part in item.category]] = True
        return table, names, False
    of = clusters(vectors, min(CLUSTERS, len(items)))
    return of[:, None] == np.arange(of.max() + 1), [f"kind {number}" for number in range(of.max() + 1)], True


def clusters(vectors: Vectors, count: int, *, rounds: int = 25, seed: int = 0) -> NDArray[np.int64]:
    """Spherical k-means: the cluster of each row (N,). Starts are drawn far from each other (k-means++)."""
    rng = np.random.default_rng(seed)
    centres = vectors[[int(rng.integers(len(vectors)))]]
    while len(centres) < count:
        far = np.clip(1.0 - (vectors @ centres.T).max(1), 0.0, None) + 1e-9
        centres = np.vstack([centres, vectors[[int(rng.choice(len(vectors), p=far / far.sum()))]]])
    for _ in range(rounds):
        of: NDArray[np.int64] = (vectors @ centres.T).argmax(1)
        for cluster in np.unique(of):
            mean = vectors[of == cluster].sum(0)
            centres[cluster] = mean / max(float(np.linalg.norm(mean)), 1e-9)
    nearest: NDArray[np.int64] = (vectors @ centres.T).argmax(1)
    return nearest
