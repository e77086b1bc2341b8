"""From a log and a catalogue in memory to the checkpoint folder that workers load: encode, align, train, save.

Owns which items are encoded and what goes into the folder. Must not read files nor draw progress.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from freshet.records import Item, ItemKnowledge
from models.encoder import contrastive
from models.encoder.aligner import Aligner, load_aligner
from models.encoder.aligner_training import AlignerConfig, train_aligner
from models.encoder.backends import prepared_encoder
from models.encoder.co_engagement import NothingToLearn
from models.interactions import TrainingEvents
from models.reasoner import checkpoint
from models.reasoner.sampler import SlotPlan
from models.reasoner.training.config import TrainingConfig, TrainingError
from models.reasoner.training.fit import TrainingProgress
from models.reasoner.training.train_reasoner import train_reasoner
from processors.items.embed_catalogue import embed_catalogue
from processors.items.embed_texts import encoded_texts
from streams.settings import Settings

ALIGNER_FILE = "aligner.safetensors"
"""In the home folder: what `freshet train aligner` made."""


def train_on(
    events: pa.Table,
    items: Iterable[Item],
    settings: Settings,
    config: TrainingConfig,
    folder: Path,
    *,
    plan: SlotPlan = checkpoint.DEFAULT_PLAN,
    aligner: Aligner | None = None,
    warm_start: Path | None = None,
    resume: bool = False,
    encoded: Callable[[int, int], None] = lambda _done, _total: None,
    trained: Callable[[TrainingProgress], None] = lambda _: None,
) -> checkpoint.Checkpoint:
    """Train a reasoner on `events` (`files.EVENT_SCHEMA`) over `items` and put its checkpoint at `folder`.

    The checkpoint brings its aligner (the given one, else that of the checkpoint in `warm_start`, else PCA), so that
    workers embed new items into the space it was trained in. `warm_start` and `resume` as in `train_reasoner`. Raises
    `TrainingError` where there is nothing to learn from or nothing fit to begin from, `FileNotFoundError` where the
    encoder is not prepared.
    """
    start, aligner = _start(warm_start, aligner)
    columns = _columns(events)
    chosen = _chosen(columns, items, config)
    encoder = prepared_encoder(settings.encoder, settings.home)
    catalogue, used = embed_catalogue(chosen, encoder, settings.vectors.dims, aligner=aligner, report=encoded)
    train_reasoner(
        columns,
        catalogue,
        config,
        folder,
        plan=plan,
        warm_start=start,
        resume=resume,
        progress=trained,
        also=lambda new: used.save(new / checkpoint.ALIGNER),
    )
    return checkpoint.load(folder)


def _start(folder: Path | None, aligner: Aligner | None) -> tuple[checkpoint.Checkpoint | None, Aligner | None]:
    """The checkpoint to begin from, and the aligner of the space it was trained in."""
    if folder is None:
        return None, aligner
    try:
        start = checkpoint.load(folder)
        theirs = load_aligner(folder / checkpoint.ALIGNER) if (folder / checkpoint.ALIGNER).exists() else None
    except (OSError, ValueError) as error:
        raise TrainingError(f"{folder}: {error}") from error
    if theirs is not None and aligner is not None and theirs.revision != aligner.revision:
        raise TrainingError(
            f"{folder} was trained in another vector space than the aligner given; leave one of them out"
        )
    return start, aligner or theirs


def train_aligner_on(
    events: pa.Table,
    items: Sequence[Item],
    knowledge: Mapping[str, ItemKnowledge],
    settings: Settings,
    config: AlignerConfig,
    file: Path,
    *,
    event_types: Collection[str] = (),
    encoded: Callable[[int, int], None] = lambda _done, _total: None,
    trained: Callable[[contrastive.AlignerProgress], None] = lambda _: None,
) -> dict[str, Any]:
    """Train an aligner on `events` (of `event_types`, of all where there are none) and write it to `file`.

    Only items with events are encoded. Gives what validation said, and the map's revision. Raises `NothingToLearn`, and
    `FileNotFoundError` where the encoder is not prepared.
    """
    if event_types:
        events = events.filter(pc.is_in(events["event_type"], pa.array(sorted(event_types))))
    columns = _columns(events)
    seen = set(columns.item_ids)
    chosen = list({item.item_id: item for item in items if item.item_id in seen}.values())
    if not chosen:
        raise NothingToLearn(f"none of {events.num_rows} events is about one of the {len(items)} items")
    texts = encoded_texts(chosen, knowledge, prepared_encoder(settings.encoder, settings.home), report=encoded)
    aligner, metrics = train_aligner(columns, [item.item_id for item in chosen], texts, config, progress=trained)
    file.parent.mkdir(parents=True, exist_ok=True)
    aligner.save(file)
    return {**metrics, "revision": aligner.revision, "items": len(chosen), "with_knowledge": int(texts.known.sum())}


def trained_aligner(settings: Settings, file: Path | None = None) -> Aligner | None:
    """The aligner in `file`; without one, what was trained into the home folder, or None.

    Raises `TrainingError` where it cannot be read or is of another width.
    """
    if file is None and not (settings.home / ALIGNER_FILE).exists():
        return None
    file = file or settings.home / ALIGNER_FILE
    try:
        aligner = load_aligner(file)
    except (OSError, ValueError) as error:
        raise TrainingError(f"{file}: {error}") from error
    if aligner.dims != settings.vectors.dims:
        raise TrainingError(f"{file} makes {aligner.dims} dimensions, FRESHET_VECTORS__DIMS is {settings.vectors.dims}")
    return aligner


def _columns(events: pa.Table) -> TrainingEvents:
    times = events["event_time"].to_numpy().astype(np.int64)
    return TrainingEvents(events["user_id"].to_pylist(), events["item_id"].to_pylist(), times)


def _chosen(columns: TrainingEvents, items: Iterable[Item], config: TrainingConfig) -> list[Item]:
    """The catalogue without what will not be used: encoding a text costs milliseconds."""
    by_id = {item.item_id: item for item in items}
    if config.include_rare:
        return list(by_id.values())
    counts = Counter(item_id for item_id in columns.item_ids if item_id in by_id)
    if not counts:
        raise TrainingError(f"none of {len(columns.item_ids)} events is about one of the {len(by_id)} items")
    return [by_id[item_id] for item_id, _ in counts.most_common(config.max_items)]
