from __future__ import annotations

import numpy as np
import pytest

from freshet.records import InferredBehavior
from models.reasoner.catalogue import Catalogue
from models.text_diffusion.prompt import Line
from tests.models.text_diffusion.text_tools import ALIGNER, ENCODER, TITLES, catalogue, grounder, vector


def ids(lines: list[Line], history: tuple[str, ...] = (), slots: int = 8) -> list[str]:
    shown = [TITLES[item_id] for item_id in history]
    return [one.item_id for one in grounder().ground(lines, history, shown, catalogue(), slots).behaviors]


def test_words_become_the_nearest_item() -> None:
    """Catches words grounded to another item, and a confidence that forgets the model's own."""
    found = grounder().ground([Line("Tent camping", 0.5)], (), (), catalogue(), 4)
    assert found.behaviors == (InferredBehavior("i3", pytest.approx(0.5, abs=1e-5)),)
    assert found.text_vector is None


def test_what_the_catalogue_lacks_stays_words_and_counts_in_the_vector() -> None:
    """Catches a far item put in the place of words it has nothing to do with, or words that are lost."""
    found = grounder().ground([Line("flight to Lisbon")], (), (), catalogue(), 4)
    [behavior] = found.behaviors
    assert (behavior.item_id, behavior.text) == ("", "flight to Lisbon")
    assert 0 <= behavior.confidence < 0.6
    assert found.text_vector is not None
    np.testing.assert_allclose(found.text_vector, behavior.confidence * vector("flight to Lisbon"), atol=1e-6)


def test_a_seen_item_is_refused_for_the_next_best_or_for_nothing() -> None:
    """Catches an inferred behavior that the user has behind him."""
    lines = [Line("honey jar")]
    assert ids(lines) == ["i2"]
    near = grounder(0.2).ground(lines, ("i2",), ("honey jar",), catalogue(), 4)
    assert [one.item_id for one in near.behaviors] == ["i5"]
    assert ids([Line("camping tent")], ("i3",)) == []


def test_nothing_is_said_twice() -> None:
    """Catches one item, one text or a title of the log in two slots."""
    said = [Line("green tea"), Line("tea green"), Line("Lisbon flight"), Line("LISBON FLIGHT")]
    assert ids(said) == ["i0", ""]


def test_the_surest_come_first_and_slots_bound_them() -> None:
    """Catches behaviors in the model's order where rankers expect the most confident first."""
    lines = [Line("green tea", 0.3), Line("camping tent", 0.9), Line("sleeping bag", 0.6)]
    assert ids(lines) == ["i3", "i4", "i0"]
    assert ids(lines, slots=2) == ["i3", "i0"]


def test_the_catalogue_is_followed() -> None:
    """Catches an item that is named after its deletion, and one that came later and never is."""
    live, ground = catalogue(), grounder()
    line = [Line("camping tent")]
    assert ground.ground(line, (), (), live, 4).behaviors[0].item_id == "i3"
    live.remove(["i3"])
    assert ground.ground(line, (), (), live, 4).behaviors[0].item_id == ""
    live.upsert(["i9"], 3.0 * vector("camping tent")[None])
    assert ground.ground(line, (), (), live, 4).behaviors == (InferredBehavior("i9", pytest.approx(1.0)),)


def test_an_empty_catalogue_and_no_lines() -> None:
    """Catches an index error where nothing can be found."""
    empty = Catalogue.empty(ALIGNER.dims)
    assert grounder().ground([], (), (), empty, 4).behaviors == ()
    assert grounder().ground([Line("tea")], (), (), empty, 4).behaviors == (InferredBehavior("", 0.0, "tea"),)


def test_large_catalogues_are_searched_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches rows that shift where the cosines are computed piece by piece."""
    monkeypatch.setattr("models.text_diffusion.grounding._SCORES_AT_ONCE", 1)
    assert ids([Line("sleeping bag"), Line("green tea")]) == ["i4", "i0"]


def test_a_threshold_that_lets_removed_items_pass_is_refused() -> None:
    """Catches a threshold of 0, which the zero vector of a removed item reaches."""
    from models.text_diffusion.grounding import Grounder

    with pytest.raises(ValueError, match="threshold"):
        Grounder(ENCODER, ALIGNER, 0.0)
