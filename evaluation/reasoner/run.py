"""The whole comparison on one shop: what is trained, tuned and asked, seed by seed.

Owns the order of things and that settings are chosen on validation cases alone, once, under the first seed. Must not
read files nor print.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np

from evaluation.reasoner import baselines, splits, tuning
from evaluation.reasoner.hidden import measure_hidden
from evaluation.reasoner.measures import Scorer, Tally, best, ranks
from evaluation.reasoner.ours import Ours, then_scores, train_ours
from evaluation.reasoner.sasrec import SasRecConfig, train_sasrec
from evaluation.reasoner.sets import Lists, coverage, measure_enrichment, measure_sets
from evaluation.reasoner.shop import Shop, co_engaged_vectors
from evaluation.reasoner.splits import NEXT, Case, HeldOut
from evaluation.reasoner.tuning import Chosen
from models.reasoner.sampler import SlotPlan
from models.reasoner.sequences import TrainingLog
from models.reasoner.training.train import TrainingConfig, TrainingError

Report = Callable[[str, float], None]
"""Told what is being done, and the share of it that is done."""
LEAST_SET_USERS = 500
"""Where a time split has fewer users, the next 16 are asked by leaving each user's last 16 new items out."""
WITHOUT_VALIDATION = TrainingConfig(validation_share=0.0, validation_users=0, validate_every=0, patience=0)
"""All that a split gives is learned from, to the end of the step budget: no model stops early, none loses events."""
NAMES = {"last": "leave last out", "time": "time split", "sets": "leave last 16 out", "held": "held out"}
STAGES = tuple(NAMES)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReasonerOptions:
    """What is compared. `training` is ours; SASRec gets the same steps, windows, batch and width."""

    seeds: Sequence[int] = (0, 1, 2)
    steps: Sequence[int] = (1, 2, 4, 8, 16)
    training: TrainingConfig = field(default_factory=lambda: WITHOUT_VALIDATION)
    stages: Sequence[str] = STAGES
    plan: SlotPlan = field(default_factory=SlotPlan)
    between: int = 0
    users: int | None = None
    tune: bool = True


