"""The attribute catalogue: what its rows may look like, and whose attributes an item gets."""

from __future__ import annotations

import pytest

from processors.items.attribute_catalogue import MAX_ATTRIBUTES, AttributeCatalogue, CatalogueError

WDC = {
    "Category": "Home And Garden",
    "Attribute": "Width",
    "Human_Description": "How wide it is.",
    "Annotation_Guideline": "Longest substring.",
    "Normalization_instruction": "to centimeters",
    "Data_Types": '["Numeric with Unit"]',
}


def test_both_ways_to_name_the_columns_are_understood() -> None:
    """Catches a platform's catalogue refused for its headings."""
    [category] = AttributeCatalogue.from_rows([WDC]).categories
    [width] = category.attributes
    assert (width.name, width.definition, width.rule) == ("Width", "How wide it is.", "to centimeters")
    plain = {"category": "Home And Garden", "attribute": "Width", "definition": "How wide it is."}
    assert AttributeCatalogue.from_rows([plain]).categories[0].attributes[0].definition == "How wide it is."


def test_an_item_gets_its_most_special_category() -> None:
    """Catches a coat rack that is asked for its screen size."""
    rows = [{"category": name, "attribute": "A"} for name in ("Home", "Home > Kitchen & Bar", "Toys")]
    catalogue = AttributeCatalogue.from_rows(rows)
    for path, name in (
        (("Home",), "Home"),
        (("home", "Kitchen and bar"), "Home > Kitchen & Bar"),
        (("x", "TOYS"), "Toys"),
    ):
        found = catalogue.find(path)
        assert found is not None
        assert found.name == name
    assert catalogue.find(("Cars",)) is None
    assert catalogue.find(()) is None


def test_attributes_of_no_category_belong_to_all() -> None:
    """Catches a brand that is asked for nowhere."""
    rows = [{"category": "", "attribute": "Brand"}, {"category": None, "attribute": "Color"}]
    own = [{"category": "Toys", "attribute": "Age"}, {"category": "Toys", "attribute": "Color", "definition": "toy's"}]
    [toys] = AttributeCatalogue.from_rows([*rows, *own]).categories
    assert [(one.name, one.definition) for one in toys.attributes] == [("Brand", ""), ("Color", "toy's"), ("Age", "")]
    assert AttributeCatalogue.from_rows(rows).categories[0].name == ""


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "empty"),
        ([{"category": "a"}], "names no attribute"),
        ([{"category": "a", "attribute": " "}], "names no attribute"),
        ([WDC, WDC], "stands twice"),
        ([{"category": "a", "attribute": f"n{n}"} for n in range(MAX_ATTRIBUTES + 1)], "at most"),
    ],
)
def test_what_is_no_catalogue_is_refused_with_its_row(rows: list[dict[str, str]], message: str) -> None:
    """Catches a worker that starts with half of a catalogue."""
    with pytest.raises(CatalogueError, match=message):
        AttributeCatalogue.from_rows(rows)


def test_its_identity_follows_definitions() -> None:
    """Catches stale knowledge after an attribute was defined anew."""
    other = {**WDC, "Human_Description": "Broad."}
    assert AttributeCatalogue.from_rows([WDC]).fingerprint != AttributeCatalogue.from_rows([other]).fingerprint
