"""The measures against gold: boxes, rates, the sample and who may be an example."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from evaluation.knowledge import TRIES, Score, box, evaluate, measures, split, without_products
from evaluation.naive_extractor import NaiveExtractor
from freshet.records import Claim, Item, ItemKnowledge, Provenance
from models.llm.client import LLMUnavailable
from processors.items.ask import InvalidKnowledge
from processors.items.attribute_catalogue import AttributeCatalogue
from schemas.annotated import Annotated, read_annotated
from schemas.files import FileError
from tests.support.fakes import FakeClock
from tests.support.fakes_llm import FakeLlm

CATALOGUE = AttributeCatalogue.from_rows([{"category": "Tea", "attribute": name} for name in ("Brand", "Size", "Tin")])


def row(name: str, title: str = "", product: str = "", **gold: list[str]) -> Annotated:
    return Annotated(Item(name, 1, title or name, category=("Tea",)), gold, product or name)


def knowledge(**said: str) -> ItemKnowledge:
    claims = tuple(Claim("attribute", name, value) for name, value in said.items())
    return ItemKnowledge("i", 1, 1, "", claims=claims, provenance=Provenance(calls=1, tokens_in=90, tokens_out=10))


@pytest.mark.parametrize(
    ("gold", "said", "where"),
    [([], "", "NN"), ([], "x", "NV"), (["x"], "", "VN"), (["x", "Y  z"], "y Z", "VC"), (["x"], "y", "VW")],
)
def test_every_pair_falls_into_one_box(gold: list[str], said: str, where: str) -> None:
    """Catches an accepted form counted as wrong, and an invented value counted as harmless."""
    assert box(gold, said) == where


def test_rates_are_those_of_the_literature() -> None:
    """Catches recall that forgets wrong answers, and a hallucination rate over the wrong whole."""
    found = measures({"NN": 6, "NV": 2, "VN": 3, "VC": 4, "VW": 1})
    assert found == {"precision": 0.5714, "recall": 0.5, "f1": 0.5333, "hallucination": 0.25, "coverage": 0.625}
    assert set(measures({}).values()) == {0.0}


def test_an_item_without_an_answer_counts_as_answered_with_nothing() -> None:
    """Catches a model that looks better for every item it fails on."""
    score = Score()
    score.add(row("a", Brand=["Acme"], Size=[]), CATALOGUE, None)
    score.add(row("b", Brand=["Acme"]), CATALOGUE, knowledge(Brand="acme", Tin="tin", Other="x"))
    assert (score.items, score.failed) == (2, 1)
    assert dict(score.boxes) == {"VN": 1, "NN": 3, "VC": 1, "NV": 1}
    assert score.summary()["tokens_per_item"] == 50.0
    assert score.summary()["calls_per_item"] == 0.5
    assert list(score.by_category) == ["Tea"]


def test_the_sample_depends_on_ids_and_seed_alone() -> None:
    """Catches a development set that changes with the order of a file."""
    rows = [row(f"i{number}") for number in range(30)]
    chosen, rest = split(rows, 8, 0)
    again, _ = split(rows[::-1], 8, 0)
    assert [one.item.item_id for one in chosen] == [one.item.item_id for one in again]
    assert len(chosen) == 8
    assert len(rest) == 22
    assert split(rows, None, 0) == (sorted(rows, key=lambda one: one.item.item_id), [])


def test_the_rest_shares_neither_product_nor_title_with_the_sample() -> None:
    """Catches an evaluation that shows another shop's offer of the very product."""
    sample = [row("a", "Green tea", "p1")]
    others = [row("b", "x", "p1"), row("c", "green  TEA", "p2"), row("d", "rooibos", "p3")]
    assert [one.item.item_id for one in without_products(others, sample)] == ["d"]


async def test_items_are_asked_about_and_scored(monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches an item that was never asked about, one slow answer that costs the run, and an outage scored as wrong."""
    asked: list[str] = []

    monkeypatch.setattr("evaluation.knowledge.FIRST_PAUSE_S", 0.0)

    class Extractor:
        async def distill(self, item: Item) -> ItemKnowledge:
            asked.append(item.item_id)
            if item.item_id == "slow" and asked.count("slow") < TRIES:
                raise LLMUnavailable("busy")
            if item.item_id == "bad":
                raise InvalidKnowledge("not JSON", "{")
            if item.item_id == "away":
                raise LLMUnavailable("down")
            return knowledge(Brand="Acme")

    seen: list[str] = []
    rows = [row("slow", Brand=["Acme"]), row("bad", Brand=["Acme"])]
    score = await evaluate(
        Extractor(), rows, CATALOGUE, concurrency=2, done=lambda one, _: seen.append(one.item.item_id)
    )
    assert sorted(seen) == ["bad", "slow"]
    assert (score.boxes["VC"], score.boxes["VN"], score.failed) == (1, 1, 1)
    with pytest.raises(LLMUnavailable):
        await evaluate(Extractor(), [row("away")], CATALOGUE, concurrency=1)


async def test_the_naive_baseline_asks_once_for_everything_and_believes_it() -> None:
    """Catches a baseline that is weaker than what a first attempt would be."""
    llm = FakeLlm()
    llm.errors.append(json.dumps({"Brand": "Acme", "Size": "n/a", "Tin": "gold"}))
    made = await NaiveExtractor(llm, FakeClock(), CATALOGUE).distill(row("a").item)
    assert {claim.name: claim.value for claim in made.claims} == {"Brand": "Acme", "Tin": "gold"}
    assert (made.provenance.calls, len(llm.calls)) == (1, 1)
    prompt = llm.calls[0][1][0].content
    assert all(name in prompt for name in ("Brand", "Size", "Tin", "Tea"))


def test_gold_never_reaches_the_item(tmp_path: Path) -> None:
    """Catches an evaluation that shows the model the gold attributes."""
    file = tmp_path / "items.jsonl"
    line = {
        "item_id": "i",
        "title": "tea",
        "attributes": json.dumps({"Brand": ["Acme"], "Size": []}),
        "cluster_id": "c",
    }
    file.write_text(json.dumps(line) + "\n")
    [one] = read_annotated(file)
    assert (dict(one.item.attributes), one.gold, one.product) == ({}, {"Brand": ["Acme"], "Size": []}, "c")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ({"item_id": "i", "title": "t"}, "gold attributes"),
        ({"item_id": "i", "title": "t", "attributes": "[1"}, "row 0"),
    ],
)
def test_a_file_without_gold_is_refused(tmp_path: Path, line: dict[str, str], message: str) -> None:
    """Catches a score of zero for a file that was never annotated."""
    file = tmp_path / "items.jsonl"
    file.write_text(json.dumps(line) + "\n")
    with pytest.raises(FileError, match=message):
        read_annotated(file)