class Evaluation:
    """Fills `tally` stage by stage; `chosen` are the tuned settings, `facts` what else is worth telling."""

    def __init__(self, shop: Shop, options: ReasonerOptions, report: Report = lambda _text, _share: None) -> None:
        self.shop = shop
        self.options = options
        self.tally = Tally()
        self.facts: dict[str, Any] = {
            "items": len(shop),
            "users": len(np.unique(shop.log.users)),
            "events": len(shop.log.items),
            "categories": "k-means of the item vectors" if shop.clustered else "of the listing",
        }
        self.chosen: Chosen | None = None
        self._report = report
        self._where = ""
        self._coverage: dict[str, list[float]] = {}

    def run(self) -> Tally:
        """All stages under all seeds. Leave-last-out comes first: it is where settings are chosen."""
        stages = {"last": self._last, "time": self._time, "sets": self._sets, "held": self._held}
        for place, seed in enumerate(self.options.seeds):
            for name, stage in stages.items():
                if name == "last" or name in self.options.stages:
                    self._where = f"seed {place + 1} of {len(self.options.seeds)}, {NAMES[name]}"
                    stage(seed, place)
        self.facts["coverage"] = {name: round(float(np.mean(each)), 4) for name, each in self._coverage.items()}
        return self.tally

    def _last(self, seed: int, place: int) -> None:
        split = splits.leave_last(self.shop.log, np.random.default_rng(seed))
        validation, test = self._some(split.validation), self._some(split.test)
        if self.chosen is None:
            if not test:
                raise TrainingError(f"no user has {splits.LEAST_ITEMS} different items: there is nobody to ask")
            self.facts["last_users"] = len(test)
            self.chosen = tuning.choose(
                self.shop, split.train, validation, self._sasrec(seed), self._tell("tuning"), sasrec=self.options.tune
            )
        models, ours = self._models(split.train, seed)
        if place == 0 and self.options.training.neighbors:
            weight, tried = tuning.choose_weight(ours, validation)
            self.chosen = replace(self.chosen, network_weight=weight, tried=(*self.chosen.tried, *tried))
            models, ours = self._ours(models, ours.weighed(weight))
        if place == 0:
            self.chosen = tuning.choose_blends(self.chosen, models, validation)
        self._rank("last", models, ours, test)

    def _time(self, seed: int, place: int) -> None:
        split = splits.time_split(self.shop.log, np.random.default_rng(seed))
        self.facts["time_users"] = len(split.test)
        test = self._some(split.test)
        if not test:
            return
        models, ours = self._models(split.train, seed)
        self._rank("time", models, ours, test)
        if len(split.test) >= LEAST_SET_USERS and "sets" in self.options.stages:
            self.facts.update(sets_by="time split", sets_users=len(test))
            self._fill(seed, models, ours, test, split.train)

    def _sets(self, seed: int, place: int) -> None:
        if self.facts.get("sets_by") == "time split":
            return
        split = splits.leave_last_many(self.shop.log, np.random.default_rng(seed))
        test = self._some(split.test)
        if not test:
            self.facts["sets_by"] = f"nothing: no user has {2 * NEXT} different items"
            return
        self.facts.update(sets_by=f"leave last {NEXT} out", sets_users=len(test))
        models, ours = self._models(split.train, seed, sasrec=False)
        self._fill(seed, models, ours, test, split.train)

    def _held(self, seed: int, place: int) -> None:
        made = splits.held_out(self.shop.log, self.shop.categories, np.random.default_rng(seed), part=(place % 3, 3))
        assert self.chosen is not None
        ours = self._train(made.train, seed)
        cold = self._some(made.cold)
        self.facts.update(cold_items=len(made.cold_items), cold_users=len(cold))
        text = baselines.text_scorer(self.shop.vectors, self.chosen.text_half_life)
        if cold:
            for name, scorer in (("ours", ours.scores), ("text_knn", text)):
                self.tally.add_ranks(f"cold.{name}", cold, ranks(scorer, cold, among=made.cold_items))
        if made.hidden:
            self.facts["hidden_users_a_seed"] = len(made.hidden)
            self._hidden(made, ours, seed)

    def _hidden(self, made: HeldOut, ours: Ours, seed: int) -> None:
        assert self.chosen is not None
        popular = baselines.popularity(made.train, len(self.shop))
        near = baselines.windowed_scorer(
            baselines.windowed_table(made.train, len(self.shop), self.chosen.windowed, np.random.default_rng(seed)),
            self.chosen.windowed,
        )
        lists = {f"ours_{steps}": ours.infer(made.hidden, steps, seed=seed) for steps in self.options.steps}
        lists |= {"cooccurrence": best(near, made.hidden, NEXT), "popularity": best(popular, made.hidden, NEXT)}
        lists["next_item"] = best(ours.scores, made.hidden, NEXT)
        measure_hidden(self.tally, self.shop, made, lists, np.random.default_rng(seed))

    def _models(self, train: TrainingLog, seed: int, *, sasrec: bool = True) -> tuple[dict[str, Scorer], Ours]:
        """Every scorer, learned from `train`."""
        assert self.chosen is not None
        shop, rows, chosen = self.shop, len(self.shop), self.chosen
        windowed = baselines.windowed_table(train, rows, chosen.windowed, np.random.default_rng(seed))
        models = {
            "popularity": baselines.popularity(train, rows),
            "knn": baselines.neighbor_scorer(baselines.cosine_table(train, rows), chosen.knn_half_life),
            "cooccurrence": baselines.windowed_scorer(windowed, chosen.windowed),
            "text_knn": baselines.text_scorer(shop.vectors, chosen.text_half_life),
        }
        if sasrec:
            config = replace(chosen.sasrec, seed=seed)
            models["sasrec"] = train_sasrec(train, shop.vectors, config, progress=self._tell("training SASRec"))
        return self._ours(models, self._train(train, seed))

    def _ours(self, models: dict[str, Scorer], ours: Ours) -> tuple[dict[str, Scorer], Ours]:
        models["ours"] = ours.scores
        if self.options.training.neighbors:
            models["network"] = ours.network_scores
        return models, ours

    def _rank(self, stage: str, models: dict[str, Scorer], ours: Ours, cases: Sequence[Case]) -> None:
        """HR@10 and NDCG@10 of the next new item for every model, its steps and the ensembles."""
        assert self.chosen is not None
        for name, scorer in models.items():
            self.tally.add_ranks(f"{stage}.{name}", cases, ranks(scorer, cases))
        tell = self._tell("denoising")
        for number, steps in enumerate(self.options.steps):
            tell(number / len(self.options.steps))
            scorer = then_scores(ours.infer(cases, steps), models["ours"])
            self.tally.add_ranks(f"{stage}.ours_{steps}", cases, ranks(scorer, cases))
        for name, (one, other, weight) in self.chosen.blends.items():
            blended = tuning.blended(models[one], models[other], weight)
            self.tally.add_ranks(f"{stage}.{name}", cases, ranks(blended, cases))

    def _fill(
        self, seed: int, models: dict[str, Scorer], ours: Ours, cases: Sequence[Case], train: TrainingLog
    ) -> None:
        """The next 16: sets by steps and their controls, and what they add to the user vector."""
        made: Lists = {f"ours_{steps}": ours.infer(cases, steps, seed=seed) for steps in self.options.steps}
        controls: Lists = {
            "next_item": best(models["ours"], cases, NEXT, weigh="softmax"),
            "cooccurrence": best(models["cooccurrence"], cases, NEXT),
            "popularity": best(models["popularity"], cases, NEXT),
            "random": best(baselines.random_order(len(self.shop), np.random.default_rng(seed)), cases, NEXT),
        }
        every = {**made, **controls}
        if "sasrec" in models:
            every["sasrec"] = best(models["sasrec"], cases, NEXT, weigh="softmax")
        measure_sets(self.tally, self.shop, cases, every)
        for name, lists in every.items():
            self._coverage.setdefault(name, []).append(coverage(lists, len(self.shop)))
        enriched = {name: lists for name, lists in every.items() if name in ("ours_1", "ours_4") or name in controls}
        self._tell("training an aligner")(0.0)
        aligned = co_engaged_vectors(self.shop, train, seed=seed)
        for space, vectors in (("text", self.shop.vectors), ("aligned", aligned), ("network", ours.embeddings)):
            measure_enrichment(self.tally, space, vectors, cases, enriched)

    def _train(self, log: TrainingLog, seed: int) -> Ours:
        asked = self.options
        config = replace(asked.training, seed=seed, network_weight=self.chosen.network_weight if self.chosen else None)
        tell = self._tell("training ours")
        return train_ours(log, self.shop, config, plan=asked.plan, between=asked.between, progress=tell)

    def _sasrec(self, seed: int) -> SasRecConfig:
        ours = self.options.training
        return SasRecConfig(
            steps=ours.steps,
            window=ours.window,
            batch=ours.batch,
            width=ours.width,
            layers=ours.layers,
            heads=ours.heads,
            seed=seed,
        )

    def _some(self, cases: Sequence[Case]) -> Sequence[Case]:
        """At most `users` of the cases, the same users under every seed."""
        if self.options.users is None or len(cases) <= self.options.users:
            return cases
        chosen = np.sort(np.random.default_rng(0).permutation(len(cases))[: self.options.users])
        return [cases[at] for at in chosen]

    def _tell(self, text: str) -> Callable[[float], None]:
        where = f"{self._where}: {text}"
        return lambda share: self._report(where, share)

    def settings(self) -> dict[str, Any]:
        """Everything that was chosen, with what was tried."""
        assert self.chosen is not None
        return {"training": asdict(self.options.training), "plan": asdict(self.options.plan), **self.chosen.told()}
