"""How near does an item stand to what it will be bought with, before anybody has bought it: encoder, PCA, aligner.

`python -m evaluation.cold_items --items FILE --events FILE [--knowledge FILE] --json`. Owns this comparison and its
command. The aligner is trained on the events before the split alone.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import numpy as np

from evaluation.cold_data import ColdData, load
from evaluation.intervals import interval
from models.encoder.aligner import LinearAligner, Vectors
from models.encoder.aligner_training import AlignerConfig, train_aligner
from models.encoder.cold_items import ColdConfig
from models.encoder.contrastive import HeadConfig, Texts
from models.encoder.encoder import prepared_encoder
from models.reasoner.sequences import TrainingEvents
from processors.items.embed_texts import encoded_texts
from streams.settings import Settings

Map = Callable[[Vectors], Vectors]


def compare(data: ColdData, texts: Texts, config: AlignerConfig) -> dict[str, Any]:
    """Recall@50 and NDCG@20 by tier and map, 95 % intervals over items, and how far a change of tier moves one."""
    past = data.past
    rows = np.unique(past.items)
    ids = [str(row) for row in rows]
    log = TrainingEvents([str(user) for user in past.users], [str(item) for item in past.items], past.times)
    aligner, metrics = train_aligner(log, ids, texts.take(rows), config)
    pca = LinearAligner.fit_pca(texts.take(rows).every(), config.head.dims)
    maps: dict[str, Map] = {"raw": lambda vectors: vectors, "pca": pca.align, "aligned": aligner.align}
    tiers = {"text": texts.text} | ({"knowledge": texts.best()} if texts.known.any() else {})
    answer: dict[str, Any] = {
        "cold_items": len(data.question.cold),
        "known_items": len(data.question.known),
        "cold_with_knowledge": int(texts.known[data.question.cold].sum()),
        "training": metrics,
    }
    for tier, vectors in tiers.items():
        base: np.ndarray | None = None
        for name, align in maps.items():
            figures, recall = _figures(data, align(vectors))
            if base is not None:
                figures["recall50_over_raw"] = round(float((recall - base).mean()), 4)
                figures["over_raw_interval"] = interval(recall - base)
            else:
                base = recall
            answer[f"{tier}_{name}"] = figures
    if texts.known.any():
        answer["replacement"] = {name: replacement(data, texts, align) for name, align in maps.items()}
    return answer


def _figures(data: ColdData, vectors: Vectors) -> tuple[dict[str, Any], np.ndarray]:
    question = data.question
    scores = vectors[question.cold] @ vectors[question.known].T
    recall, ndcg = question.recall(scores), question.ndcg(scores)
    return {
        "recall50": round(float(recall.mean()), 4),
        "recall50_interval": interval(recall),
        "ndcg20": round(float(ndcg.mean()), 4),
        "ndcg20_interval": interval(ndcg),
    }, recall


def replacement(data: ColdData, texts: Texts, align: Map) -> dict[str, float]:
    """What moves when knowledge replaces text: median cosine of the two, and the share of the 50 nearest that stay."""
    cold = data.question.cold[texts.known[data.question.cold]]
    before, after = align(texts.text), align(texts.best())
    old = before[cold] @ before[data.question.known].T
    new = after[cold] @ before[data.question.known].T
    near = [np.argsort(-scores, axis=1, kind="stable")[:, :50] for scores in (old, new)]
    stay = [len(np.intersect1d(a, b)) / len(a) for a, b in zip(*near, strict=True)]
    return {
        "median_cosine": round(float(np.median((before[cold] * after[cold]).sum(1))), 4),
        "nearest_50_kept": round(float(np.mean(stay)), 4),
    }


@click.command()
@click.option("--items", required=True, type=click.Path(exists=True, path_type=Path))
@click.option("--events", required=True, type=click.Path(exists=True, path_type=Path))
@click.option("--knowledge", type=click.Path(exists=True, path_type=Path), help="What `freshet distill` wrote.")
@click.option(
    "--split", default="2011-09-01", show_default=True, help="Items first seen on this day or later are cold."
)
@click.option("--known", default=900, show_default=True, type=click.IntRange(50))
@click.option("--steps", default=HeadConfig().steps, show_default=True, type=click.IntRange(1))
@click.option("--seed", default=0, show_default=True, type=click.IntRange(0))
@click.option("--json", "as_json", is_flag=True, help="One line of JSON.")
def main(
    items: Path, events: Path, knowledge: Path | None, split: str, known: int, steps: int, seed: int, as_json: bool
) -> None:
    """Compare the encoder's space, PCA and the trained aligner on cold items."""
    settings = Settings.load()
    data = load(items, events, knowledge, split=split, config=ColdConfig(known=known))
    texts = encoded_texts(data.items, data.knowledge, prepared_encoder(settings.encoder, settings.home))
    answer = compare(data, texts, AlignerConfig(head=HeadConfig(dims=settings.vectors.dims, steps=steps, seed=seed)))
    if as_json:
        click.echo(json.dumps(answer))
        return
    click.echo(f"{answer['cold_items']} cold items against {answer['known_items']} known ones")
    for name, figures in answer.items():
        if isinstance(figures, dict) and "recall50" in figures and "recall50_interval" in figures:
            low, high = figures["recall50_interval"]
            click.echo(
                f"{name:20} recall@50 {figures['recall50']:.4f} [{low}, {high}]  NDCG@20 {figures['ndcg20']:.4f}"
            )


if __name__ == "__main__":
    main()
