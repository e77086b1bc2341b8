"""Does knowledge pay? Cold items found by title, by title and knowledge, by title and another item's knowledge.

`python -m evaluation.value --items FILE --events FILE --knowledge FILE --split DATE`. Owns which ways are compared,
what is tuned (on items first seen before the split) and what is printed. All ways get the same head and the same grid.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import click
import numpy as np

from evaluation.arms import Encoded, Scores, companions, complements, cosines, encoded, shuffled, together, vocabulary
from evaluation.cold_data import ColdData, load
from evaluation.intervals import interval
from models.encoder.aligner import LinearAligner
from models.encoder.aligner_training import AlignerConfig, validation
from models.encoder.cold_items import ColdConfig, ColdItems
from models.encoder.contrastive import HeadConfig, Texts, train_head
from models.encoder.encoder import TextEncoder, Vectors, prepared_encoder
from models.encoder.pairs import Pairs, co_engaged
from models.reasoner.sequences import TrainingLog
from streams.settings import Settings

GRID = (1.0, 0.25, 0.5, 2.0)
"""Weights tried for what is added to a score; the first where validation items have no knowledge to tune on."""


class Trial:
    """One question with the events that may be learned from, and what is made of them once: pairs."""

    def __init__(self, log: TrainingLog, rows: int, question: ColdItems) -> None:
        self.question = question
        self.pairs: Pairs = co_engaged(log, rows, np.random.default_rng(0))


class Comparison:
    """Scores every way on validation items and on the cold ones; `ways` holds the cold items' scores by name."""

    def __init__(self, data: ColdData, encoder: TextEncoder, head: HeadConfig, config: ColdConfig, seed: int) -> None:
        past, rows = data.past, len(data.items)
        likewise = AlignerConfig(head=head, cold=replace(config, least_baskets=5))
        learned, earlier, _ = validation(past, rows, likewise)
        self.validation = Trial(learned, rows, earlier)
        self.test = Trial(past, rows, data.question)
        self.encoder, self.head, self.data = encoder, head, data
        self.ways: dict[str, Scores] = {}
        self.chosen: dict[str, float] = {}
        self._texts = {
            "knowledge": encoded(data.items, data.knowledge, encoder),
            "shuffled": encoded(data.items, shuffled(data.items, data.knowledge, seed), encoder),
        }
        there = self._texts["knowledge"].known[earlier.cold]
        self.can_tune = len(there) >= 30 and float(there.mean()) >= 0.5

    def run(self) -> None:
        """Every way, cheapest first."""
        title = self._texts["knowledge"].title
        self._plain("title", title)
        for kind, texts in self._texts.items():
            self._plain(f"title + {kind}, one text", texts.one_text)
            self._plain(f"title + {kind}, joined", texts.joined())
            self._added(f"title + {kind} as queries", title, self._queries(texts))
            self._added(f"title + {kind} vocabulary", title, partial(self._vocabulary, texts))
            self._added(f"title + {kind} complements", title, partial(self._complements, texts))
        self._grounded("title + companions", title)
        for kind, texts in self._texts.items():
            self._grounded(f"title + {kind} + companions", texts.joined())
        wrong = np.random.default_rng(0).permutation(len(self.data.question.cold))
        grounded = companions(cosines(title, self.test.question), self.test.pairs, self.test.question)[wrong]
        weight = self.chosen["title + companions"]
        self.ways["title + another's companions"] = together(self.ways["title"], grounded, weight)
        self._headed("head: title", title)
        for kind, texts in self._texts.items():
            self._headed(f"head: title + {kind}", texts.joined())

    def _plain(self, name: str, vectors: Vectors) -> None:
        self.ways[name] = cosines(vectors, self.test.question)

    def _vocabulary(self, texts: Encoded, trial: Trial) -> Scores:
        return vocabulary(texts, self.encoder, trial.question)

    def _complements(self, texts: Encoded, trial: Trial) -> Scores:
        return complements(texts, self.encoder, trial.question)

    @staticmethod
    def _queries(texts: Encoded) -> Callable[[Trial], Scores]:
        """The cold item's knowledge against the known items' titles."""

        def scores(trial: Trial) -> Scores:
            asked, there = texts.knowledge[trial.question.cold], texts.title[trial.question.known]
            return (asked @ there.T).astype(np.float64)

        return scores

    def _added(self, name: str, vectors: Vectors, more: Callable[[Trial], Scores]) -> None:
        """The cosine of `vectors` and something more, with the weight that validation likes best."""
        tried = self.validation
        base, extra = cosines(vectors, tried.question), more(tried)
        recall = {w: float(tried.question.recall(together(base, extra, w)).mean()) for w in GRID}
        tunable = self.can_tune or name == "title + companions"
        self.chosen[name] = max(recall, key=lambda w: recall[w]) if tunable else GRID[0]
        own = cosines(vectors, self.test.question)
        self.ways[name] = together(own, more(self.test), self.chosen[name])

    def _grounded(self, name: str, vectors: Vectors) -> None:
        self._added(name, vectors, lambda t: companions(cosines(vectors, t.question), t.pairs, t.question))

    def _headed(self, name: str, vectors: Vectors) -> None:
        """The contrastive head over `vectors`, as many steps as validation likes; then with companions."""
        texts, tried = Texts.alone(vectors), self.validation

        def score(aligner: LinearAligner) -> float:
            return float(tried.question.recall(cosines(aligner.align(vectors), tried.question)).mean())

        fit = train_head(texts, tried.pairs, self.head, score=score)
        before = fit.aligner.align(vectors)
        whole = train_head(texts, self.test.pairs, replace(self.head, steps=max(fit.step, 1))).aligner
        after = (whole if fit.step else LinearAligner.fit_pca(vectors, self.head.dims)).align(vectors)
        self.chosen[name] = float(fit.step)
        self._plain(name, after)
        near = cosines(before, tried.question)
        extra = companions(near, tried.pairs, tried.question)
        recall = {w: float(tried.question.recall(together(near, extra, w)).mean()) for w in GRID}
        weight = self.chosen[f"{name} + companions"] = max(recall, key=lambda w: recall[w])
        near = cosines(after, self.test.question)
        self.ways[f"{name} + companions"] = together(
            near, companions(near, self.test.pairs, self.test.question), weight
        )


