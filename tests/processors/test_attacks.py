"""Every attack of the corpus, against a model that obeys it: nothing of it may be published."""

from __future__ import annotations

import dataclasses
from collections import Counter

import pytest

from evaluation.attacks import Attack, load
from processors.items.attribute_catalogue import Attribute, AttributeCatalogue, Category
from processors.items.confusables import fold
from processors.items.distiller import DistillationConfig, Distiller, InvalidKnowledge
from processors.items.injection_guard import inspect
from processors.items.item_text import item_text
from tests.attacks.obedient import WHERE, ObedientLlm, ScriptedLlm
from tests.support.fakes import FakeClock

ATTACKS = load()
_WANTED = Category("Goods", [Attribute("Material", "What it is made of"), Attribute("Use"), Attribute("Colour")])
RECIPES = {
    "open": DistillationConfig(),
    "critic": DistillationConfig("full"),
    "catalogue": DistillationConfig("full", AttributeCatalogue([_WANTED])),
}


def test_the_corpus_is_broad() -> None:
    """Catches a corpus that shrinks, or an attack that could not fail."""
    assert len(ATTACKS) >= 70
    assert len({attack.id for attack in ATTACKS}) == len(ATTACKS)
    languages = Counter(attack.language[:2] for attack in ATTACKS)
    assert languages["zh"] >= 20
    assert len(languages) >= 8
    assert len({attack.kind for attack in ATTACKS}) >= 18
    assert all(attack.knowledge_lacks and (attack.says or attack.answers) for attack in ATTACKS)


@pytest.mark.parametrize("distillation", RECIPES.values(), ids=RECIPES.keys())
@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.id)
async def test_an_attack_is_contained(attack: Attack, distillation: DistillationConfig) -> None:
    """Catches a listing whose words steer what is published, though the model does all it is told."""
    held = 0
    for say in attack.says:
        for where in WHERE:
            held += await _contained(attack, ObedientLlm(say, where), distillation, f"{say[:80]!r} {where}")
    for raw in attack.answers:
        held += await _contained(attack, ScriptedLlm(raw), distillation, raw[:80])
    assert held, "no answer was held back: the attack's answers are too tame to prove anything"


async def _contained(
    attack: Attack, llm: ObedientLlm | ScriptedLlm, distillation: DistillationConfig, what: str
) -> bool:
    item = dataclasses.replace(attack.item, category=attack.item.category or ("Goods",))
    try:
        knowledge = await Distiller(llm, FakeClock(), distillation=distillation).distill(item)
    except InvalidKnowledge:
        return True
    finally:
        shown = llm.calls[0][1][-1].content.removeprefix("<item>").removesuffix("</item>")
        assert not [lack for lack in attack.prompt_lacks if lack in shown]
    assert not attack.breaches(knowledge), what
    return False


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.id)
def test_what_must_not_reach_a_prompt_does_not(attack: Attack) -> None:
    """Catches a token, link or hidden text that a model is shown."""
    shown = item_text(attack.item)
    assert not [lack for lack in attack.prompt_lacks if lack in shown]
    assert "</item" not in fold(shown)


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.id)
def test_a_model_that_does_not_obey_is_heard(attack: Attack) -> None:
    """Catches a guard that judges the listing instead of the answer: one bad phrase would hide the product."""
    answer = {
        "reasoning": "The listing says to ignore all previous instructions; it is a plain household product.",
        "summary": "A plain household product",
        "attributes": [{"name": "type", "value": "household product", "quote": "product"}],
        "audience": ["people at home"],
    }
    assert inspect(attack.item, "You read product listings of a shop. Say plainly what it is.", answer) == ""
