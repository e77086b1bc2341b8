"""Rules written for people, followed by code."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from processors.items.value_rules import allowed, normalizer

TO_CM = (
    "Convert and standardize the Width measurement to centimeters (cm). If no unit is specified, assume inches.\n"
    "For width ranges, use the larger value. Output a single numeric figure, rounded to one decimal place."
)
ONE_OF = "Give the Color as EXACTLY ONE of the following:\n- Black\n- Gray and Metallic\n-No Color/Transparent"
UNITS = "Replace 'GB' with 'Gigabytes', 'TB' with 'Terabytes'. Remove any hyphens between the value and the unit."


@pytest.mark.parametrize(
    ("rule", "value", "wanted"),
    [
        (TO_CM, '21"', "53.3"),
        (TO_CM, "8 1/2", "21.6"),
        (TO_CM, '32-3/8"', "82.2"),
        (TO_CM, '1/16"', "0.2"),
        (TO_CM, "27cm", "27.0"),
        (TO_CM, "450 mm", "45.0"),
        (TO_CM, "60yds", "5486.4"),
        (TO_CM, '73" - 84"', "213.4"),
        (TO_CM, "tall", None),
        ("Standardize Size/Weight to grams (g). Convert measurements to grams.", "20 oz", "567"),
        ("Convert from lbs to kilograms (KG), as a single numeric value in KG.", "28 lbs.", "12.7"),
        (UNITS, "900-GB", "900 Gigabytes"),
        (UNITS, "3 tb", "3 Terabytes"),
        (UNITS, "8 stones", None),
        ("Remove any non-alphanumeric characters from the Part Number.", "619463-001", "619463001"),
        ("Extract the Manufacturer Code from a Retail UPC by isolating digits 2 to 6.", "077914041641", "77914"),
        ("Extract the Manufacturer Code from a Retail UPC by isolating digits 2 to 6.", "12", None),
        ("Return the Brand in Uppercase Format", "Royal Albert", "ROYAL ALBERT"),
        ("Extract as a single numeric value. If it is given in 'K' (thousands), convert.", "7.2K", "7200"),
        ("Extract the Pack Quantity as a single numeric number.", "252/Pack", "252"),
        ("Extract the Pack Quantity as a single numeric number.", "Dozen", "12"),
        (ONE_OF, "jet black", "Black"),
        (ONE_OF, "graphite metallic", "Gray and Metallic"),
    ],
)
def test_values_take_the_form_their_rule_asks_for(rule: str, value: str, wanted: str | None) -> None:
    """Catches a width in inches beside one in centimetres; and a guess where the value does not fit."""
    normalize = normalizer(rule)
    assert normalize is not None
    assert normalize(value) == wanted


def test_a_rule_nobody_understands_leaves_the_value_alone() -> None:
    """Catches a normal form made up by code."""
    assert normalizer("") is None
    assert normalizer("Expand the Manufacturer Name if it is abbreviated.") is None


def test_meaning_decides_where_words_do_not() -> None:
    """Catches an allowed value picked at random, and one that is not allowed."""
    normalize = normalizer(ONE_OF, lambda value, options: options[-1] if value == "clear" else None)
    assert allowed(ONE_OF) == ("Black", "Gray and Metallic", "No Color/Transparent")
    assert normalize is not None
    assert normalize("clear") == "No Color/Transparent"
    assert normalize("???") is None


@given(st.sampled_from([TO_CM, UNITS, ONE_OF, "single numeric"]), st.text(max_size=40))
def test_any_value_is_survived(rule: str, value: str) -> None:
    """Catches a listing that stops a worker by its numbers."""
    normalize = normalizer(rule)
    assert normalize is not None
    assert normalize(value) is None or normalize(value)
