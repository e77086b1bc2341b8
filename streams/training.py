"""From a log and a catalogue in memory to the checkpoint folder that workers load: encode, align, train, save.

Owns which items are encoded and what goes into the folder. Must not read files nor draw progress.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pyarrow as pa

from freshet.settings import Settings
from models import checkpoint
from models.encoder import prepared_encoder
from models.reasoner_training import Progress, TrainingConfig, TrainingError, train_reasoner
from models.sequences import EventColumns
from processors.embed_catalogue import embed_catalogue
from schemas.records import Item


def train_on(
    events: pa.Table,
    items: Iterable[Item],
    settings: Settings,
    config: TrainingConfig,
    folder: Path,
    *,
    encoded: Callable[[int, int], None] = lambda _done, _total: None,
    trained: Callable[[Progress], None] = lambda _: None,
) -> checkpoint.Checkpoint:
    """Train a reasoner on `events` (`files.EVENT_SCHEMA`) over `items` and put its checkpoint at `folder`.

    The checkpoint brings its aligner, so that workers embed new items into the space it was trained in. Raises
    `TrainingError` where there is nothing to learn from, `FileNotFoundError` where the encoder is not prepared.
    """
    columns = EventColumns(
        events["user_id"].to_pylist(), events["item_id"].to_pylist(), events["event_time"].to_numpy().astype(np.int64)
    )
    chosen = _chosen(columns, items, config)
    encoder = prepared_encoder(settings)
    catalogue, aligner = embed_catalogue(chosen, encoder, settings.dims, report=encoded)
    train_reasoner(
        columns,
        catalogue,
        config,
        folder,
        progress=trained,
        also=lambda new: aligner.save(new / checkpoint.ALIGNER),
    )
    return checkpoint.load(folder)


def _chosen(columns: EventColumns, items: Iterable[Item], config: TrainingConfig) -> list[Item]:
    """The catalogue without what will not be used: encoding a text costs milliseconds."""
    by_id = {item.item_id: item for item in items}
    if config.include_rare:
        return list(by_id.values())
    counts = Counter(item_id for item_id in columns.item_ids if item_id in by_id)
    if not counts:
        raise TrainingError(f"none of {len(columns.item_ids)} events is about one of the {len(by_id)} items")
    return [by_id[item_id] for item_id, _ in counts.most_common(config.max_items)]
