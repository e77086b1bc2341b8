"""How well a network ranks what users did after the time it was trained up to.

Owns the questions of a training run and the network's scores for them. Must not train.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from models.reasoner import ranking_metrics as ranking
from models.reasoner.cooccurrence_table import NeighborTable
from models.reasoner.network import BlockDiffusionNetwork
from models.reasoner.sequences import Ints, Question, TrainingLog, first_events, padded, questions


@dataclass(frozen=True, slots=True)
class Validation:
    """The next item new to a user (`novel`) and the next of any kind (`every`), asked after a time split."""

    novel: Sequence[Question]
    every: Sequence[Question]

    @classmethod
    def of(cls, log: TrainingLog, split: int, users: int, seed: int) -> Validation:
        """Up to `users` questions from the events after `split`; its own draws, whatever training drew."""
        return cls(*questions(log, split, users, np.random.default_rng([seed, 1])))

    def ndcg(self, scorer: ranking.Scorer) -> float:
        """NDCG@10 of the next new item; where nobody has one, of the next item."""
        return ranking.ranking_metrics(self.novel or self.every, scorer, novel=bool(self.novel))["ndcg10"]

    def some(self, users: int) -> Validation:
        """At most so many questions of each kind."""
        return Validation(self.novel[:users], self.every[:users])

    def report(
        self,
        network: BlockDiffusionNetwork,
        vectors: Tensor,
        neighbors: NeighborTable | None,
        counts: Ints,
        *,
        distinct: bool,
    ) -> dict[str, Any]:
        """HR@10 and NDCG@10 for the network and for popularity: next new item, and next item (`all_`)."""
        model = network_scorer(network, vectors, neighbors, distinct=distinct)
        popular = ranking.popularity(counts)
        result: dict[str, Any] = {"validation_users": len(self.novel)}
        for name, asked, is_novel in (("", self.novel, True), ("all_", self.every, False)):
            for prefix, scorer in ((name, model), (f"{name}popularity_", popular)):
                for key, value in ranking.ranking_metrics(asked, scorer, novel=is_novel).items():
                    result[prefix + key] = value
        return result


def network_scorer(
    network: BlockDiffusionNetwork,
    vectors: Tensor,
    neighbors: NeighborTable | None = None,
    *,
    distinct: bool,
    history: int = 200,
) -> ranking.Scorer:
    """Scores of the next item."""

    @torch.inference_mode()
    def scorer(part: Sequence[Question]) -> ranking.Scores:
        embeddings, bias = network.embed(vectors, torch.arange(len(vectors), device=vectors.device))
        rows, lengths = read(part, history, distinct=distinct)
        clean = functional.embedding(rows.to(vectors.device), embeddings)
        prefix = network.prefix(clean, lengths.to(vectors.device))
        scores = network.scores(prefix.last, embeddings, bias).float().cpu()
        if neighbors is not None:
            scores += neighbors.offset(rows, lengths, len(vectors))
        ranked: ranking.Scores = scores.numpy()
        return ranked

    return scorer


def neighbor_scorer(neighbors: NeighborTable, items: int, *, distinct: bool) -> ranking.Scorer:
    """Scores by the offset alone."""

    def scorer(part: Sequence[Question]) -> ranking.Scores:
        ranked: ranking.Scores = neighbors.offset(*read(part, 200, distinct=distinct), items).numpy()
        return ranked

    return scorer


def read(part: Sequence[Question], history: int, *, distinct: bool) -> tuple[Tensor, Tensor]:
    """Item rows (Q, L) padded with 0 and their lengths (Q,)."""
    rows = [first_events(question.history) if distinct else question.history for question in part]
    together, lengths = padded([each[-history:] for each in rows])
    return torch.from_numpy(together), torch.from_numpy(lengths)
