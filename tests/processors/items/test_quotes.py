"""A quote stands in a text, or it does not; and what is given back are the text's own words."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from processors.items.quotes import Source


@pytest.mark.parametrize(
    ("text", "quote", "found"),
    [
        ("Pasta  Sauce MEAT", "pasta sauce", "Pasta Sauce"),
        ('Shelf 21" deep', "21", '21"'),
        ('Shelf 21" deep', "21″", '21"'),
        ("Bar, 1.3oz", "1.3 oz", "1.3oz"),
        ("Cache 256MB", "256", "256MB"),
        ("8 1/2 x 11", "8 1/2", "8 1/2"),
        ('Drive HP 628183-001 "', "628183-001", "628183-001"),
        ('Part# 628183-001"', "628183-001", "628183-001"),
        ("hot-plug hard DriveFor servers", "hard drive", "hard Drive"),
        ("UPC: 084001042252INNER", "084001042252", "084001042252"),
        ("2-portsInt/4-ports Ext", "2-ports Int/4-ports Ext", "2-portsInt/4-ports Ext"),
        ("Werther’s Original", "werther's original", "Werther’s Original"),
        ("不锈钢保温杯 500ml", "保温杯", "保温杯"),
        ("３０ cm", "30 cm", "３０ cm"),
    ],
)
def test_space_case_marks_and_cut_units_do_not_matter(text: str, quote: str, found: str) -> None:
    """Catches true facts thrown away for a space, and values that lost their unit."""
    assert Source.of(text).find(quote) == found


@pytest.mark.parametrize(
    ("text", "quote"),
    [
        ("Model 331903-B21", "1"),
        ("Cottage cheese", "cot"),
        ("Scotch", "otc"),
        ("pasta sauce", "tomato sauce"),
        ("pasta", ""),
        ("pasta", " - "),
        ("a b", "a\nb c"),
        ("2.5 inch", "5 inc"),
    ],
)
def test_what_does_not_stand_there_whole_is_not_found(text: str, quote: str) -> None:
    """Catches "1" found in a part number: invention with a quote."""
    assert Source.of(text).find(quote) is None


def test_no_quote_reaches_from_one_field_into_the_next() -> None:
    """Catches a claim made of the end of the title and the start of the description."""
    assert Source.of("red apple", "juice box").find("apple juice") is None


@given(st.text(max_size=60), st.text(max_size=12))
def test_what_is_found_stands_in_the_text(text: str, quote: str) -> None:
    """Catches a place that leads back to the wrong characters."""
    source = Source.of(text)
    found = source.find(quote)
    assert found is None or found in source.text


@given(st.lists(st.sampled_from(["oak", "12", "7.5", "cm", "Größe", "茶", "x-9"]), min_size=1, max_size=6), st.data())
def test_a_run_of_whole_words_is_always_found(words: list[str], data: st.DataObject) -> None:
    """Catches a quote that is copied faithfully and still refused."""
    begin = data.draw(st.integers(0, len(words) - 1))
    end = data.draw(st.integers(begin + 1, len(words)))
    assert Source.of(" ".join(words)).find(" ".join(words[begin:end])) is not None
