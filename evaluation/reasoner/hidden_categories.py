"""A category taken out of a user's history: is it inferred from the rest?

Owns these measures and the random-category baseline. Must not train.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from evaluation.reasoner.dataset import Dataset
from evaluation.reasoner.measures import Inferred, Tally
from evaluation.reasoner.splits import NEXT, Case, HeldOut


def measure_hidden(
    tally: Tally, dataset: Dataset, made: HeldOut, lists: Mapping[str, Sequence[Inferred]], rng: np.random.Generator
) -> None:
    """`found`: is at least one inferred item of the hidden category; `recall` of the hidden items among 16 at best."""
    every = {**lists, "random_category": random_category(dataset, made.hidden, rng)}
    for name, answers in every.items():
        found, recall = [], []
        for answer, case, category in zip(answers, made.hidden, made.hidden_category, strict=True):
            found.append(float(dataset.categories[answer.rows, category].any()))
            recall.append(np.isin(case.truth, answer.rows).sum() / min(NEXT, len(case.truth)))
        tally.add(f"hidden.{name}.found", made.hidden, np.array(found))
        tally.add(f"hidden.{name}.recall", made.hidden, np.array(recall))


def random_category(dataset: Dataset, cases: Sequence[Case], rng: np.random.Generator) -> list[Inferred]:
    """16 new items of one category that is drawn for each user."""
    answers = []
    for case in cases:
        rows = np.flatnonzero(dataset.categories[:, rng.integers(dataset.categories.shape[1])])
        rows = np.setdiff1d(rows, case.history)
        chosen = rng.permutation(rows)[:NEXT]
        answers.append(Inferred(chosen, np.ones(len(chosen))))
    return answers
