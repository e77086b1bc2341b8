"""What was measured, as one JSON object and as tables for a terminal.

Owns names and layout of the answer. Must not measure.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from rich.table import Table

from evaluation.reasoner.measures import Tally
from evaluation.reasoner.run import Evaluation

Figures = Mapping[str, Mapping[str, Any]]
HEAD = {
    "ours_minus_sasrec_ndcg10": ("ours", "sasrec"),
    "ensemble_minus_knn_ndcg10": ("ensemble", "cooccurrence"),
    "ours_minus_knn_ndcg10": ("ours", "cooccurrence"),
    "network_minus_sasrec_ndcg10": ("network", "sasrec"),
    "ours_minus_sasrec_ensemble_ndcg10": ("ours", "sasrec_ensemble"),
    "ensemble_minus_sasrec_ensemble_ndcg10": ("ensemble", "sasrec_ensemble"),
}
"""Paired differences of NDCG@10; `knn` is the windowed co-occurrence, the strongest of the neighbor baselines.

Where ours adds neighbors to its network, `network` is the network alone: what compares with SASRec like for like, as
ours does with SASRec's own ensemble.
"""

SPACES = {
    "text": "PCA of the texts",
    "aligned": "aligner trained on the training part of the log",
    "network": "the network's own embeddings",
}


def answer(made: Evaluation) -> dict[str, Any]:
    """Everything. `models` and the three head figures are leave-last-out; intervals are over users."""
    tally = made.tally
    names = tally.names()
    found: dict[str, Any] = {
        "seeds": list(made.options.seeds),
        **made.facts,
        "models": group(tally, "last"),
        **dict(_head(tally, "last")),
    }
    if "cold.ours.hr10" in names:
        found["cold_ours_over_textknn"] = tally.ratio("cold.ours.hr10", "cold.text_knn.hr10")
        found["cold"] = group(tally, "cold")
    if "hidden.ours_1.found" in names:
        found["hidden_category"] = group(tally, "hidden")
    if "time.ours.hr10" in names:
        found["time_split"] = {"models": group(tally, "time"), **dict(_head(tally, "time"))}
    if "sets.ours_1.recall16" in names:
        found["sets"] = group(tally, "sets")
        spaces = dict.fromkeys(name.split(".")[1] for name in names if name.startswith("enrich."))
        found["enrichment"] = {space: group(tally, f"enrich.{space}") for space in spaces}
        for other in ("log", "next_item"):
            found[f"enrichment_over_{other}"] = {space: dict(_over(tally, space, other)) for space in spaces}
    found["steps_over_one"] = dict(_over_one(tally))
    found["settings"] = made.settings()
    return found


def group(tally: Tally, stage: str) -> dict[str, dict[str, Any]]:
    """Each model's measures in a stage: `name` and `name_interval`."""
    found: dict[str, dict[str, Any]] = {}
    for name in tally.names():
        if name.startswith(f"{stage}."):
            model, measure = name.removeprefix(f"{stage}.").rsplit(".", 1)
            figure = tally.figure(name)
            found.setdefault(model, {}).update({measure: figure["value"], f"{measure}_interval": figure["interval"]})
    return found


def _head(tally: Tally, stage: str) -> Iterator[tuple[str, dict[str, Any]]]:
    for name, (one, other) in HEAD.items():
        if f"{stage}.{one}.ndcg10" in tally.names():
            yield name, tally.difference(f"{stage}.{one}.ndcg10", f"{stage}.{other}.ndcg10")


def _over(tally: Tally, space: str, other: str) -> Iterator[tuple[str, dict[str, Any]]]:
    for model in group(tally, f"enrich.{space}"):
        if model != other:
            yield model, tally.difference(f"enrich.{space}.{model}.tuned", f"enrich.{space}.{other}.tuned")


def _over_one(tally: Tally) -> Iterator[tuple[str, dict[str, Any]]]:
    """What more steps change, paired with 1 step."""
    for name in tally.names():
        stage, model, measure = name.split(".", 2)
        one = f"{stage}.ours_1.{measure}"
        if stage != "enrich" and model.startswith("ours_") and model != "ours_1":
            yield f"{stage}.{model}.{measure}", tally.difference(name, one)


def tables(found: Mapping[str, Any]) -> Iterator[tuple[str, Table]]:
    """The answer for a person."""
    yield _table("leave last out: next new item", found["models"])
    yield _differences("paired differences of NDCG@10", {name: found[name] for name in HEAD if name in found})
    if "time_split" in found:
        yield _table("time split: next new item", found["time_split"]["models"])
        split = found["time_split"]
        yield _differences("paired, time split", {name: split[name] for name in HEAD if name in split})
    if "cold" in found:
        yield _table(f"{found['cold_items']} cold items, never trained, ranked among themselves", found["cold"])
        yield _differences("HR@10 of ours over text kNN", {"cold_ours_over_textknn": found["cold_ours_over_textknn"]})
    if "hidden_category" in found:
        title = f"one category taken out of the history (categories: {found['categories']})"
        yield _table(title, found["hidden_category"])
    if "sets" in found:
        yield _table(f"16 inferred items against the next 16 ({found['sets_by']})", found["sets"])
        for space, figures in found["enrichment"].items():
            yield _table(f"recall@50 of the next 16 by user vector, {SPACES[space]}: 1:1, and weight tuned", figures)
            yield _differences("paired, tuned, over the log vector alone", found["enrichment_over_log"][space])
            yield _differences("paired, tuned, over next-item's top 16", found["enrichment_over_next_item"][space])
    if found["steps_over_one"]:
        yield _differences("what more steps change, paired with 1 step", found["steps_over_one"])
    tried = Table("", "NDCG@10", box=None)
    for one in found["settings"]["tried"]:
        tried.add_row(one["what"], f"{one['ndcg10']:.4f}")
    yield "tried on validation, under the first seed", tried


def _table(title: str, figures: Figures) -> tuple[str, Table]:
    measures = [name for name in next(iter(figures.values())) if not name.endswith("_interval")]
    table = Table("", *measures, box=None)
    for model, values in figures.items():
        table.add_row(model, *(_cell(values[name], values[f"{name}_interval"]) for name in measures))
    return title, table


def _differences(title: str, figures: Figures) -> tuple[str, Table]:
    table = Table("", "", box=None, show_header=False)
    for name, figure in figures.items():
        table.add_row(name, _cell(figure["value"], figure["interval"], sign=name != "cold_ours_over_textknn"))
    return title, table


def _cell(value: float, interval: list[float], *, sign: bool = False) -> str:
    low, high = interval
    return f"{value:+.4f} [{low:+.4f}, {high:+.4f}]" if sign else f"{value:.4f} [{low:.4f}, {high:.4f}]"