def report(comparison: Comparison) -> dict[str, Any]:
    """Figures by way; differences are paired, against the title alone and against the title under the same head."""
    data, ways = comparison.data, comparison.ways
    measured = {name: _measures(data, scores) for name, scores in ways.items()}
    answer: dict[str, Any] = {
        "cold_items": len(data.question.cold),
        "known_items": len(data.question.known),
        "buyers": len(data.buyers.bought),
        "cold_with_knowledge": int(comparison._texts["knowledge"].known[data.question.cold].sum()),
        "known_with_knowledge": int(comparison._texts["knowledge"].known[data.question.known].sum()),
        "validation_items": len(comparison.validation.question.cold),
        "tuned_on_validation": comparison.can_tune,
        "ways": {},
    }
    for name, values in measured.items():
        figures: dict[str, Any] = {"chosen": comparison.chosen.get(name)}
        for measure, each in values.items():
            groups = None if measure == "buyers_recall10" else data.groups
            figures[measure] = round(float(each.mean()), 4)
            for against, base in _bases(name, measured).items():
                figures[f"{measure}_over_{against}"] = _paired(each, base[measure], groups)
        answer["ways"][name] = figures
    return answer


def _bases(name: str, measured: Mapping[str, Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    """What a way is compared with: the title alone; and the title with all that the way has but knowledge."""
    fair = name.replace(" + knowledge", "").replace(" + shuffled", "")
    fair = fair if fair in measured else "title"
    return {"title": measured["title"]} | ({"same_without": measured[fair]} if fair not in (name, "title") else {})


def _paired(each: np.ndarray, base: np.ndarray, groups: list[str] | None) -> dict[str, Any]:
    gain = float(each.mean() - base.mean())
    relative = round(gain / float(base.mean()), 4) if base.mean() else None
    return {"gain": round(gain, 4), "interval": interval(each - base, groups), "relative": relative}


def _measures(data: ColdData, scores: Scores) -> dict[str, np.ndarray]:
    """Recall@50 and NDCG@20 by cold item, recall@10 by buyer: a user likes what his history's items are near to."""
    place = np.full(len(data.items) + 1, -1, dtype=np.int64)
    place[data.question.known] = np.arange(len(data.question.known))
    columns = place[data.buyers.histories]  # (U, H); a padded -1 reads the last, which is -1 too
    there = columns >= 0
    liked = (scores.T[np.maximum(columns, 0)] * there[..., None]).sum(1) / there.sum(1, keepdims=True)  # (U, C)
    return {
        "recall50": data.question.recall(scores),
        "ndcg20": data.question.ndcg(scores),
        "buyers_recall10": data.buyers.recall(liked),
    }


@click.command()
@click.option("--items", required=True, type=click.Path(exists=True, path_type=Path))
@click.option("--events", required=True, type=click.Path(exists=True, path_type=Path))
@click.option("--knowledge", required=True, type=click.Path(exists=True, path_type=Path))
@click.option("--split", required=True, help="Items first seen on this day or later are cold.")
@click.option("--known", default=900, show_default=True, type=click.IntRange(50), help="Known items compared with.")
@click.option("--least-baskets", default=10, show_default=True, type=click.IntRange(1))
@click.option("--damping", default=50.0, show_default=True, type=click.FloatRange(0), help="Of the truth's lift.")
@click.option("--by-title", is_flag=True, help="Known items of one title count as one.")
@click.option("--steps", default=HeadConfig().steps, show_default=True, type=click.IntRange(1))
@click.option("--seed", default=0, show_default=True, type=click.IntRange(0))
@click.option("--json", "as_json", is_flag=True, help="One line of JSON.")
def main(
    items: Path,
    events: Path,
    knowledge: Path,
    split: str,
    known: int,
    least_baskets: int,
    damping: float,
    by_title: bool,
    steps: int,
    seed: int,
    as_json: bool,
) -> None:
    """Compare what title, knowledge and companions say of cold items."""
    settings = Settings.load()
    config = ColdConfig(known=known, least_baskets=least_baskets, damping=damping)
    data = load(items, events, knowledge, split=split, config=config, by_title=by_title)
    head = HeadConfig(dims=settings.vectors.dims, steps=steps, seed=seed)
    comparison = Comparison(data, prepared_encoder(settings.encoder, settings.home), head, config, seed)
    comparison.run()
    answer = report(comparison)
    if as_json:
        click.echo(json.dumps(answer))
        return
    click.echo(", ".join(f"{key} {value}" for key, value in answer.items() if key != "ways"))
    for name, figures in answer["ways"].items():
        over = figures["recall50_over_title"]
        click.echo(
            f"{name:42} recall@50 {figures['recall50']:.4f} {over['gain']:+.4f} {list(over['interval'])}  "
            f"NDCG@20 {figures['ndcg20']:.4f}  buyers' recall@10 {figures['buyers_recall10']:.4f}"
        )


if __name__ == "__main__":
    main()
